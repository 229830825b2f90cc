"""What a gate answers: any body into a `Reply`, and the data of a good one into values.

Tolerant by intent: envelope, bare body, HTML of a proxy or nothing at all; only what a caller cannot do
without is demanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from pydantic_core import from_json

from langchain_vluna._core.errors import GateProtocolError
from langchain_vluna._core.types import (
    BatchOutcome,
    Commit,
    CommitLine,
    Hint,
    HttpResponse,
    Identity,
    Lease,
    Limits,
    Preflight,
)

__all__ = [
    "ROLLED_BACK",
    "Reply",
    "parse_batch",
    "parse_cancel",
    "parse_commit",
    "parse_lease",
    "parse_limits",
    "parse_preflight",
    "read_reply",
]

ROLLED_BACK = "ROLLED_BACK"
"""`error_type` of a batch item that was fine but went down with a broken one."""

_POISON = "SERVER.ERROR"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the gate, whatever form it had."""

    status: int
    ok: bool
    """Success by status, and a body that does not contradict it."""
    data: Any = field(default=None, repr=False)
    code: str | None = None
    message: str | None = None
    hints: tuple[Hint, ...] = ()
    retry_after: float | None = None
    """Seconds the gate asks to wait; read of refusals only."""

    @property
    def signature_mismatch(self) -> bool:
        """Whether this is the one answer that a wrong signature generation gets (a wrong secret gets it too)."""
        return self.status == 401 and "signature mismatch" in (self.message or "").lower()  # noqa: PLR2004


def read_reply(response: HttpResponse, now: datetime) -> Reply:
    """Read an answer; `now` turns points in time into seconds to wait."""
    body = _json(response.content)
    success = 200 <= response.status < 300  # noqa: PLR2004
    if not isinstance(body, dict):
        return Reply(response.status, ok=success and body is not None, data=body)
    hints = _hints(body.get("hints"))
    return Reply(
        response.status,
        ok=success and body.get("ok") is not False,
        data=body.get("data", body),
        code=_text(body.get("code")),
        message=_text(body.get("message")) or _text(_mapping(body.get("error")).get("details")),
        hints=hints,
        retry_after=None if success else _advice(response, body, hints, now),
    )


def parse_lease(reply: Reply, identity: Identity) -> Lease:
    """Return the lease that authorize granted."""
    data = _mapping(reply.data)
    handle = _text(data.get("lease_token")) or _text(data.get("lease"))
    feature_code = _text(data.get("feature_code"))
    if handle is None or feature_code is None:
        _incomplete("authorize", "no lease", reply)
    return Lease(
        handle,
        feature_code,
        identity,
        lease_id=_text(data.get("lease_id")),
        feature_family_code=_text(data.get("feature_family_code")),
        window_start=_text(data.get("window_start")),
        window_end=_text(data.get("window_end")),
        hints=reply.hints,
    )


def parse_commit(reply: Reply) -> Commit:
    """Return what a commit or an ingest was recorded as."""
    commit = _commit(_mapping(reply.data), reply.hints)
    if commit.commit_id is None and commit.amount_xusd is None:
        _incomplete("commit", "neither commit_id nor amount", reply)
    return commit


def parse_cancel(reply: Reply) -> bool:
    """Return whether the lease was active until now."""
    cancelled = _mapping(reply.data).get("cancelled")
    if not isinstance(cancelled, bool):
        _incomplete("cancel", "no flag", reply)
    return cancelled


def parse_batch(reply: Reply, count: int) -> list[BatchOutcome]:
    """Return the outcome of each of `count` items, in their order.

    One item that breaks the gate's database takes the whole batch with it, although the items before it
    read `committed`. These come back as `failed` with the type `ROLLED_BACK`: send them again under a new
    batch key and their own item keys, without the broken item.
    """
    entries = _mapping(reply.data).get("items")
    outcomes = {
        outcome.index: outcome for outcome in map(_outcome, range(count), entries if isinstance(entries, list) else ())
    }
    if outcomes.keys() != set(range(count)):
        _incomplete("batch", f"{len(outcomes)} of {count} outcomes", reply)
    ordered = [outcomes[index] for index in range(count)]
    broken = next((o.index for o in ordered if o.error_type == _POISON), None)
    if broken is None:
        return ordered
    undone = f"rolled back with item {broken}; send it again under a new batch key"
    return [
        BatchOutcome(o.index, "failed", error_type=ROLLED_BACK, error_details=undone) if o.error_type is None else o
        for o in ordered
    ]


def parse_preflight(reply: Reply) -> Preflight:
    """Return what authorize would have said."""
    data = _mapping(reply.data)
    feature_code = _text(data.get("feature_code"))
    if feature_code is None:
        _incomplete("preflight", "no feature", reply)
    return Preflight(
        feature_code,
        feature_family_code=_text(data.get("feature_family_code")),
        window_start=_text(data.get("window_start")),
        window_end=_text(data.get("window_end")),
        hints=reply.hints,
    )


def parse_limits(reply: Reply) -> list[Limits]:
    """Return the limits of each feature."""
    data = reply.data
    entries = data if isinstance(data, list) else _mapping(data).get("items")
    if not isinstance(entries, list):
        _incomplete("limits", "no list", reply)
    return [
        Limits(
            feature_code,
            feature_family_code=_text(entry.get("feature_family_code")),
            unit=_text(entry.get("unit")),
            quotas=_mappings(entry.get("quotas")),
            rates=_mappings(entry.get("rates")),
            meters=_mappings(entry.get("meters")),
        )
        for entry in map(_mapping, entries)
        if (feature_code := _text(entry.get("feature_code"))) is not None
    ]


def _commit(data: Mapping[str, Any], hints: tuple[Hint, ...]) -> Commit:
    lines = data.get("lines")
    return Commit(
        _text(data.get("commit_id")),
        _integer(data.get("amount_xusd")),
        lines=tuple(map(_line, lines)) if isinstance(lines, list) else (),
        hints=hints,
        budget_id=_text(data.get("budget_id")),
    )


def _line(value: object) -> CommitLine:
    data = _mapping(value)
    priced = data.get("rating_status") != "missing_price"
    return CommitLine(
        _text(data.get("meter_code")) or "",
        _integer(data.get("quantity_minor")) or 0,
        _integer(data.get("amount_xusd")) if priced else None,
        _integer(data.get("unit_price_xusd")) if priced else None,
    )


def _outcome(position: int, value: object) -> BatchOutcome:
    data = _mapping(value)
    commit, error = data.get("commit"), _mapping(data.get("error"))
    index = _integer(data.get("index"))
    return BatchOutcome(
        position if index is None else index,
        _text(data.get("status")) or "failed",
        commit=_commit(commit, ()) if isinstance(commit, dict) else None,
        error_type=_text(error.get("type")),
        error_details=_text(error.get("details")),
    )


def _incomplete(verb: str, what: str, reply: Reply) -> NoReturn:
    msg = f"the gate answered {verb} with status {reply.status} but {what}; is the base URL a gate's?"
    raise GateProtocolError(msg, status=reply.status, code=reply.code, hints=reply.hints)


def _advice(response: HttpResponse, body: Mapping[str, Any], hints: tuple[Hint, ...], now: datetime) -> float | None:
    for hint in hints:
        if hint.type == "rate.limit":
            # Seconds first: the point in time depends on two clocks.
            seconds = _seconds(hint.fields.get("seconds"))
            return _seconds_until(hint.fields.get("until"), now) if seconds is None else seconds
    header = response.headers.get("retry-after")
    if header is not None:
        seconds = _seconds(header)
        return _seconds_until(header, now) if seconds is None else seconds
    error = _mapping(body.get("error"))
    return _seconds(error.get("retry_after", body.get("retry_after")))


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _seconds_until(value: object, now: datetime) -> float | None:
    if not isinstance(value, str):
        return None
    from email.utils import parsedate_to_datetime

    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(value)
        except ValueError:
            continue
        return max(0.0, ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds())
    return None


def _hints(value: object) -> tuple[Hint, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        Hint(entry["type"], {name: field for name, field in entry.items() if name != "type"})
        for entry in value
        if isinstance(entry, dict) and isinstance(entry.get("type"), str)
    )


def _json(content: bytes) -> Any:
    try:
        return from_json(content)
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
        return int(value)
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list):
        return ()
    return tuple(entry if isinstance(entry, dict) else {"meter_code": entry} for entry in value)
