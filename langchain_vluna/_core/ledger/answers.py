"""Answers in the words of the wire: data of each verb, and the envelopes of success and refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json, to_json

from langchain_vluna._core.ledger.model import Form, HeldLease, Line, Price, Refusal, iso

__all__ = [
    "balance_data",
    "cancel_data",
    "canonical_json",
    "commit_data",
    "failure",
    "lease_data",
    "parse_lines",
    "stored_lines",
    "success",
]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NO_FINGERPRINT = ""


def canonical_json(value: object) -> str:
    """Return compact JSON; the order of fields is kept, because it is part of what a key stands for."""
    return to_json(value).decode()


def success(data: object, hints: Iterable[Mapping[str, Any]] = (), extra: Mapping[str, Any] | None = None) -> bytes:
    envelope: dict[str, Any] = {"ok": True, "code": "OK", "data": data, **(extra or {})}
    if hints:
        envelope["hints"] = list(hints)
    return to_json(envelope)


def failure(refusal: Refusal, meta: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None) -> bytes:
    """Return the production envelope; a 500 has no meta."""
    envelope: dict[str, Any] = {"ok": False, "code": refusal.code, "message": refusal.message}
    if refusal.status < 500:  # noqa: PLR2004 -- server errors
        envelope["meta"] = {"status": refusal.status, **(meta or {})}
    if refusal.hints:
        envelope["hints"] = list(refusal.hints)
    return to_json({**envelope, **(extra or {})})


def lease_data(lease: HeldLease, form: Form) -> dict[str, Any]:
    data: dict[str, Any] = (
        {"lease": lease.handle} if form == "lease" else {"lease_token": lease.handle, "lease_id": lease.lease_id}
    )
    if form == "either":
        data["lease"] = lease.handle
    if lease.budget_id is not None:
        data["budget_id"] = lease.budget_id
    end = lease.window_start_ms + lease.window_sec * 1000
    return {
        **data,
        "feature_code": lease.feature_code,
        "feature_family_code": lease.family,
        "window_start": iso(lease.window_start_ms),
        "window_end": iso(end),
    }


def balance_data(account_id: int, *, available: int, uncovered: int, now_ms: int) -> dict[str, Any]:
    """Return a wallet in the words of all generations; the older ones call what can be spent `balances`."""
    left, owed, as_of = {"xusd": str(available)}, {"xusd": str(uncovered)}, iso(now_ms)
    return {
        "billing_account_id": str(account_id),
        "billing_user_id": str(account_id),
        "as_of": as_of,
        "balances": left,
        "available_balance": left,
        "outstanding_balances": owed,
        "outstanding_balance": owed,
        "conversion": {"as_of": as_of, "usd_per_xusd": "0.000001"},
        "grants": [],
    }


def cancel_data(*, cancelled: bool, now_ms: int) -> dict[str, Any]:
    digits, rest = "", now_ms
    while rest:
        rest, digit = divmod(rest, 36)
        digits = _DIGITS[digit] + digits
    return {"cancelled": cancelled, "released_cap": "0", "trace_id": f"cancel_{digits}"}


def commit_data(
    commit_id: str,
    lines: Sequence[Line],
    *,
    feature_code: str,
    amount_xusd: int,
    cost_xusd: int,
    budget_id: str | None,
    rated_ms: int,
    form: Form,
) -> dict[str, Any]:
    rated_at = iso(rated_ms)
    data: dict[str, Any] = {"commit_id": commit_id}
    if budget_id is not None:
        data["budget_id"] = budget_id
    return {
        **data,
        "amount_xusd": str(amount_xusd),
        "cost_xusd": str(cost_xusd),
        "lines": [
            _rational_line(line, feature_code, rated_at) if form == "lease" else _line(line, rated_at) for line in lines
        ],
    }


def _line(line: Line, rated_at: str) -> dict[str, Any]:
    price = line.price
    unit_price, unit_cost, per = (0, 0, 1) if price is None else (price.xusd, price.cost_xusd, price.per)
    rounding = "nearest" if price is None else price.rounding
    fingerprint = _NO_FINGERPRINT if price is None else price.fingerprint
    snapshot = {
        "computed_at": rated_at,
        "unit": line.unit,
        "fingerprint": fingerprint,
        "unit_price_xusd": str(unit_price),
        "unit_quantity_minor": str(per),
        "rounding": rounding,
    }
    return {
        "line_id": line.line_id,
        "meter_code": line.meter_code,
        "quantity_minor": str(line.quantity),
        "unit_price_xusd": str(unit_price),
        "amount_xusd": str(line.amount_xusd),
        "pricing_snapshot": snapshot,
        "pricing_fingerprint": fingerprint,
        "cost_xusd": str(line.cost_xusd),
        "unit_cost_xusd": str(unit_cost),
        "cost_unit_quantity_minor": str(per),
        "cost_rounding": rounding,
        "cost_snapshot": {**snapshot, "unit_price_xusd": str(unit_cost)},
        "cost_fingerprint": fingerprint,
    }


def _rational_line(line: Line, feature_code: str, rated_at: str) -> dict[str, Any]:
    """Return a line as generation `lease` shapes it; the amount is rated in blocks, as in the older generations."""
    head = {"line_id": line.line_id, "meter_code": line.meter_code, "quantity_minor": str(line.quantity)}
    price = line.price
    if price is None:
        return {
            "rating_status": "missing_price",
            **head,
            "amount_xusd": "0",
            "pricing_snapshot": _missing_snapshot(line, feature_code, rated_at, "revenue"),
            "pricing_fingerprint": _NO_FINGERPRINT,
            "cost_xusd": "0",
            "cost_snapshot": _missing_snapshot(line, feature_code, rated_at, "cost"),
            "cost_fingerprint": _NO_FINGERPRINT,
        }
    identity = f"{line.meter_code}:{price.version}"
    return {
        "rating_status": "priced",
        **head,
        "unit_price_xusd": str(price.xusd),
        "unit_quantity_minor": str(price.per),
        "rate_identity": identity,
        "amount_xusd": str(line.amount_xusd),
        "pricing_snapshot": _rational_snapshot(line, rated_at, price, "revenue"),
        "pricing_fingerprint": price.fingerprint,
        "cost_xusd": str(line.cost_xusd),
        "unit_cost_xusd": str(price.cost_xusd),
        "cost_unit_quantity_minor": str(price.per),
        "cost_rate_identity": identity,
        "cost_snapshot": _rational_snapshot(line, rated_at, price, "cost"),
        "cost_fingerprint": price.fingerprint,
    }


def _rational_snapshot(line: Line, rated_at: str, price: Price, kind: str) -> dict[str, Any]:
    unit, amount = (price.xusd, line.amount_xusd) if kind == "revenue" else (price.cost_xusd, line.cost_xusd)
    left = (line.remainder + line.quantity) * unit - amount * price.per
    return {
        "schema": "gate/rational-pricing-snapshot:v1",
        "algorithm": "integer_rational_floor_v1",
        "pricing_kind": kind,
        "computed_at": rated_at,
        "unit": line.unit,
        "fingerprint": price.fingerprint,
        "rate_identity": f"{line.meter_code}:{price.version}",
        "unit_price_xusd": str(unit),
        "unit_quantity_minor": str(price.per),
        "quantity_minor": str(line.quantity),
        "previous_remainder_numer": str(line.remainder * unit),
        "amount_xusd": str(amount),
        "next_remainder_numer": str(max(0, left)),
        "effective_at": iso(price.since_ms),
        "provenance": {"source": "live"},
    }


def _missing_snapshot(line: Line, feature_code: str, rated_at: str, kind: str) -> dict[str, Any]:
    return {
        "schema": "gate/missing-pricing-snapshot:v1",
        "algorithm": "not_rated_missing_price_v1",
        "pricing_kind": kind,
        "computed_at": rated_at,
        "unit": line.unit,
        "fingerprint": _NO_FINGERPRINT,
        "feature_code": feature_code,
        "meter_code": line.meter_code,
        "quantity_minor": str(line.quantity),
        "provenance": {"source": "missing"},
    }


def stored_lines(lines: Sequence[Line]) -> str:
    """Return rated lines as the ledger keeps them: enough to give the same answer again."""
    return canonical_json([_stored(line) for line in lines])


def _stored(line: Line) -> list[Any]:
    price = line.price
    return [
        *(line.line_id, line.meter_code, line.quantity, line.amount_xusd, line.cost_xusd, line.remainder, line.unit),
        None
        if price is None
        else [
            *(price.xusd, price.per, price.rounding, price.prepaid, price.cost_xusd),
            *(price.version, price.since_ms, price.fingerprint),
        ],
    ]


def parse_lines(stored: str) -> tuple[Line, ...]:
    return tuple(_parsed(*values) for values in from_json(stored))


def _parsed(*values: Any) -> Line:
    line = Line(*values)
    return line if line.price is None else replace(line, price=Price(*values[-1]))
