"""Bodies of requests: the fields of each verb, in the order in which the server finds fault with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_vluna._core.ledger.fields import (
    canonical_code,
    handle,
    is_uuid,
    labels,
    positive,
    quantity,
    reference,
    timestamp,
)
from langchain_vluna._core.ledger.model import Form, MeterLine, Refusal, Rules

__all__ = [
    "AuthorizeRequest",
    "CommitRequest",
    "IngestRequest",
    "parse_authorize",
    "parse_cancel",
    "parse_commit",
    "parse_ingest",
]


@dataclass(frozen=True, slots=True)
class AuthorizeRequest:
    feature_code: str
    family: str | None
    estimate: int
    budget: str | None
    lease: str | None
    """Chosen by the caller; generation `lease` only."""
    labels: Mapping[str, str]
    """Not inherited by the commit."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    feature_code: str
    quantity: int
    lease: str | tuple[str, str]
    """The reference of generation `lease`, else id and last part of the token."""
    meters: tuple[MeterLine, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class IngestRequest:
    feature_code: str
    quantity: int
    meters: tuple[MeterLine, ...]
    budget: str | None
    labels: Mapping[str, str]


def parse_authorize(body: Mapping[str, Any], form: Form, rules: Rules) -> AuthorizeRequest:
    """Read the body of authorize or preflight."""
    feature_code = canonical_code("feature_code", body.get("feature_code"))
    family = body.get("feature_family_code")
    estimate = quantity("estimated_quantity_minor", body.get("estimated_quantity_minor"), rules)
    if form == "lease":
        budget, lease = reference("budget", body.get("budget")), reference("lease", body.get("lease"))
    else:
        budget, lease = body.get("budget_id"), None
        if budget is not None and not is_uuid(budget):
            raise Refusal.invalid("budget_id must be a uuid string")
    stated = labels(body.get("labels"), rules)
    family = family.strip() if isinstance(family, str) else None
    return AuthorizeRequest(feature_code, family or None, estimate, budget, lease, stated)


def parse_commit(body: Mapping[str, Any], form: Form, rules: Rules) -> CommitRequest:
    feature_code = canonical_code("feature_code", body.get("feature_code"))
    amount = positive("quantity_minor", body.get("quantity_minor"), rules)
    lease: str | tuple[str, str] | None
    if form == "lease":
        lease = reference("lease", body.get("lease"))
        if lease is None:
            raise Refusal.invalid("lease is required")
    else:
        lease = handle("lease_token", body.get("lease_token"), rules)
    meters = _meter_lines("items[]", body.get("meters"), rules)
    return CommitRequest(
        feature_code, amount, lease, meters or (MeterLine(feature_code, amount),), labels(body.get("labels"), rules)
    )


def parse_ingest(body: Mapping[str, Any], form: Form, rules: Rules) -> IngestRequest:
    feature_code = canonical_code("feature_code", body.get("feature_code"))
    meters = _meter_lines("meters[]", body.get("meters"), rules)
    stated = body.get("quantity_minor")
    if stated is None and not meters:
        raise Refusal.invalid("quantity_minor or meters[] is required")
    amount = sum(line.quantity for line in meters) if stated is None else quantity("quantity_minor", stated, rules)
    timestamp("occurred_at", body.get("occurred_at"))
    if form == "lease":
        budget = reference("budget", body.get("budget"))
    else:
        budget = body.get("budget_id")
        if budget is not None and not is_uuid(budget):
            raise Refusal.invalid("invalid budget_id")
    return IngestRequest(
        feature_code, amount, meters or (MeterLine(feature_code, amount),), budget, labels(body.get("labels"), rules)
    )


def _meter_lines(where: str, value: object, rules: Rules) -> tuple[MeterLine, ...]:
    return tuple(_meter_line(where, item, rules) for item in value) if isinstance(value, list) else ()


def _meter_line(where: str, item: object, rules: Rules) -> MeterLine:
    fields: Mapping[str, Any] = item if isinstance(item, dict) else {}
    code = canonical_code(f"{where}.meter_code", fields.get("meter_code"), absent="is required")
    amount = positive(f"{where}.quantity_minor", fields.get("quantity_minor"), rules)
    unit, etag, price = fields.get("unit"), fields.get("client_pricing_etag"), fields.get("client_unit_price_xusd")
    return MeterLine(
        code,
        amount,
        unit if isinstance(unit, str) and unit else None,
        etag if isinstance(etag, str) and etag else None,
        None if price is None else quantity(f"{where}.client_unit_price_xusd", price, rules),
    )


def parse_cancel(body: Mapping[str, Any], rules: Rules) -> str:
    """Return the id of the lease; the last part of its token is not looked at."""
    return handle("lease_token", body.get("lease_token"), rules)[0]
