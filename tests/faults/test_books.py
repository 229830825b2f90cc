"""The audit itself: whatever does not add up is named, with the difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_vluna import LocalGate
from langchain_vluna._core.run import State
from langchain_vluna._core.types import Identity
from langchain_vluna._io.outbox import Row
from tests.support.caller import Caller
from tests.support.conservation import Books, audit
from tests.support.journal import Entry, Journal

METER = "chat.tokens"
PRICES = {METER: 2}


@pytest.fixture
def ledger() -> Iterator[LocalGate]:
    gate = LocalGate(generation="tutorial")
    gate.price("chat", METER, PRICES[METER])
    gate.grant("acme", 10_000)
    yield gate
    gate.close()


def charge(ledger: LocalGate, run_id: str, quantity: int, feature: str = "chat", *, source: str = "reported") -> None:
    """Charge a run as the package would."""
    lines = [{"meter_code": f"{feature}.tokens", "quantity_minor": str(quantity)}]
    labels = {"run_id": run_id, "usage_source": source}
    caller = Caller(ledger)
    answer = caller.commit(caller.lease(feature), quantity, feature, feature_code=feature, meters=lines, labels=labels)
    assert 200 == answer.status


def waiting(state: State, key: str = "k") -> Row:
    usage = {"feature_code": "chat", "quantity_minor": "5"}
    return Row(
        key, Identity("acme"), "run-1", "run-1", {"feature_code": "chat"}, state=state, usage=usage, reason="no answer"
    )


def books(ledger: LocalGate, *rows: Row, survived: bool = True, **used: int) -> Books:
    journal = Journal()
    for name, quantity in used.items():
        journal.report(Entry("acme", name.replace("_", "-"), {METER: quantity}))
    return audit(journal, ledger, rows, prices=PRICES, survived=survived)


def test_what_is_charged_once_adds_up(ledger: LocalGate):
    """A run that was charged what it used is no problem."""
    charge(ledger, "run-1", 5)
    assert [] == books(ledger, run_1=5).problems()


def test_a_lost_run_is_named_with_its_units(ledger: LocalGate):
    """A run that no charge and no row speaks of is lost."""
    found = books(ledger, run_1=5)
    assert ["run-1 of acme: 5 units"] == found.lost
    assert "acme: +5 units unaccounted for" in found.problems()[0]


def test_a_run_that_is_charged_twice_is_named(ledger: LocalGate):
    """Two charges under one run id are a double, and the customer's sums show by how much."""
    charge(ledger, "run-1", 5)
    charge(ledger, "run-1", 5)
    found = books(ledger, run_1=5)
    assert 1 == len(found.double)
    assert "acme: -5 units unaccounted for" in found.problems()[0]


def test_a_run_charged_otherwise_than_it_used_is_divergent(ledger: LocalGate):
    """Both quantities are named."""
    charge(ledger, "run-1", 4)
    told = "run-1: used {'chat.tokens': 5} by acme, charged {'chat.tokens': 4} to acme as reported"
    assert [told] == books(ledger, run_1=5).divergent


def test_an_estimate_of_a_run_that_ended_is_divergent(ledger: LocalGate):
    """Who said what it used is not charged an estimate, be it right by chance."""
    charge(ledger, "run-1", 5, source="estimated")
    (told,) = books(ledger, run_1=5).divergent
    assert told.endswith("to acme as estimated")


def test_a_charge_without_use_is_a_phantom(ledger: LocalGate):
    """Nobody is charged for a run that no model speaks of."""
    charge(ledger, "run-9", 4)
    assert ["run-9: 4 units of acme"] == books(ledger).phantom


def test_a_lease_that_nobody_settled_is_open(ledger: LocalGate):
    """An active lease without a commit is named by its feature and customer."""
    Caller(ledger).lease("chat")
    (lease,) = books(ledger).open_leases
    assert lease.endswith("of chat for acme")


def test_what_is_recorded_and_not_charged_counts_as_alarmed(ledger: LocalGate):
    """A quarantined commit is accounted for, and costs nothing."""
    charge(ledger, "run-1", 5, "unpriced")
    journal = Journal()
    journal.report(Entry("acme", "run-1", {"unpriced.tokens": 5}))
    found = audit(journal, ledger, prices={"unpriced.tokens": 0})
    assert [] == found.problems()
    assert (5, 0) == (found.sums["acme"].alarmed, found.sums["acme"].applied)


@pytest.mark.parametrize(
    ("state", "where"), [(State.COMMITTING, "pending"), (State.INGESTING, "pending"), (State.DEAD, "alarmed")]
)
def test_what_waits_in_an_outbox_is_accounted_for(ledger: LocalGate, state: State, where: str):
    """Usage that is owed is pending, and alarmed where the gate refuses it for good."""
    found = books(ledger, waiting(state), run_1=5)
    assert [] == found.problems()
    assert 5 == getattr(found.sums["acme"], where)
    assert [f"run-1 is {state}: no answer"] == found.unsettled


def test_a_run_whose_process_was_killed_must_be_charged_once_its_end_was_recorded(ledger: LocalGate, tmp_path: Path):
    """Cut off before, a run may go uncharged; afterwards it is lost."""
    journal = Journal(tmp_path / "journal")
    journal.report(Entry("acme", "run-1", {METER: 5}))
    cut = audit(Journal.read(tmp_path / "journal"), ledger, prices=PRICES, survived=False)
    assert ([], 5) == (cut.problems(), cut.sums["acme"].cut)
    journal.end("run-1")
    journal.close()
    lost = audit(Journal.read(tmp_path / "journal"), ledger, prices=PRICES, survived=False)
    assert ["run-1 of acme: 5 units"] == lost.lost


@pytest.mark.parametrize("spoke", [True, False], ids=["its model spoke", "its model did not"])
def test_a_run_that_was_cut_off_is_charged_by_the_rule(ledger: LocalGate, spoke: bool):
    """Its estimate is right where the rule is to bill it, and told apart from what was reported; else it is wrong."""
    journal = Journal()
    journal.admit("run-1")
    if spoke:
        journal.report(Entry("acme", "run-1", {METER: 5}))
    uncharged = audit(journal, ledger, prices=PRICES, survived=False, rule="bill_estimate")
    assert ["run-1: its estimate"] == uncharged.lost
    assert [] == audit(journal, ledger, prices=PRICES, survived=False, rule="cancel").problems()
    charge(ledger, "run-1", 3, source="estimated")
    billed = audit(journal, ledger, prices=PRICES, survived=False, rule="bill_estimate")
    assert [] == billed.problems()
    assert (3, 5 * spoke, 0) == (billed.sums["acme"].estimated, billed.sums["acme"].cut, billed.sums["acme"].applied)
    cancelled = audit(journal, ledger, prices=PRICES, survived=False, rule="cancel")
    assert ["run-1: 3 units of acme"] == cancelled.divergent + cancelled.phantom


def test_what_was_recorded_before_its_process_could_say_so_is_right(ledger: LocalGate):
    """A process may die between the record of an end and the journal: the exact charge is then no mistake."""
    charge(ledger, "run-1", 5)
    journal = Journal()
    journal.report(Entry("acme", "run-1", {METER: 5}))
    found = audit(journal, ledger, prices=PRICES, survived=False)
    assert [] == found.problems()
    assert (5, 0) == (found.sums["acme"].applied, found.sums["acme"].cut)


def test_money_that_prices_do_not_explain_is_named(ledger: LocalGate):
    """An amount that is not price times quantity is a problem of its own."""
    charge(ledger, "run-1", 5)
    journal = Journal()
    journal.report(Entry("acme", "run-1", {METER: 5}))
    (problem,) = audit(journal, ledger, prices={METER: 3}).money
    assert problem.endswith("cost 10 XUSD, not 15")
