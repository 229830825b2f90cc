"""A faulty network between client and gate, on both colours: each run is charged once, with all of its usage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pytest

from langchain_vluna import Gate, LocalGate, RetryPolicy
from langchain_vluna._io.outbox import Row, rows
from tests.faults.load import PRICES, Load, prepare
from tests.faults.matrix import CASES, Case, attempt
from tests.faults.proxy import KINDS, Plan
from tests.support.conservation import audit, rows_of
from tests.support.journal import Journal

pytestmark = pytest.mark.isolated


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_run_is_charged_once_over_a_faulty_network(case: Case, tmp_path: Path):
    """After drops, resets, lost answers, errors and duplicates, every run is charged once, as its model said."""
    trial = attempt(case, tmp_path, runs=120, seed=7)
    assert [] == trial.problems()
    assert trial.books.runs > 60
    assert trial.injected.total() > 50


@pytest.mark.parametrize(
    "kind", ["reset after", "half a body", "nonsense before", "twice at once", "again later", "502 before", "late"]
)
def test_each_run_is_charged_once_when_one_thing_goes_wrong_often(kind: str, tmp_path: Path):
    """The worst faults, each alone and at half of all requests."""
    case = Case(generation="tutorial", settle="background", on_unavailable="allow", attempts=1)
    trial = attempt(case, tmp_path, runs=20, seed=11, rate=0.5, kinds={kind: 1})
    assert [] == trial.problems()
    assert {kind} == set(trial.injected)


def test_a_key_that_changes_with_every_try_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With idempotency keys taken away the same matrix finds runs that were charged twice."""
    monkeypatch.setattr(Row, "key", lambda row, verb: f"{row.attempt}-{verb}-{uuid4().hex}")
    case = Case(generation="tutorial", settle="background", on_unavailable="allow", attempts=1)
    trial = attempt(case, tmp_path, runs=60, seed=3, kinds={"reset after": 1, "half a body": 1}, rate=0.5)
    assert trial.books.double
    assert any("units unaccounted for" in problem for problem in trial.problems())
    assert any("double" in problem for problem in trial.problems())


def test_a_settlement_that_is_dropped_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a relay that forgets what it could not send the same matrix finds runs that were never charged."""

    def drop(db: sqlite3.Connection, attempts: Iterable[str], due: float, reason: str) -> None:
        db.executemany("DELETE FROM run WHERE attempt = ?", [(name,) for name in attempts])

    monkeypatch.setattr(rows, "postpone", drop)
    case = Case(generation="tutorial", settle="background", on_unavailable="deny", attempts=1)
    trial = attempt(case, tmp_path, runs=60, seed=3, kinds={"reset before": 1}, rate=0.4)
    assert trial.books.lost
    assert any("units unaccounted for" in problem for problem in trial.problems())
    assert trial.books.open_leases


@pytest.mark.parametrize("refusal", ["status_429", "status_402"])
def test_a_denial_after_a_lost_answer_leaves_no_lease(refusal, tmp_path: Path):
    """What the first attempt may have been granted is found and cancelled, although the second was denied."""
    ledger = LocalGate(generation="tutorial")
    prepare(ledger)
    gate = Gate(ledger, wire="tutorial", outbox=tmp_path / "o", retry=RetryPolicy(attempts=2, initial=0.0), deny_memo=0)
    journal = Journal()
    ledger.fault("drop_answer", on="authorize")
    ledger.fault(refusal, on="authorize", seconds=0)
    load = Load(gate, journal)
    load.run(("invoke",))
    assert {"denied": 1} == load.outcomes
    assert 0 == gate.flush(5.0)
    assert [] == audit(journal, ledger, rows_of(gate), prices=PRICES).problems()
    assert ["canceled"] == [lease.state for lease in ledger.leases()]
    gate.close()
    ledger.close()


def test_a_plan_is_the_same_for_the_same_seed():
    """Request number n meets the same fault whenever the seed is the same, and every kind comes up."""
    first, second, other = Plan(5), Plan(5), Plan(6)
    drawn = [first.draw() for _ in range(3000)]
    assert drawn == [second.draw() for _ in range(3000)]
    assert drawn != [other.draw() for _ in range(3000)]
    assert {*KINDS, None} == set(drawn)
