"""The journal: who asked what and got which answer, newest entries last.

An entry about the ledger is written in the transaction that it tells of, so that both are there or neither. A
refusal undoes its own transaction and is written after it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import from_json

from langchain_vluna._core.ledger.answers import canonical_json
from langchain_vluna._core.ledger.fields import is_uuid
from langchain_vluna._core.ledger.fields import labels as normal_labels
from langchain_vluna._core.ledger.model import Refusal, Rules
from langchain_vluna._core.types import HttpRequest
from langchain_vluna._io import forks
from langchain_vluna._io.local.auth import normal_headers
from langchain_vluna._io.local.store import Busy, Store
from langchain_vluna._io.local.tables import Tables

__all__ = ["Journal", "Kind", "Witness", "stated"]

Kind = Literal[
    "authorized",
    "denied",
    "committed",
    "quarantined",
    "ingested",
    "canceled",
    "too_late",
    "checked",
    "replayed",
    "refused",
    "failed",
    "fault",
    "changed",
]
"""`too_late` is a cancel of a lease that had ended; `checked` a dry run; `changed` is the operator's doing."""

_DENIALS: Final = frozenset({402, 429})
_FORBIDDEN: Final = 403
_SERVER_ERROR: Final = 500
_LONGEST: Final = 200
_WAITING: Final = 1000
_NO_LABELS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Witness:
    """Writes down what becomes of one request."""

    at_ms: int
    verb: str
    principal: str = ""
    user: str = ""
    key: str = ""

    def saw(
        self,
        tables: Tables,
        kind: Kind,
        *,
        feature: str | None = None,
        lease: str | None = None,
        rating: int | None = None,
        status: int = 200,
        code: str = "OK",
        message: str = "",
        key: str | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
        hints: Sequence[Mapping[str, Any]] = (),
        estimate: int | None = None,
    ) -> None:
        detail: dict[str, Any] = {}
        if hints:
            detail["hints"] = hints
        if labels:
            labels = {name[:_LONGEST]: value[:_LONGEST] for name, value in labels.items()}
            if rating is None:
                detail["labels"] = labels
        if estimate is not None:
            detail["estimate"] = estimate
        tables.add_entry(
            (
                *(
                    self.at_ms,
                    kind,
                    self.verb,
                    self.principal,
                    self.user,
                    feature,
                    lease,
                    rating,
                    status,
                    code,
                    message,
                ),
                *(self.key if key is None else key, labels.get("run_id"), labels.get("root_run_id")),
                *(labels.get("thread_id"), canonical_json(detail) if detail else "{}"),
            )
        )

    def saw_refusal(self, tables: Tables, refusal: Refusal, said: Mapping[str, Any]) -> None:
        """Write down a refusal and what the body `said` of itself."""
        self.saw(
            tables,
            _kind(refusal),
            **said,
            status=refusal.status,
            code=refusal.code,
            message=_clean(refusal.message),
            hints=refusal.hints,
        )


class Journal:
    """Writes down what has no transaction of its own: refusals and faults."""

    def __init__(self, store: Store, *, rules: Rules, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._rules = rules
        self._now_ms = now_ms
        self._waiting: deque[Callable[[Tables], None]] = deque(maxlen=_WAITING)
        self._lock = forks.Lock()

    def refused(self, request: HttpRequest, verb: str | None, refusal: Refusal) -> None:
        witness, said = self._witness(request, verb), stated(_body(request.content), self._rules)
        self._write(lambda tables: witness.saw_refusal(tables, refusal, said))

    def fault(self, request: HttpRequest, verb: str, what: str) -> None:
        witness, said = self._witness(request, verb), stated(_body(request.content), self._rules)
        self._write(lambda tables: witness.saw(tables, "fault", **said, status=0, code="", message=what))

    def _write(self, entry: Callable[[Tables], None]) -> None:
        """Write it now or, where that cannot be, with the next one: an entry neither delays nor spoils an answer."""
        with self._lock:
            self._waiting.append(entry)
            try:
                with self._store.transaction() as connection:
                    tables = Tables(connection)
                    for waiting in self._waiting:
                        waiting(tables)
            except (Busy, sqlite3.Error):
                return
            self._waiting.clear()

    def _witness(self, request: HttpRequest, verb: str | None) -> Witness:
        """Read what a request says of itself, which nobody may have verified."""
        headers = normal_headers(request.headers)
        return Witness(
            self._now_ms(),
            verb or _clean(f"{request.method} {request.target}"),
            *(_clean(headers.get(name, "")) for name in ("x-principal-id", "x-user-id", "idempotency-key")),
        )


def stated(body: object, rules: Rules) -> dict[str, Any]:
    """Return what a refused body says of itself, as far as it can be read."""
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    try:
        labels = normal_labels(fields.get("labels"), rules)
    except Refusal:
        labels = {}
    said: dict[str, Any] = {"labels": {_clean(name): _clean(value) for name, value in labels.items()}}
    for name, field in (("feature", "feature_code"), ("key", "idempotency_key")):
        if isinstance(fields.get(field), str):
            said[name] = _clean(fields[field])
    handle = fields.get("lease_token", fields.get("lease"))
    lease_id = handle.removeprefix("lease.").partition(".")[0] if isinstance(handle, str) else None
    return said | {"lease": lease_id if is_uuid(lease_id) else None}


def _kind(refusal: Refusal) -> Kind:
    if refusal.status >= _SERVER_ERROR:
        return "failed"
    not_entitled = refusal.status == _FORBIDDEN and refusal.code.startswith("ENTITLEMENT.")
    return "denied" if not_entitled or refusal.status in _DENIALS else "refused"


def _clean(text: str) -> str:
    """Return text of a refused request that a database takes: JSON may bring halves of characters, and megabytes."""
    return text[:_LONGEST].encode(errors="replace").decode()


def _body(content: bytes) -> object:
    try:
        return from_json(content) if content else None
    except ValueError:
        return None
