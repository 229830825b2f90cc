"""The parts of the relay by themselves: circuit, rows in flight, threads, complaints."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator

import pytest

from langchain_vluna._core.types import Identity
from langchain_vluna._io.outbox import OutboxError, Row
from langchain_vluna._io.relay.carrier import Complaints
from langchain_vluna._io.relay.circuit import Circuit, RelayTimes
from langchain_vluna._io.relay.crew import Crew
from langchain_vluna._io.relay.inflight import Inflight


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


TIMES = RelayTimes(first_retry=1.0, last_retry=8.0, longest_advice=100.0)


def test_waits_double_up_to_a_bound():
    """Each failure doubles the wait, up to the longest; the gate's advice comes first, and is bounded too."""
    assert [1.0, 2.0, 4.0, 8.0, 8.0] == [TIMES.backoff(n) for n in range(1, 6)]
    assert 8.0 == TIMES.backoff(10_000)
    assert (30.0, 100.0) == (TIMES.backoff(1, 30.0), TIMES.backoff(1, 1e9))


def test_a_closed_circuit_lets_all_pass(clock: Clock):
    """While the gate answers, nothing is held back."""
    circuit = Circuit(TIMES, clock)
    assert 10 == circuit.allowance(10, urgent=False)
    circuit.probing()
    assert 10 == circuit.allowance(10, urgent=False)


def test_an_open_circuit_lets_one_probe_pass_at_a_time(clock: Clock):
    """After a failure nothing goes, then one row; only when that one came back, the next."""
    circuit = Circuit(TIMES, clock)
    circuit.failed(None)
    assert circuit.is_open
    assert (0, 1.0) == (circuit.allowance(10, urgent=False), circuit.wait())
    clock.now += 1.0
    assert 1 == circuit.allowance(10, urgent=False)
    circuit.probing()
    assert (0, math.inf) == (circuit.allowance(10, urgent=False), circuit.wait())
    circuit.failed(None)
    assert 2.0 == circuit.wait()
    clock.now += 2.0
    circuit.probing()
    circuit.probed()
    assert 1 == circuit.allowance(10, urgent=False)
    circuit.answered()
    assert (10, False) == (circuit.allowance(10, urgent=False), circuit.is_open)


def test_somebody_who_waits_gets_probes_at_the_shortest_distance(clock: Clock):
    """However long the circuit would stay open, a flush may probe after the first wait."""
    circuit = Circuit(TIMES, clock)
    for _ in range(4):
        circuit.failed(60.0)
    clock.now += 0.9
    assert 0 == circuit.allowance(10, urgent=True)
    clock.now += 0.1
    assert (1, 0) == (circuit.allowance(10, urgent=True), circuit.allowance(10, urgent=False))


def row(attempt: str) -> Row:
    return Row(attempt, Identity("p"), attempt, attempt, {"feature_code": "f"})


def test_a_row_is_taken_by_one(clock: Clock):
    """A row that somebody has is neither taken nor reserved by another until it is given back."""
    inflight = Inflight(clock)
    due = [row("a"), row("b"), row("c")]
    assert ["a", "b"] == [taken.attempt for taken in inflight.take(due, 2)]
    assert not inflight.reserve("a")
    assert ["c"] == [taken.attempt for taken in inflight.take(due, 2)]
    assert inflight.busy()
    inflight.release(["a", "b", "c"])
    assert not inflight.busy()
    assert inflight.reserve("a")
    assert ["b", "c"] == [taken.attempt for taken in inflight.take(due, 5)]


def test_a_row_rests_after_a_try(clock: Clock):
    """A row that came back is not taken again before its rest is over, and then forgotten."""
    inflight = Inflight(clock)
    inflight.take([row("a")], 1)
    inflight.release(["a"], 5.0)
    assert ([], 5.0) == (inflight.take([row("a")], 1), inflight.next_end())
    clock.now += 5.0
    assert None is inflight.next_end()
    assert {} == inflight._until
    assert inflight.reserve("a")


@pytest.fixture
def crew() -> Iterator[Crew[int]]:
    done: list[int] = []
    gate = threading.Event()

    def carry_out(job: int) -> None:
        gate.wait(10)
        done.append(job)

    crew: Crew[int] = Crew(lambda _: None, carry_out)
    crew.done, crew.gate = done, gate  # type: ignore[attr-defined]
    crew.start()
    yield crew
    gate.set()
    crew.stopping = True
    crew.dismiss(5.0)


def test_there_are_as_many_workers_as_there_is_work(crew: Crew[int]):
    """Busy workers get company, up to a bound, and idle ones are used first."""
    for job in range(40):
        crew.put(job)
    assert 1 < len(crew._workers) <= 16
    crew.gate.set()  # type: ignore[attr-defined]
    deadline = threading.Event()
    for _ in range(1000):
        if len(crew.done) == 40:  # type: ignore[attr-defined]
            break
        deadline.wait(0.01)
    assert set(range(40)) == set(crew.done)  # type: ignore[attr-defined]
    workers = len(crew._workers)
    crew.put(41)
    assert workers == len(crew._workers)


def test_dismissed_workers_leave_what_they_did_not_begin(crew: Crew[int]):
    """Jobs that nobody began come back, and threads that hang are not waited for for ever."""
    for job in range(40):
        crew.put(job)
    crew.stopping = True
    left = crew.dismiss(0.05)
    assert 40 - 16 <= len(left) < 40


def test_without_threads_jobs_are_carried_out_on_demand(monkeypatch: pytest.MonkeyPatch):
    """Where no thread starts any more, whoever needs the work done does it."""

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    crew: Crew[int] = Crew(lambda _: None, done.append)
    crew.start()
    crew.put(1)
    assert (False, []) == (crew.threaded, done)
    crew.drain()
    assert [1] == done


def test_a_complaint_is_made_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture):
    """What is noticed a hundred times is said once, and again when it lasts."""
    complaints = Complaints(clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(100):
            complaints.say(OutboxError("disk full"))
        complaints.say(OutboxError("another"))
        clock.now += 60
        complaints.say(OutboxError("disk full"))
        for number in range(1000):
            complaints.say(OutboxError(f"{number}"))
    said = [record.getMessage() for record in caplog.records]
    assert [f"settlement waits: {what}" for what in ("disk full", "another", "disk full", "0")] == said[:4]
    assert len(complaints._said) <= 100
