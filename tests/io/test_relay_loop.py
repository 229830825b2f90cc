"""The relay with its threads: what it sends when, what it does while the gate is down, and how it ends."""

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

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.run import State
from langchain_vluna._core.types import HttpRequest, HttpResponse, Identity
from langchain_vluna._io.outbox import Outbox, rows, upkeep
from langchain_vluna._io.relay import Relay, RelayTimes, Settlement
from tests.support.outbox import end, intend, opened, usage
from tests.support.till import Workbench

QUICK = RelayTimes(linger=0.02, first_retry=0.02, last_retry=0.2, take_over=0.1, give_up=0.3)


class Stand(Workbench):
    """A workbench with a relay."""

    def __init__(self, times: RelayTimes = QUICK, **settings: Any) -> None:
        super().__init__()
        self.outbox.clock = self.settlement._verdicts._clock = time.time
        self.sweeps = 0
        self.relay = Relay(
            self.client,
            [self.settlement],
            sweep=settings.get("sweep", lambda: None),
            waiting=lambda: 0,
            times=times,
        )

    def used_now(self, attempt: str, quantity: int = 7, **more: Any) -> None:
        self.now = time.time()
        self.used(attempt, quantity, **more)


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.relay.stop()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


class Down:
    """A gate that cannot be reached, and counts who tries."""

    def __init__(self, gate: Any) -> None:
        self._gate = gate
        self.tries: list[float] = []
        self.down = True

    def send(self, request: HttpRequest) -> HttpResponse:
        if self.down:
            self.tries.append(time.monotonic())
            message = "connection refused"
            raise TransportFailure(message, sent=False)
        answer: HttpResponse = self._gate.send(request)
        return answer


def test_rows_that_come_together_are_settled_together(stand: Stand):
    """Rows that wait for company share a batch, and are settled without anybody asking."""
    for attempt in "abcde":
        stand.used_now(attempt)
        stand.relay.wake()
    until(lambda: stand.relay.unsettled() == 0)
    assert 5 == len(stand.applied())
    assert 1 <= stand.ledger.requests["batch"] <= 2
    assert stand.ledger.requests["commit"] <= 1


def test_a_row_waits_no_longer_than_it_has_to(stand: Stand):
    """From the end of a run to its charge it takes about the time that rows wait for company."""
    stand.relay.wake()
    times = []
    for number in range(5):
        stand.used_now(str(number))
        began = time.monotonic()
        stand.relay.wake()
        until(lambda: stand.relay.unsettled() == 0)
        times.append(time.monotonic() - began)
    assert sorted(times)[2] < 20 * QUICK.linger


def test_a_flush_does_not_linger():
    """Somebody who waits is not kept waiting for company."""
    stand = Stand(RelayTimes(linger=5.0))
    stand.used_now("a")
    stand.relay.wake()
    began = time.monotonic()
    assert 0 == stand.relay.flush(10.0)
    assert time.monotonic() - began < 4.0
    stand.relay.stop()


def test_customers_are_settled_each_by_themselves(stand: Stand):
    """No batch holds rows of two customers."""
    others = [Identity(f"customer_{n}") for n in (2, 3)]
    for identity in others:
        stand.ledger.grant(identity.principal_id, 10**6)
    for number in range(4):
        for name, identity in enumerate(others):
            stand.used_now(f"{name}{number}", identity=identity)
    assert 0 == stand.relay.flush(10.0)
    batches = [r for r in stand.wire.requests if r.target.endswith("batch")]
    assert {"customer_2", "customer_3"} == {request.headers["x-principal-id"] for request in batches}
    assert 8 == len(stand.applied())


def test_a_gate_that_is_down_is_probed_and_not_hammered(stand: Stand):
    """While the gate is down one row at a time tries, at growing distances; then all are settled."""
    gate = Down(stand.ledger)
    for number in range(30):
        stand.used_now(f"{number:02}")
    stand.wire.gate = gate  # type: ignore[assignment]
    stand.relay.wake()
    until(lambda: len(gate.tries) >= 4)
    assert stand.relay.gate_is_down
    assert len(gate.tries) <= 8
    gate.down = False
    until(lambda: stand.relay.unsettled() == 0)
    assert 30 == len(stand.applied())
    assert not stand.relay.gate_is_down


def test_a_flush_while_the_gate_is_down_ends_and_says_what_is_left(stand: Stand):
    """With a timeout a flush ends by it, without one after a while without progress; nothing is lost."""
    gate = Down(stand.ledger)
    for attempt in "abc":
        stand.used_now(attempt)
    stand.wire.gate = gate  # type: ignore[assignment]
    told: list[int] = []
    began = time.monotonic()
    assert 3 == stand.relay.flush(0.2, told.append)
    assert 3 == stand.relay.flush(None)
    assert time.monotonic() - began < 5.0
    assert {3} == set(told)
    assert len(gate.tries) < 60
    gate.down = False
    assert 0 == stand.relay.flush(10.0)
    assert 3 == len(stand.applied())


def test_a_refused_row_is_not_tried_all_the_time_during_a_flush(stand: Stand):
    """A row that waits for a person is tried a few times during a flush, not in a loop."""
    from dataclasses import replace

    stand.used_now("a")
    stand.client._endpoint = replace(stand.client._endpoint, key=b"not the key of this gate")
    stand.wire.requests.clear()
    assert 1 == stand.relay.flush(0.5)
    assert 1 <= len(stand.wire.requests) <= 60
    assert "signature" in str(stand.row("a").reason)


def test_a_garbled_answer_opens_the_circuit(stand: Stand):
    """A gate that answers nonsense is a gate that does not answer."""
    stand.used_now("a")

    class Nonsense:
        def send(self, _: HttpRequest) -> HttpResponse:
            return HttpResponse(200, {}, b"<html>hello</html>")

    stand.wire.gate = Nonsense()  # type: ignore[assignment]
    assert 1 == stand.relay.flush(0.2)
    assert stand.relay.gate_is_down
    assert State.COMMITTING is stand.state("a")


def test_rows_of_dead_processes_are_flushed_by_the_next(tmp_path: Path):
    """A flush takes over what processes that ended have left, and settles it."""
    stand = Stand()
    path = str(tmp_path / "vluna.outbox")
    before = Outbox(path)
    stand.now = time.time()
    row = stand.used("a")
    opened(before, "a", ask=row.ask, identity=row.identity)
    before.apply(lambda db: db.execute("UPDATE run SET handle = ?", (row.handle,)))
    end(before, "a", usage(7))
    before.close()
    stand.outbox.apply(lambda db: db.execute("DELETE FROM run"))
    after = Outbox(path)
    relay = Relay(
        stand.client,
        [Settlement(stand.client, after, stand.outcomes.append)],
        sweep=lambda: None,
        waiting=lambda: 0,
        times=QUICK,
    )
    assert 0 == relay.flush(10.0)
    assert {"a-c": 7} == stand.applied()
    relay.stop()
    after.close()


def test_a_relay_over_an_outbox_nobody_used_creates_nothing(tmp_path: Path):
    """Flushing an outbox that was never written leaves no file."""
    stand = Stand()
    box = Outbox(str(tmp_path / "state" / "vluna.outbox"))
    settlement = Settlement(stand.client, box, stand.outcomes.append)
    relay = Relay(stand.client, [settlement], sweep=lambda: None, waiting=lambda: 0, times=QUICK)
    assert 0 == relay.flush(1.0)
    relay.stop()
    assert [] == list(tmp_path.iterdir())


def test_a_broken_outbox_does_not_stop_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """While one outbox cannot be read, what is in the other is settled; the flush counts the broken one."""
    stand = Stand()
    path = tmp_path / "vluna.outbox"
    broken = Outbox(str(path))
    opened(broken, "lost")
    broken.close()
    path.write_bytes(b"no database any more" * 300)
    settlements = [Settlement(stand.client, box, stand.outcomes.append) for box in (broken, stand.outbox)]
    relay = Relay(stand.client, settlements, sweep=lambda: None, waiting=lambda: 0, times=QUICK)
    broken._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    stand.used_now("a")
    relay.wake()
    until(lambda: stand.applied() == {"a-c": 7})
    with caplog.at_level(logging.ERROR):
        assert 1 == relay.flush(0.2)
    relay.stop()
    broken._db.close()


def test_a_sweep_that_breaks_does_not_stop_the_settling(caplog: pytest.LogCaptureFixture):
    """An error in our own code is logged, and rows are settled all the same."""

    def breaks() -> float | None:
        message = "bug"
        raise KeyError(message)

    stand = Stand(sweep=breaks)
    stand.used_now("a")
    assert 0 == stand.relay.flush(10.0)
    assert {"a-c": 7} == stand.applied()
    assert "a part of the settlement failed" in caplog.text
    stand.relay.stop()


def test_one_row_that_breaks_our_code_does_not_stop_the_others(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A row whose settlement raises something unforeseen waits, with the others settled."""
    commit = Settlement._commit

    def breaks(self: Settlement, row: Any) -> Any:
        if row.attempt == "bad":
            message = "bug"
            raise KeyError(message)
        return (yield from commit(self, row))

    monkeypatch.setattr(Settlement, "_commit", breaks)
    for attempt in ("bad", "good"):
        stand.used_now(attempt)
        stand.outbox.apply(lambda db: db.execute("UPDATE run SET tries = 1"))
    assert 1 == stand.relay.flush(0.5)
    assert {"good-c": 7} == stand.applied()
    assert "internal error" in str(stand.row("bad").reason)


def test_an_answer_that_the_disk_does_not_take_is_asked_for_again(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    """If the row cannot be removed after its charge, it is not sent again at once, and never charged again."""
    from langchain_vluna._io.relay import carrier

    monkeypatch.setattr(carrier, "BROKEN_WAIT", 0.2)
    stand.used_now("a")
    stand.outbox.apply(
        lambda db: db.execute("CREATE TRIGGER full BEFORE DELETE ON run BEGIN SELECT RAISE(ABORT, 'full'); END")
    )
    stand.relay.wake()
    until(lambda: stand.ledger.requests["commit"] >= 2)
    assert stand.ledger.requests["commit"] <= 4
    stand.outbox.apply(lambda db: db.execute("DROP TRIGGER full"))
    until(lambda: stand.state("a") is None)
    assert {"a-c": 7} == stand.applied()


def test_a_reserved_row_is_settled_inline_and_not_in_the_background(stand: Stand):
    """What is settled in the caller's own flow is not sent by the background as well."""
    assert stand.relay.reserve("a")
    stand.used_now("a")
    stand.relay.wake()
    time.sleep(5 * QUICK.linger)
    assert {} == stand.applied()
    stand.client.perform(stand.relay.inline(stand.settlement, stand.row("a")))
    assert {"a-c": 7} == stand.applied()
    assert 1 == stand.ledger.requests["commit"]


def test_what_fails_inline_is_left_to_the_background(stand: Stand):
    """A row whose inline settlement gets no answer waits, and is settled later."""
    stand.relay.reserve("a")
    stand.used_now("a")
    row = stand.row("a")
    with stand.ledger.fault("drop_answer", on="commit"):
        stand.client.perform(stand.relay.inline(stand.settlement, row))
    until(lambda: stand.state("a") is None)
    assert {"a-c": 7} == stand.applied()


def test_an_interrupted_inline_settlement_is_taken_up_by_the_background(stand: Stand):
    """A task cancelled while it settles loses nothing."""
    stand.relay.reserve("a")
    stand.used_now("a")
    flow = stand.relay.inline(stand.settlement, stand.row("a"))
    next(flow)
    flow.close()
    until(lambda: stand.state("a") is None)
    assert {"a-c": 7} == stand.applied()


def test_a_released_row_is_the_background_s(stand: Stand):
    """A reservation that was not needed is given back."""
    stand.relay.reserve("a")
    stand.used_now("a")
    stand.relay.release("a")
    assert 0 == stand.relay.flush(10.0)


def test_a_stopped_relay_starts_again(stand: Stand):
    """After a stop its threads are gone; a wake-up brings them back, under another event loop or none."""
    others = set(threading.enumerate())
    stand.used_now("a")
    assert 0 == stand.relay.flush(10.0)
    stand.relay.stop()
    until(lambda: not [t for t in set(threading.enumerate()) - others if t.name.startswith("vluna-relay")])
    stand.relay.stop()

    async def run(attempt: str) -> None:
        stand.used_now(attempt)
        stand.relay.wake()
        await asyncio.to_thread(until, lambda: stand.relay.unsettled() == 0)

    for attempt in "bc":
        asyncio.run(run(attempt))
    assert {"a-c", "b-c", "c-c"} == set(stand.applied())


def test_a_stop_does_not_wait_for_a_gate_that_hangs(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    """Threads that wait for an answer are left to their fate; their rows are settled once by whoever is next."""
    from langchain_vluna._io.relay import loop

    monkeypatch.setattr(loop, "_STOP_PATIENCE", 0.1)
    stand.used_now("a")
    release, entered = threading.Event(), threading.Event()
    send = stand.ledger.send

    class Slow:
        def send(self, request: HttpRequest) -> HttpResponse:
            entered.set()
            release.wait(10)
            return send(request)

    stand.wire.gate = Slow()  # type: ignore[assignment]
    stand.relay.wake()
    assert entered.wait(10)
    began = time.monotonic()
    stand.relay.stop()
    assert time.monotonic() - began < 2.0
    release.set()
    assert 0 == stand.relay.flush(10.0)
    assert {"a-c": 7} == stand.applied()


def test_without_threads_a_flush_settles_by_itself(monkeypatch: pytest.MonkeyPatch):
    """At the end of the interpreter, where no thread starts, a flush does the work where it is called."""

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    stand = Stand()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for attempt in "abc":
        stand.used_now(attempt)
    stand.relay.wake()
    assert 0 == stand.relay.flush(10.0)
    assert 3 == len(stand.applied())
    stand.relay.stop()


def test_tombstones_are_purged_as_they_come(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    """Thousands of cancelled runs leave a bounded number of rows, in memory too."""
    from langchain_vluna._io.relay import loop

    monkeypatch.setattr(loop, "_FORGET_EVERY", 0.0)
    monkeypatch.setattr(upkeep, "_MOST_CANCELED", 20)
    for number in range(100):
        intend(stand.outbox, str(number), state=State.CANCELED)
    stand.relay.wake()
    until(lambda: stand.outbox.query(lambda db: len(rows.select(db, "1"))) <= 20)
