"""`gate.run` in hands that use it otherwise than it was meant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from langchain_vluna import ConfigurationError, Gate, GateDenied

FEATURE = "report.export"


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate.local(deny_memo=0) as gate:
        gate.local_gate.price(FEATURE, FEATURE, 1)
        yield gate


async def test_a_run_is_entered_once(gate: Gate) -> None:
    """A second block would be charged what the first one recorded as well, so it is refused before it begins."""
    gate.local_gate.grant("customer", 100)
    run = gate.run(feature_code=FEATURE, principal_id="customer")
    with run:
        run.record(5)
        with pytest.raises(ConfigurationError, match="entered before"):
            run.__enter__()
    with pytest.raises(ConfigurationError, match="entered before"):
        await run.__aenter__()
    assert 0 == gate.flush()
    assert [5] == [rating.quantity for rating in gate.local_gate.ratings()]
    assert [] == [lease for lease in gate.local_gate.leases("active") if not lease.commits]


def test_a_denied_run_may_be_tried_again(gate: Gate) -> None:
    """What was not let in has recorded nothing, and is let in once there is money."""
    run = gate.run(feature_code=FEATURE, principal_id="customer")
    with pytest.raises(GateDenied):
        run.__enter__()
    gate.local_gate.grant("customer", 100)
    with run:
        run.record(5)
    assert 0 == gate.flush()
    assert [5] == [rating.quantity for rating in gate.local_gate.ratings()]
