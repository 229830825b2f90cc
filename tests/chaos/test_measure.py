"""What docs/settlement.md promises in figures: the bound holds, and what it bounds is really there."""

from __future__ import annotations

import pytest

from tests.chaos.measure import end_to_settled, overspend


@pytest.mark.parametrize(("max_unsettled", "at_once"), [(1, 1), (5, 1), (5, 3)])
def test_a_customer_without_money_gets_no_more_runs_than_may_be_unsettled(max_unsettled: int, at_once: int):
    """However slow the gate settles, the runs beyond the balance are `max_unsettled` and one for each caller."""
    assert overspend(max_unsettled=max_unsettled, at_once=at_once, settle=1.0) <= max_unsettled + at_once


def test_without_the_bound_there_are_more():
    """The same customer, unbounded, gets more runs: the test above can fail."""
    assert overspend(max_unsettled=10_000, at_once=3, settle=1.0) > 5 + 3


@pytest.mark.parametrize("distant", [False, True])
def test_every_run_of_a_steady_stream_is_settled_while_it_flows(distant: bool):
    """Runs are settled soon after their end, not all together at the last."""
    took = end_to_settled(runs=50, every=0.02, distant=distant)
    assert 50 == len(took)
    assert took[25] < 1.0
