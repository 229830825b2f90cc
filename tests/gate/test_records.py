"""What is written of a run and when: interruptions, failing disks, an unreachable gate, many runs at once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.errors import GateDenied, GateRejected, GateUnavailable, RunStateError
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import Identity
from langchain_vluna._io.outbox import rows
from langchain_vluna._io.relay import RelayTimes
from tests.support.hall import CUSTOMER, Hall, body


@pytest.fixture
def hall() -> Iterator[Hall]:
    with Hall().open() as hall:
        yield hall


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def on_disk(tmp_path: Path, **options: Any) -> Hall:
    """Return a hall over an outbox file that is open already: the first run of a flow would open it."""
    hall = Hall(outbox=tmp_path / "vluna.outbox", **options)
    assert hall.engine.outbox.owner_id
    return hall


def test_intent_lease_and_usage_are_written_before_what_follows_them(hall: Hall):
    """The row is there before the gate is asked, has the lease before the work, and the usage before the charge."""
    seen: list[State] = []
    send = hall.ledger.send

    def watch(request: Any) -> Any:
        seen.append(hall.left()[0].state)
        return send(request)

    hall.ledger.send = watch  # type: ignore[method-assign]
    run = hall.begin()
    (row,) = hall.left()
    assert (State.OPEN, run.row.handle) == (row.state, row.handle)
    hall.use(run)
    assert 0 == hall.gate.flush(10)
    assert [State.ASKING, State.COMMITTING] == seen
    assert ([7], []) == (hall.applied(), hall.left())


def test_a_denied_run_leaves_nothing(hall: Hall):
    """A refusal ends the row."""
    with pytest.raises(GateDenied):
        hall.begin(hall.spec(identity=Identity("penniless")))
    assert ([], []) == (hall.left(), hall.engine.book.open_runs())


def test_a_refused_run_leaves_nothing(hall: Hall):
    """What the gate does not understand is over at once."""
    hall.ledger.feature("model", active=False)
    with pytest.raises(GateRejected):
        hall.begin()
    assert [] == hall.left()


def test_a_lost_answer_leaves_no_lease(hall: Hall):
    """A run that was not let in because the answer was lost has its lease found and cancelled."""
    with hall.ledger.fault("drop_answer", on="authorize"), pytest.raises(GateUnavailable):
        hall.begin()
    assert 0 == hall.gate.flush(10)
    assert ["canceled"] == [lease.state for lease in hall.ledger.leases()]
    assert [] == hall.applied()


@pytest.mark.parametrize(("durability", "answered"), [("process", False), ("power", False), ("power", True)])
def test_a_run_cancelled_while_it_asks_leaves_no_lease(tmp_path: Path, durability: Any, answered: bool):
    """Whether a task is cancelled before its answer is here or while it is written, its lease is cancelled too."""
    with on_disk(tmp_path, durability=durability).open() as hall:
        flow = hall.starting()
        effect = next(flow)
        if durability == "power":
            effect.future.result()  # the intent is on disk
            effect = next(flow)
        answer = hall.ledger.send(effect.request)
        if answered:
            flow.send(answer)
        flow.close()
        until(lambda: ["canceled"] == [lease.state for lease in hall.ledger.leases()])
        assert 0 == hall.gate.flush(10)
        assert ([], []) == (hall.engine.book.open_runs(), hall.applied())


def test_a_run_cancelled_while_its_intent_is_written_was_never_asked_for(tmp_path: Path):
    """The row of a question that was not put goes as soon as it is written."""
    with on_disk(tmp_path, durability="power").open() as hall:
        hall.begin()
        flow = hall.starting()
        next(flow)
        flow.close()
        until(lambda: len(hall.left()) == 1)
        assert 1 == hall.ledger.requests["authorize"]


def test_an_end_interrupted_while_it_is_written_is_charged(tmp_path: Path):
    """Usage that is on its way to the disk is charged, although nobody waits for it any more."""
    with on_disk(tmp_path, durability="power").open() as hall:
        run = hall.begin()
        flow = hall.engine.book.used(run, body(7))
        next(flow)
        flow.close()
        until(lambda: hall.applied() == [7])
        assert 7 == sum(hall.gate.bill(principal_id=CUSTOMER).by_feature.values())


def test_a_disk_that_refuses_the_intent_denies(tmp_path: Path):
    """Where nothing can be recorded, the work does not run, and the error says why; the gate is not asked."""
    with on_disk(tmp_path).open() as hall:
        hall.begin()
        refuse(hall, "INSERT")
        with pytest.raises(GateUnavailable, match=r"vluna\.outbox.*no more") as caught:
            hall.begin()
        assert not caught.value.outcome_unknown
        assert 1 == hall.ledger.requests["authorize"]


def refuse(hall: Hall, verb: str) -> None:
    """Let the outbox refuse a kind of statement, as a full disk does."""
    trigger = f"CREATE TRIGGER full BEFORE {verb} ON run BEGIN SELECT RAISE(ABORT, 'no more'); END"
    hall.engine.outbox.apply(lambda db: db.execute(trigger))


def accept(hall: Hall) -> None:
    hall.engine.outbox.apply(lambda db: db.execute("DROP TRIGGER full"))


def test_a_disk_that_refuses_the_intent_may_be_gone_without(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With `on_unavailable="allow"` the work runs without a record, is charged once, and the log says so."""
    with on_disk(tmp_path, on_unavailable="allow").open() as hall:
        hall.begin()
        refuse(hall, "INSERT")
        run = hall.begin()
        hall.use(run)
        assert [7] == hall.applied()
        assert "without a record on disk" in caplog.text


def test_a_disk_that_refuses_the_lease_denies_and_cancels(tmp_path: Path):
    """When the lease cannot be recorded, the work does not run and its lease is given back."""
    with on_disk(tmp_path).open() as hall:
        hall.begin()
        refuse(hall, "UPDATE")
        with pytest.raises(GateUnavailable, match="no more"):
            hall.begin()
        until(lambda: "canceled" in [lease.state for lease in hall.ledger.leases()])
        accept(hall)


def test_a_disk_that_refuses_the_usage_is_gone_without(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """An end that the disk does not take is settled at once from memory, and never twice."""
    with on_disk(tmp_path).open() as hall:
        run = hall.begin()
        refuse(hall, "UPDATE")
        hall.use(run)
        assert [7] == hall.applied()
        assert "settled without a record on disk" in caplog.text
        accept(hall)
        for _ in range(2):
            hall.engine.book.reconcile()
        assert 0 == hall.gate.flush(10)
        assert [7] == hall.applied()


def test_what_the_disk_refused_waits_in_memory_for_a_gate_that_is_down(tmp_path: Path):
    """Neither disk nor gate: the usage stays in memory, is counted as unsettled, and charged when the gate is back."""
    with on_disk(tmp_path).open() as hall:
        run = hall.begin()
        refuse(hall, "UPDATE")
        hall.line.on = False
        hall.use(run)
        assert 1 == hall.gate.flush(0.1)
        accept(hall)
        hall.line.on = True
        assert 0 == hall.gate.flush(10)
        assert [7] == hall.applied()


def test_a_row_that_vanished_is_charged_under_its_own_keys(tmp_path: Path):
    """When somebody moved the file away, what the process still knows is charged, once."""
    with on_disk(tmp_path).open() as hall:
        run = hall.begin()
        hall.engine.outbox.apply(lambda db: db.execute("DELETE FROM run"))
        hall.use(run)
        assert 0 == hall.gate.flush(10)
        assert [f"{run.row.attempt}-c"] == [rating.idempotency_key for rating in hall.ledger.ratings()]


def test_a_process_taken_for_dead_does_not_work_on(tmp_path: Path):
    """If the row was given up by another process before its lease was written, the work does not run."""
    with on_disk(tmp_path).open() as hall:
        flow = hall.starting()
        request = next(flow).request
        (row,) = hall.left()
        hall.engine.outbox.apply(lambda db: rows.advance(db, row.attempt, Event.ABANDONED, {}))
        answer = hall.ledger.send(request)
        with pytest.raises(RunStateError):
            flow.send(answer)
        assert 0 == hall.gate.flush(10)
        assert ["canceled"] == [lease.state for lease in hall.ledger.leases()]


def test_an_unreachable_gate_denies(hall: Hall):
    """By default nothing runs that was not asked for, and nothing is left behind."""
    hall.line.on = False
    with pytest.raises(GateUnavailable):
        hall.begin()
    assert [] == hall.left()


@pytest.mark.parametrize("ends", [True, False])
def test_an_unreachable_gate_may_be_gone_without(ends: bool):
    """With `on_unavailable="allow"` the work runs, and its usage is ingested when the gate is back."""
    with Hall(on_unavailable="allow").open() as hall:
        hall.line.on = False
        run = hall.begin()
        assert State.UNGATED is run.row.state
        if ends:
            hall.use(run)
        else:
            hall.fail(run)
        hall.line.on = True
        assert 0 == hall.gate.flush(10)
        assert ([7] if ends else []) == hall.applied()
        assert {"ingest"} >= {rating.source for rating in hall.ledger.ratings()}
        assert [] == hall.left()


def test_an_answer_lost_under_allow_charges_once():
    """The lease that may exist is cancelled, and the work that ran without it is ingested."""
    with Hall(on_unavailable="allow").open() as hall:
        with hall.ledger.fault("drop_answer", on="authorize"):
            run = hall.begin()
        hall.use(run)
        assert 0 == hall.gate.flush(10)
        assert [7] == hall.applied()
        assert ["canceled"] == [lease.state for lease in hall.ledger.leases()]


def test_inline_settles_before_the_end_returns():
    """With `settle="inline"` nothing is left when the end of a run returns, and no thread is needed."""
    with Hall(settle="inline").open() as hall:
        before = threading.active_count()
        for number in range(1, 4):
            hall.use(hall.begin(), number)
            assert number == len(hall.applied())
        hall.fail(hall.begin())
        assert before == threading.active_count()
        assert [State.CANCELED] == [row.state for row in hall.left()]


async def test_inline_settles_without_blocking_the_loop():
    """An async end settles in the caller's own loop."""
    with Hall(settle="inline").open() as hall:
        run = await hall.gate.aperform(hall.starting(loop=asyncio.get_running_loop()))
        await hall.gate.aperform(hall.engine.book.used(run, body(7)))
        assert [7] == hall.applied()


def test_a_customer_with_many_unsettled_runs_is_settled_inline():
    """Beyond `max_unsettled` runs a customer's ends settle as they come, so that the next question sees them."""
    with Hall(max_unsettled=3, relay=RelayTimes(linger=30.0, give_up=0.5)).open() as hall:
        for number in range(1, 10):
            hall.use(hall.begin(), number)
            assert hall.engine.relay.unsettled() <= 3
        assert 6 <= len(hall.applied())
        other = hall.spec(identity=Identity("other"))
        hall.ledger.grant("other", 1000)
        hall.use(hall.begin(other), 100)
        assert 100 not in hall.applied()
        assert 0 == hall.gate.flush(10)
        assert [*range(1, 10), 100] == sorted(hall.applied())
        assert {} == hall.engine.book._records._owed


def test_many_unsettled_runs_do_not_wait_for_a_gate_that_is_down():
    """While the gate is known to be down, no end waits for it, however many are unsettled."""
    with Hall(max_unsettled=1).open() as hall:
        runs = [hall.begin() for _ in range(5)]
        hall.line.on = False
        hall.use(runs.pop())
        until(lambda: hall.engine.relay.gate_is_down)
        asked = hall.ledger.requests["commit"]
        for run in runs:
            hall.use(run)
        assert asked == hall.ledger.requests["commit"]
        hall.line.on = True
        assert 0 == hall.gate.flush(10)
        assert [7] * 5 == hall.applied()


def test_strays_are_settled_when_they_last(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A row that no run of this process knows, seen twice, is settled; one that is being begun is left alone."""
    with on_disk(tmp_path).open() as hall:
        known, lost = hall.begin(), hall.begin()
        hall.engine.book._forget(lost)
        hall.engine.book.reconcile()
        assert {State.OPEN} == {row.state for row in hall.left()}
        with caplog.at_level(logging.WARNING):
            hall.engine.book.reconcile()
        assert 0 == hall.gate.flush(10)
        assert {known.row.attempt: State.OPEN, lost.row.attempt: State.CANCELED} == {
            row.attempt: row.state for row in hall.left()
        }
        hall.fail(known)


def test_a_bill_has_what_came_late(hall: Hall):
    """A run whose end came after its cancel is on the bill, once, with its price."""
    run = hall.begin()
    hall.fail(run)
    hall.use(run, 9)
    assert 0 == hall.gate.flush(10)
    bill = hall.gate.bill(principal_id=CUSTOMER)
    assert (18, 0, 1) == (bill.amount_xusd, bill.pending, bill.runs)
    assert [9] == hall.applied()


def test_a_second_end_changes_nothing(hall: Hall):
    """However often and in whatever order ends are told, the first usage is charged."""
    run = hall.begin()
    hall.use(run, 7)
    hall.use(run, 8)
    hall.fail(run)
    assert 0 == hall.gate.flush(10)
    assert [7] == hall.applied()


def test_ends_of_many_threads_are_each_charged_once(tmp_path: Path):
    """Threads that end each other's runs at once charge each run once."""
    with on_disk(tmp_path).open() as hall:
        runs = [hall.begin() for _ in range(60)]

        def end_all() -> None:
            for run in runs:
                hall.use(run)

        threads = [threading.Thread(target=end_all) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0 == hall.gate.flush(20)
        assert [7] * 60 == hall.applied()


def test_a_broken_file_denies_with_a_clear_error(tmp_path: Path):
    """A file that is no outbox stops the work, names the file and what to do."""
    (tmp_path / "vluna.outbox").write_bytes(b"something else entirely" * 100)
    hall = Hall(outbox=tmp_path / "vluna.outbox")
    with pytest.raises(GateUnavailable, match=r"vluna\.outbox.*not a database.*another path"):
        hall.begin()
    hall.gate.close(0.1)


def test_another_writer_is_waited_for(tmp_path: Path):
    """A run begins although another process writes to the file for a while."""
    with on_disk(tmp_path).open() as hall:
        hall.use(hall.begin())
        other = sqlite3.connect(tmp_path / "vluna.outbox", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.1, lambda: other.execute("COMMIT")).start()
        hall.use(hall.begin())
        assert 0 == hall.gate.flush(10)
        assert [7, 7] == hall.applied()
        other.close()
