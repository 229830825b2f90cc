"""`fault`: bad days for a gate that `serve` runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

import typer

from langchain_vluna._core.errors import ConfigurationError, GateUnavailable, TransportFailure
from langchain_vluna._core.types import HttpRequest
from langchain_vluna._io.local import FaultKind
from langchain_vluna._io.transport import HttpTransport
from langchain_vluna.cli.options import Json
from langchain_vluna.cli.output import emit, table

__all__ = ["fault"]

_SERVER = "http://127.0.0.1:3002"
_TIMEOUT = 5.0
_GOOD = 300
_FOREVER = 2**31

Kind = StrEnum("Kind", [(name.upper(), name) for name in (*get_args(FaultKind), "outage", "skew", "expire", "none")])  # type: ignore[misc]  # mypy reads lists, not what fills them


def fault(
    *,
    kind: Annotated[
        Kind | None,
        typer.Argument(help="What goes wrong; shows what is armed by default.", show_default=False),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="VERB", help="Which calls: authorize, commit, ...; * is all.")
    ] = "*",
    times: Annotated[int, typer.Option(min=1, help="How many calls.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(help="Length of a delay or a skew, or the wait that a 429 advises.", show_default=False),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="Where the gate runs; by default VLUNA_SERVICE_BASE_URL, or port 3002.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let calls of a gate that `serve` runs go wrong."""
    with closing(_Page(server or os.environ.get("VLUNA_SERVICE_BASE_URL") or _SERVER)) as page:
        match kind and kind.value:
            case None:
                pass
            case "none":
                page.ask("DELETE", "faults")
            case "skew":
                page.ask("POST", "clock", {"advance_seconds": _needed(seconds)})
            case "expire":
                page.ask("POST", "expiry", {})
            case "outage":
                page.ask("POST", "faults", {"kind": "reset", "on": on, "times": _FOREVER})
            case named:
                page.ask("POST", "faults", {"kind": named, "on": on, "times": times, "seconds": seconds})
        summary = page.ask("GET", "summary")
    data = {"faults": summary["faults"], "ahead_seconds": summary["ahead_seconds"]}
    armed = [(one["kind"], one["on"], one["remaining"], one["seconds"]) for one in data["faults"]]
    clock = f"the clock is {data['ahead_seconds']:g} s ahead" if data["ahead_seconds"] else None
    emit(data, lambda: table(("kind", "on", "calls left>", "seconds>"), armed, title=clock), as_json=as_json)


def _needed(seconds: float | None) -> float:
    if seconds is None:
        msg = "a skew needs its length: langchain-vluna fault skew --seconds 3600"
        raise ConfigurationError(msg)
    return seconds


class _Page:
    """The API of the page that a served gate has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = f"{parts.scheme}://{parts.netloc}"
        self._transport = HttpTransport(self._url)

    def close(self) -> None:
        self._transport.close()

    def ask(self, method: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/json", "x-vluna-page": "cli"}
        content = b"" if body is None else json.dumps(body).encode()
        try:
            answer = self._transport.send(HttpRequest(method, f"/ui/api/{what}", headers, content, timeout=_TIMEOUT))
        except TransportFailure as failure:
            msg = (
                f"no gate answers at {self._url}: {failure}; start one with langchain-vluna serve, or name it: --server"
            )
            raise GateUnavailable(msg) from failure
        try:
            said = json.loads(answer.content)
        except ValueError:
            said = None
        if answer.status >= _GOOD or not isinstance(said, dict):
            why = said.get("error") if isinstance(said, dict) else None
            why = why or "it is no gate that langchain-vluna serve runs"
            msg = f"{self._url} refuses [{answer.status}]: {why}"
            raise ConfigurationError(msg)
        return said
