"""The OpenAPI document of this server: the gate's wire in its generations, and the API of the page."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from langchain_vluna._io.local.routing import PREFIX
from langchain_vluna.server import models, schemas
from langchain_vluna.server.guard import API, HEADER

__all__ = ["document", "route"]

Schema = Mapping[str, Any]

_READS: Final[Mapping[str, tuple[str, type[BaseModel] | None]]] = {
    "summary": ("Totals, the clock, armed faults", None),
    "journal": ("Who asked what and got which answer, newest first", models.JournalQuery),
    "customers": ("Wallets, the biggest spenders first", models.RowQuery),
    "leases": ("Leases, newest first", models.LeaseQuery),
    "spend": ("What was charged over time, by feature, model or customer", models.SpendQuery),
    "catalogue": ("Meters with prices, quotas and rates", None),
}
_CHANGES: Final[Mapping[str, tuple[str, type[BaseModel]]]] = {
    "grants": ("Give money", models.Grant),
    "withdrawals": ("Take back what is left", models.Withdrawal),
    "prices": ("Set a price, or none", models.NewPrice),
    "policies": ("Set or lift a quota or a rate", models.NewPolicy),
    "faults": ("Arm a fault", models.NewFault),
    "clock": ("Move the gate's clock", models.Clock),
    "expiry": ("Let leases expire now", models.Expiry),
}


def route() -> Route:
    async def send(_: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(document))

    return Route("/openapi.json", send, methods=["GET"])


@functools.cache
def document() -> dict[str, Any]:
    paths: dict[str, Any] = {"/health": {"get": _operation("Whether the server lives", ["gate"], {"200": "alive"})}}
    for verb, body in schemas.VERBS.items():
        paths[f"{PREFIX}/gate/{verb}"] = {"post": _gate_call(verb, body)}
    for name, parameters in schemas.LISTS.items():
        operation = _operation(f"The list of {name}", ["gate"], schemas.ANSWERS)
        signed = schemas.signed_headers(with_key=False)
        paths[f"{PREFIX}/gate/{name}"] = {"get": operation | {"parameters": [*signed, *parameters]}}
    for name, (summary, query) in _READS.items():
        paths[API + name] = {"get": _question(summary, query)}
    paths[f"{API}stream"] = {"get": _question("The journal as it grows, as server-sent events", models.Follow)}
    for name, (summary, body_model) in _CHANGES.items():
        paths.setdefault(API + name, {})["post"] = _change(summary, body_model.__name__)
    paths[f"{API}faults"]["delete"] = _change("Disarm all faults", None)
    for name in ("/", "/openapi.json"):
        paths[name] = {"get": _operation("The page" if name == "/" else "This document", ["page"], {"200": "OK"})}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Local usage gate", "version": version("langchain-vluna")},
        "tags": [
            {"name": "gate", "description": "The wire of a usage gate, signed. Amounts are strings of digits."},
            {"name": "page", "description": "For the page and this machine only. Amounts are JSON numbers of XUSD."},
        ],
        "paths": paths,
        "components": {"schemas": {**schemas.COMPONENTS, **_components()}},
    }


def _components() -> dict[str, Any]:
    return {
        model.__name__: model.model_json_schema(ref_template="#/components/schemas/{model}")
        for _, model in _CHANGES.values()
    }


def _gate_call(verb: str, body: Schema) -> dict[str, Any]:
    operation = _operation(schemas.SUMMARIES[verb], ["gate"], schemas.ANSWERS)
    return operation | {"parameters": schemas.signed_headers(with_key=True), "requestBody": _json_body(body)}


def _question(summary: str, query: type[BaseModel] | None) -> dict[str, Any]:
    answers = {"200": "OK", "400": "A parameter is not possible", "403": "Not from this machine, or another website"}
    operation = _operation(summary, ["page"], answers)
    properties: Schema = {} if query is None else query.model_json_schema()["properties"]
    return operation | {
        "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    }


def _change(summary: str, model: str | None) -> dict[str, Any]:
    answers = {"200": "Done", "400": "Not possible, and why", "403": "Not from this machine, or another website"}
    operation = _operation(summary, ["page"], answers)
    operation["parameters"] = [{"name": HEADER, "in": "header", "required": True, "schema": {"type": "string"}}]
    if model is not None:
        operation["requestBody"] = _json_body({"$ref": f"#/components/schemas/{model}"})
    return operation


def _operation(summary: str, tags: list[str], answers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "summary": summary,
        "tags": tags,
        "responses": {status: {"description": description} for status, description in answers.items()},
    }


def _json_body(schema: Schema) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
