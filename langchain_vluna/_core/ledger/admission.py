"""May work start: the checks of authorize, in the server's order, and the hints of its answer.

1. feature known and active, 2. entitlement, 3. money, 4. replay of the key (the caller's part),
5. quotas, 6. rates, 7. budget, 8. the estimate, which yields hints and never a refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_vluna._core.ledger.model import (
    Budget,
    Feature,
    Meter,
    Price,
    Quota,
    Rate,
    Refusal,
    iso,
    window_start,
)

__all__ = [
    "check_budget",
    "check_feature",
    "check_funding",
    "check_quotas",
    "check_rates",
    "funding_hints",
]

Hints = list[dict[str, Any]]

_WARN_BEFORE = 3
"""A rate hint comes with an admitted request as soon as this few more would fill the window."""


def check_feature(feature: Feature | None, *, entitled: bool) -> Feature:
    if feature is None:
        raise Refusal.not_found("feature not found")
    if not feature.active:
        raise Refusal.not_found("feature inactive")
    if feature.entitlement_required and not entitled:
        raise Refusal(403, "ENTITLEMENT.REQUIRED", "entitlement required")
    return feature


def check_funding(available: int, meters: Iterable[Meter]) -> None:
    """The only test is `> 0`; a feature none of whose meters costs anything needs no money."""
    if available > 0 or all(m.price is None or m.price.xusd == m.price.cost_xusd == 0 for m in meters):
        return
    raise Refusal(402, "SERVER.CONFIG", "grant balance exhausted")


def check_quotas(quotas: Iterable[Quota]) -> None:
    if any(quota.used >= quota.limit for quota in quotas):
        raise Refusal(402, "SERVER.CONFIG", "quota limit exhausted")


def check_rates(rates: Iterable[Rate], now_ms: int) -> Hints:
    """Return the hints of an admitted request; the caller counts it in every window."""
    hints = []
    for rate in rates:
        until = window_start(now_ms, rate.window_sec) + rate.window_sec * 1000
        hint = {
            "type": "rate.limit",
            "seconds": -(-(until - now_ms) // 1000),
            "remaining": max(0, rate.limit - rate.used - 1),
            "until": iso(until),
        }
        if rate.used >= rate.limit:
            raise Refusal(429, "LIMIT.RATE_EXCEEDED", "rate limit exceeded", (hint,))
        if rate.used + 1 + _WARN_BEFORE >= rate.limit:
            hints.append(hint)
    return hints


def check_budget(budget: Budget | None) -> Budget:
    if budget is None:
        raise Refusal.not_found("budget not found or inactive")
    headroom = budget.limit_xusd - budget.consumed_xusd
    if headroom <= 0:
        hint = {"type": "budget.shortfall", "budget_id": budget.budget_id, "shortfall_xusd": max(1, -headroom)}
        raise Refusal(402, "BUDGET.EXHAUSTED", "budget has no headroom after refill", (hint,))
    return budget


def funding_hints(
    feature: Feature, *, estimate: int, available: int, meters: Sequence[Meter], budget: Budget | None
) -> Hints:
    """Say what an admitted request could run into. None of it is a denial."""
    hints: Hints = []
    if estimate > 0:
        unpriced = [meter.code for meter in meters if meter.price is None]
        if unpriced:
            hints.append({"type": "pricing.not_configured", "feature_code": feature.code, "meters": unpriced})
        prices = [meter.price for meter in meters if meter.price is not None]
        shortage = _shortage(prices, estimate, available)
        if shortage is not None:
            hints += _shortfall({"type": "funding.xusd_shortfall"}, shortage, "insufficient credits to cover")
        if budget is not None:
            shortage = _shortage(prices, estimate, budget.limit_xusd - budget.consumed_xusd)
            if shortage is not None:
                kind = {"type": "budget.shortfall", "budget_id": budget.budget_id}
                hints += _shortfall(kind, shortage, "budget cannot cover")
    if available <= 0:
        hints.append({"type": "funding.xusd_shortfall", "shortfall_xusd": 1})
    return hints


def _shortage(prices: Iterable[Price], estimate: int, money: int) -> tuple[int, int] | None:
    """Return missing money and the quantity it buys, by the meter that buys most; `None` where it is enough."""
    options = []
    for price in prices:
        if money <= 0:
            bought = 0
        elif price.xusd == 0:
            return None
        else:
            bought = money // price.xusd * price.per
        if bought >= estimate:
            return None
        missing = -(-(estimate - bought) // price.per)
        options.append((missing * price.xusd, bought))
    return min(options, key=lambda option: (-option[1], option[0]), default=None)


def _shortfall(kind: dict[str, Any], shortage: tuple[int, int], reason: str) -> Hints:
    missing, bought = shortage
    hints: Hints = [{**kind, "shortfall_xusd": missing}] if missing > 0 else []
    hints.append({"type": "quota.remaining", "max_quantity_minor": bought, "message": f"{reason} estimated usage"})
    return hints
