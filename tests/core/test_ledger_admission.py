"""The checks of authorize, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core.ledger import admission
from langchain_vluna._core.ledger.model import Budget, Feature, Meter, Price, Quota, Rate, Refusal, iso, window_start

CHAT = Feature("chat", "llm", active=True, entitlement_required=False)


def meter(xusd: int | None, *, per: int = 1, cost: int = 0) -> Meter:
    return Meter(f"m{xusd}", "token", None if xusd is None else Price(xusd, per, "floor", False, cost, 1, 0, "f"))


def test_a_feature_without_cost_needs_no_money() -> None:
    """Meters without a price or with price and cost 0 are admitted at balance 0."""
    admission.check_funding(0, [meter(None), meter(0)])


@pytest.mark.parametrize("priced", [meter(1), meter(0, cost=1)])
def test_a_feature_that_costs_needs_money(priced: Meter) -> None:
    """One meter with a price or a cost is enough to need a balance above 0."""
    admission.check_funding(1, [priced])
    with pytest.raises(Refusal, match=r"^grant balance exhausted$"):
        admission.check_funding(0, [meter(None), priced])


def test_one_unit_of_quota_is_enough() -> None:
    """A quota denies only when nothing is left."""
    admission.check_quotas([Quota(1, 20, 60, 19)])
    with pytest.raises(Refusal, match=r"^quota limit exhausted$"):
        admission.check_quotas([Quota(1, 20, 60, 20)])


def test_a_full_rate_window_says_when_it_ends() -> None:
    """A rate refusal carries the seconds to the end of its window, rounded up so that waiting them is enough."""
    now = 125_400
    with pytest.raises(Refusal) as refused:
        admission.check_rates([Rate(1, 5, 60, 5)], now)

    until = iso(180_000)
    assert ({"type": "rate.limit", "seconds": 55, "remaining": 0, "until": until},) == refused.value.hints


@pytest.mark.parametrize(("used", "warned"), [(0, []), (1, [3]), (4, [0])])
def test_a_rate_warns_before_it_is_full(used: int, warned: list[int]) -> None:
    """The last four requests of a window are admitted with a hint of how many remain."""
    hints = admission.check_rates([Rate(1, 5, 60, used)], 0)

    assert warned == [hint["remaining"] for hint in hints]


def test_an_exhausted_budget_is_short_by_one_at_least() -> None:
    """A budget that is exactly used up reports a shortfall of 1."""
    with pytest.raises(Refusal) as refused:
        admission.check_budget(Budget("b", 10, 10))

    assert ({"type": "budget.shortfall", "budget_id": "b", "shortfall_xusd": 1},) == refused.value.hints


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 100), st.integers(1, 50))
def test_a_shortfall_is_what_the_estimate_lacks(estimate: int, available: int, xusd: int, per: int) -> None:
    """Balance and shortfall together buy the estimate, and what the hint offers costs no more than the balance."""
    hints = admission.funding_hints(
        CHAT, estimate=estimate, available=available, meters=[meter(xusd, per=per)], budget=None
    )

    blocks = -(-estimate // per)
    if blocks * xusd <= available:
        assert [] == hints
    for shortfall, offer in [hints] if hints else []:
        bought = offer["max_quantity_minor"]
        assert bought < estimate
        assert bought // per * xusd <= available
        assert shortfall["shortfall_xusd"] == (blocks - bought // per) * xusd


def test_an_estimate_is_covered_by_any_meter_that_can() -> None:
    """One cheap meter is enough; a price of 0 covers everything as long as there is money at all."""
    assert [] == admission.funding_hints(CHAT, estimate=100, available=100, meters=[meter(50), meter(1)], budget=None)
    assert [] == admission.funding_hints(CHAT, estimate=100, available=1, meters=[meter(50), meter(0)], budget=None)


@given(st.integers(0, 2**45), st.integers(1, 10**7))
def test_windows_are_aligned_to_the_epoch(now_ms: int, window_sec: int) -> None:
    """A window holds the moment it is asked for, and starts at a multiple of its length."""
    start = window_start(now_ms, window_sec)

    assert 0 == start % (window_sec * 1000)
    assert start <= now_ms < start + window_sec * 1000
