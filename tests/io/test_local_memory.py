"""What is set up is read once and remembered: never longer than it holds, whoever changes it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from langchain_vluna._io.local import LocalGate
from tests.support.caller import Caller


@pytest.fixture
def gates(tmp_path: Path) -> tuple[LocalGate, LocalGate]:
    """Two gates over one file, as two processes have them."""
    return LocalGate(tmp_path / "gate.db"), LocalGate(tmp_path / "gate.db")


def statuses(gate: LocalGate) -> list[str]:
    return [rating.status for rating in gate.ratings()]


def test_a_price_set_elsewhere_holds_for_the_next_charge(gates: tuple[LocalGate, LocalGate]):
    """A meter that was seen without a price is charged as soon as another process gives it one."""
    here, elsewhere = gates
    acme = Caller(here, user=None)
    acme.commit(acme.lease())
    elsewhere.price("chat", "chat", 3)
    elsewhere.grant("acme", 100)
    acme.commit(acme.lease())

    assert ["quarantined", "applied"] == statuses(here)
    assert 70 == here.balance("acme")


def test_a_limit_set_elsewhere_holds_for_the_next_question(gates: tuple[LocalGate, LocalGate]):
    """A feature that was seen without a quota is denied as soon as another process sets one."""
    here, elsewhere = gates
    acme = Caller(here, user=None)
    assert 200 == acme.authorize().status
    elsewhere.quota("chat", 0, 60)
    assert 402 == acme.authorize().status
    elsewhere.quota("chat", None, 60)
    assert 200 == acme.authorize().status


def test_a_meter_first_used_elsewhere_is_known(gates: tuple[LocalGate, LocalGate]):
    """Registering a meter by using it is a change, too: the other process takes it from there."""
    here, elsewhere = gates
    lines = [{"meter_code": "chat.tokens.input", "quantity_minor": "10"}]
    ours, theirs = Caller(here, user=None), Caller(elsewhere, user=None)
    ours.commit(ours.lease())
    theirs.commit(theirs.lease(), meters=lines)
    assert 200 == ours.commit(ours.lease(), meters=lines).status
    assert ["chat", "chat.tokens.input"] == [meter.meter_code for meter in here.meters()]


def test_what_was_undone_is_not_remembered():
    """A feature registered by a request that is refused in the end is unknown again, and registered by the next."""
    gate = LocalGate()
    acme = Caller(gate, user=None)
    assert 422 == acme.authorize(budget_id=str(uuid.uuid4())).status
    assert [] == gate.meters()
    assert 200 == acme.authorize().status
    assert ["chat"] == [meter.meter_code for meter in gate.meters()]
