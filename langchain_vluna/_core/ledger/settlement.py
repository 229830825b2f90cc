"""What work cost: meters, amounts, hints, and what becomes of a quarantined commit.

A quarantined commit answers like any other and charges nothing: no money, no quota, no budget. Its
rounding remainders are kept all the same. One meter without a price quarantines the whole commit.
Ingest knows neither lease nor quota nor quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_vluna._core.ledger.bodies import CommitRequest, IngestRequest
from langchain_vluna._core.ledger.fields import check_creatable
from langchain_vluna._core.ledger.model import (
    Budget,
    Feature,
    HeldLease,
    Line,
    Meter,
    MeterLine,
    Quota,
    Refusal,
    Rules,
    iso,
    window_start,
)
from langchain_vluna._core.ledger.pricing import rate

__all__ = [
    "MeterPlan",
    "Settlement",
    "check_lease",
    "plan_meters",
    "settle",
    "settle_ingest",
]

_LOW_HEADROOM = 1000
_MOST_XUSD = 2**53
"""Far beyond any sum of money, and far below what the ledger's columns hold."""


@dataclass(frozen=True, slots=True)
class MeterPlan:
    """The meters of a rating, and what has to be registered for it."""

    meters: Mapping[str, Meter]
    create: tuple[Meter, ...]
    attach: tuple[str, ...]
    refused: tuple[str, ...]
    """Not of this feature, and auto-registration is off."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to store and to answer."""

    lines: tuple[Line, ...]
    amount_xusd: int
    cost_xusd: int
    applied: bool
    hints: tuple[dict[str, Any], ...]
    remainders: Mapping[str, int]


def check_lease(lease: HeldLease | None, request: CommitRequest, now_ms: int, rules: Rules) -> HeldLease:
    if lease is None:
        raise Refusal.not_found("lease not found")
    if lease.feature_code != request.feature_code:
        raise Refusal.payload("feature mismatch for lease")
    if isinstance(request.lease, tuple) and not lease.handle.endswith(f".{request.lease[1]}"):
        raise Refusal.payload("invalid lease token")
    if rules.refuse_rollover and window_start(now_ms, lease.window_sec) != lease.window_start_ms:
        raise Refusal.not_found("policy window not found")
    return lease


def plan_meters(lines: Sequence[MeterLine], known: Mapping[str, Meter], rules: Rules) -> MeterPlan:
    """Decide about meters that the feature does not list; `known` are those of the realm."""
    meters: dict[str, Meter] = {}
    create, attach, refused = [], [], []
    for line in lines:
        code = line.meter_code
        if code in meters:
            continue
        meter = known.get(code)
        if meter is None or not meter.attached:
            if not rules.auto_registry:
                refused.append(code)
                meter = Meter(code, line.unit or "unit", None, attached=False)
            elif meter is None:
                check_creatable("meter_code", code, rules)
                meter = Meter(code, line.unit or "unit", None)
                create.append(meter)
            else:
                attach.append(code)
        meters[code] = meter
    return MeterPlan(meters, tuple(create), tuple(attach), tuple(refused))


def settle(
    request: CommitRequest,
    *,
    feature: Feature,
    lease: HeldLease,
    plan: MeterPlan,
    remainders: Mapping[str, int],
    quotas: Sequence[Quota],
    budget: Budget | None,
    now_ms: int,
    rules: Rules,
    new_id: Callable[[], str],
) -> Settlement:
    lines, left = rate(request.meters, meters=plan.meters, stored=remainders, new_id=new_id)
    quarantine, advice = _lease_hints(lease, now_ms, rules)
    if plan.refused:
        quarantine.append(
            {"type": "feature.meter_not_allowed", "feature_code": feature.code, "meters": list(plan.refused)}
        )
    unpriced = [code for code, meter in plan.meters.items() if meter.price is None and code not in plan.refused]
    if unpriced:
        quarantine.append({"type": "pricing.not_configured", "feature_code": feature.code, "meters": unpriced})
    advice += _price_hints(request.meters, plan.meters)
    remaining = min((max(0, quota.limit - quota.used) for quota in quotas), default=None)
    if remaining is not None and request.quantity > remaining:
        advice.append({"type": "quota.remaining", "max_quantity_minor": remaining})
    amount, cost = _totals(lines)
    if budget is not None and not quarantine:
        advice += _budget_hints(budget, amount)
    return Settlement(tuple(lines), amount, cost, not quarantine, (*quarantine, *advice), left)


def settle_ingest(
    request: IngestRequest, *, plan: MeterPlan, remainders: Mapping[str, int], new_id: Callable[[], str]
) -> Settlement:
    """Rate usage that has no lease. It never quarantines, and a meter without a price yields no hint."""
    if plan.refused:
        raise Refusal.invalid(f"meter_not_allowed_for_feature: {','.join(plan.refused)}")
    lines, left = rate(request.meters, meters=plan.meters, stored=remainders, new_id=new_id)
    return Settlement(tuple(lines), *_totals(lines), True, (), left)  # noqa: FBT003 -- applied


def _totals(lines: Sequence[Line]) -> tuple[int, int]:
    amount, cost = sum(line.amount_xusd for line in lines), sum(line.cost_xusd for line in lines)
    if amount > _MOST_XUSD or cost > _MOST_XUSD:
        raise Refusal.invalid(f"quantity_minor is worth more than {_MOST_XUSD} xusd; check quantity and price")
    return amount, cost


def _lease_hints(lease: HeldLease, now_ms: int, rules: Rules) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the hints that quarantine and those that do not."""
    quarantine: list[dict[str, Any]] = []
    advice: list[dict[str, Any]] = []
    if lease.state != "active":
        quarantine.append({"type": "lease.closed_at_commit", "state": lease.state})
    late = now_ms - lease.expires_ms
    if late > 0:
        exceeded = late > rules.grace_ms
        (quarantine if exceeded else advice).append(
            {
                "type": "lease.expired",
                "expires_at": iso(lease.expires_ms),
                "delta_ms": late,
                "grace_ms": rules.grace_ms,
                "exceeded_grace": exceeded,
            }
        )
    return quarantine, advice


def _price_hints(lines: Sequence[MeterLine], meters: Mapping[str, Meter]) -> list[dict[str, Any]]:
    hints = []
    for line in lines:
        price = meters[line.meter_code].price
        if price is None:
            continue
        other_etag = line.client_etag is not None and line.client_etag != price.fingerprint
        other_price = line.client_price is not None and line.client_price != price.xusd
        if other_etag or other_price:
            hints.append(
                {
                    "type": "pricing.changed",
                    "previous_fingerprint": line.client_etag or "client",
                    "current_fingerprint": price.fingerprint,
                }
            )
    return hints


def _budget_hints(budget: Budget, amount: int) -> list[dict[str, Any]]:
    hints: list[dict[str, Any]] = []
    headroom = budget.limit_xusd - budget.consumed_xusd - amount
    if headroom < 0:
        hints.append({"type": "budget.shortfall", "budget_id": budget.budget_id, "shortfall_xusd": -headroom})
    threshold = max(_LOW_HEADROOM, 2 * amount)
    if headroom <= threshold:
        hints.append({"type": "budget.low_headroom", "headroom_xusd": max(0, headroom), "threshold_xusd": threshold})
    return hints
