"""From the bytes of a request to the bytes of its answer: routes, JSON, authentication, one transaction."""

from __future__ import annotations

import functools
import logging
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qs

from pydantic_core import from_json, to_json

from langchain_vluna._core.ledger.answers import failure, success
from langchain_vluna._core.ledger.model import Form, Refusal, Rules, iso
from langchain_vluna._core.types import HttpRequest, HttpResponse, Verb
from langchain_vluna._io.local.auth import Caller, Generation, UnknownRealm, Verifier, normal_headers
from langchain_vluna._io.local.journal import Journal, Witness
from langchain_vluna._io.local.memory import Memory
from langchain_vluna._io.local.settling import Settling
from langchain_vluna._io.local.store import Store
from langchain_vluna._io.local.tables import Tables
from langchain_vluna._io.local.verbs import Answer

__all__ = ["PREFIX", "Router", "response", "verb_of"]

PREFIX: Final = "/mgt/v1"

logger = logging.getLogger("langchain_vluna")

_HEADERS: Final = {"content-type": "application/json; charset=utf-8"}
_LONGEST_BODY: Final = 1024 * 1024

_POST: Final[Mapping[str, Verb]] = {
    "/gate/authorize": "authorize",
    "/gate/commits": "commit",
    "/gate/commits/batch": "batch",
    "/gate/ingest": "ingest",
    "/gate/cancel": "cancel",
    "/gate/preflight": "preflight",
}
_GET: Final = {"/gate/limits": "limits", "/gate/meters": "meters", "/wallet/balance": "balance"}
_GONE: Final[Mapping[Generation | None, frozenset[str]]] = {
    "tutorial": frozenset({"preflight"}),
    "user": frozenset({"preflight"}),
    "lease": frozenset({"cancel"}),
    None: frozenset(),
}


@functools.lru_cache(maxsize=64)
def verb_of(method: str, target: str) -> str | None:
    """Return the verb of a request, `None` where there is no such route."""
    path = target.partition("?")[0].removesuffix("/")
    if not path.startswith(PREFIX):
        return None
    routes = {"POST": _POST, "GET": _GET}.get(method.upper(), {})
    return routes.get(path.removeprefix(PREFIX))


@dataclass(frozen=True, slots=True)
class _Call:
    verb: str
    body: Mapping[str, Any]
    fingerprint: str
    target: str
    key: str
    form: Form


class Router:
    """Answers requests. Whatever goes wrong with a request is an answer too; only `Busy` is raised."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        *,
        verifier: Verifier,
        generation: Generation | None,
        rules: Rules,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._journal = journal
        self._verifier = verifier
        self._generation: Generation | None = generation
        self._rules = rules
        self._now_ms = now_ms
        self._memory = Memory()

    def answer(self, request: HttpRequest, *, wait: float) -> HttpResponse:
        verb = verb_of(request.method, request.target)
        try:
            return self._answer(request, verb, wait)
        except Refusal as refusal:
            if request.target.startswith(PREFIX):
                self._journal.refused(request, verb, refusal)
            return response(refusal.status, failure(refusal, *self._details(refusal, verb)))

    def _answer(self, request: HttpRequest, verb: str | None, wait: float) -> HttpResponse:
        if request.method == "GET" and request.target == "/health":
            return response(200, b'{"status":"ok"}')
        if verb is None or verb in _GONE[self._generation]:
            raise Refusal(404, "RESOURCE.NOT_FOUND", f"Cannot {request.method} {request.target}")
        body, fingerprint = _parse(request)
        headers = normal_headers(request.headers)
        caller = self._verifier.verify(request.method, request.target, headers, request.content)
        key = headers.get("idempotency-key", "")
        if request.method == "POST" and not key:
            raise Refusal(400, "VALIDATION.INVALID_INPUT", "missing_idempotency_key")
        form = self._form(verb, caller, body)
        call = _Call(verb, body, fingerprint, request.target, key, form)
        try:
            answer = self._perform(call, caller, wait)
        except sqlite3.Error as error:
            logger.exception("the local gate's database failed during %s", verb)
            raise Refusal.unexpected() from error
        extra = {"trace_id": secrets.token_hex(16), "meta": {"status": 200}} if form == "lease" else None
        return response(200, success(answer.data, answer.hints, extra))

    def _perform(self, call: _Call, caller: Caller, wait: float) -> Answer:
        now_ms = self._now_ms()
        if self._rules.server_flaws:
            self._meet(caller, wait)
        with self._store.transaction(wait=wait) as connection:
            tables = Tables(connection, self._memory)
            account = tables.account(caller.principal_id, caller.user_id)
            witness = Witness(now_ms, call.verb, caller.principal_id, caller.user_id or "", call.key)
            verbs = Settling(tables, witness, account=account, form=call.form, now_ms=now_ms, rules=self._rules)
            return _dispatch(verbs, call)

    def _meet(self, caller: Caller, wait: float) -> None:
        """Fail the first request ever of a principal, once, as the server does."""
        with self._store.transaction(wait=wait) as connection:
            tables = Tables(connection)
            known = tables.known_account(caller.principal_id, caller.user_id)
            tables.account(caller.principal_id, caller.user_id)
        if not known:
            raise Refusal.unexpected()

    def _form(self, verb: str, caller: Caller, body: Mapping[str, Any]) -> Form:
        """Tell the names in use; a gate for all generations goes by what a request itself shows."""
        if self._generation is not None:
            return "lease" if self._generation == "lease" else "lease_token"
        if caller.version == "v1":
            return "lease_token"
        items = body.get("items")
        shown = [body, *(items if verb == "batch" and isinstance(items, list) else [])]
        # Only a body that names neither a lease nor a budget could be of two generations: both find what they look for.
        named = any(isinstance(part, Mapping) and ("lease" in part or "budget" in part) for part in shown)
        if named or verb == "preflight":
            return "lease"
        return "either" if verb == "authorize" and "budget_id" not in body else "lease_token"

    def _details(self, refusal: Refusal, verb: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what an error envelope has besides: in `meta`, and beside it."""
        meta = dict(refusal.meta) if isinstance(refusal, UnknownRealm) else {}
        if self._generation != "lease":
            return meta, {}
        if verb == "preflight":
            meta["as_of"] = iso(self._now_ms())
        return meta, {"trace_id": secrets.token_hex(16)}


def _dispatch(verbs: Settling, call: _Call) -> Answer:
    keyed = {
        "authorize": verbs.authorize,
        "commit": verbs.commit,
        "batch": verbs.batch,
        "ingest": verbs.ingest,
        "cancel": verbs.cancel,
    }
    if call.verb in keyed:
        return keyed[call.verb](call.body, call.key, call.fingerprint)
    if call.verb == "preflight":
        return verbs.preflight(call.body)
    if call.verb == "limits":
        return verbs.limits(parse_qs(call.target.partition("?")[2]).get("feature_code", [None])[0])
    return verbs.balance() if call.verb == "balance" else verbs.meters()


def _parse(request: HttpRequest) -> tuple[Mapping[str, Any], str]:
    """Return the body and what a key stands for: its JSON in the order of its fields, blanks aside."""
    if request.method == "GET":
        return {}, ""
    if len(request.content) > _LONGEST_BODY:
        raise Refusal(413, "SERVER.UNEXPECTED", "Request body is too large")
    if not request.content:
        message = "Body cannot be empty when content-type is set to 'application/json'"
        raise Refusal(400, "VALIDATION.INVALID_INPUT", message)
    try:
        body = from_json(request.content, allow_inf_nan=False)
        text = to_json(body)
    except ValueError:
        message = "Body is not valid JSON but content-type is set to 'application/json'"
        raise Refusal(400, "VALIDATION.INVALID_INPUT", message) from None
    return body if isinstance(body, Mapping) else {}, blake2b(text, digest_size=16).hexdigest()


def response(status: int, content: bytes) -> HttpResponse:
    return HttpResponse(status, _HEADERS, content)
