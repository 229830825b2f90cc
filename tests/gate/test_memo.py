"""Denials from memory, and first questions asked once."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from langchain_vluna._core.errors import GateDenied
from langchain_vluna._core.types import Identity
from langchain_vluna.gate.memo import DenyMemo, Question

QUESTION = Question(Identity("customer"), "model", None)


class Clock:
    now = 100.0
    revision = 1

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memo(clock: Clock) -> DenyMemo:
    return DenyMemo(1.0, clock, lambda: clock.revision)


def ask(memo: DenyMemo, question: Question = QUESTION, loop: Any = None) -> Future[None] | None:
    """Ask, where no other question is on its way."""
    flow = memo.may_ask(question, loop)
    with pytest.raises(StopIteration) as stop:
        next(flow)
    flight: Future[None] | None = stop.value.value
    return flight


def denial(**details: Any) -> GateDenied:
    return GateDenied("no", reason="funding", **details)


def test_a_denial_is_repeated_for_a_while(memo: DenyMemo, clock: Clock):
    """For so many seconds a denial is answered from memory; then the gate is asked again."""
    memo.land(QUESTION, ask(memo), denial())
    with pytest.raises(GateDenied, match="no") as caught:
        ask(memo)
    assert "funding" == caught.value.reason
    clock.now += 1.0
    assert None is not ask(memo)


def test_a_denial_for_its_rate_lasts_as_long_as_the_gate_says(memo: DenyMemo, clock: Clock):
    """The gate's own advice comes before the setting."""
    memo.land(QUESTION, ask(memo), denial(retry_after=30.0))
    clock.now += 29.0
    with pytest.raises(GateDenied):
        ask(memo)


def test_a_denial_is_about_one_question(memo: DenyMemo):
    """Others, other features and other budgets are asked for."""
    memo.land(QUESTION, ask(memo), denial())
    for other in (
        Question(Identity("customer", "user"), "model", None),
        Question(Identity("other"), "model", None),
        Question(Identity("customer"), "tool", None),
        Question(Identity("customer"), "model", "budget"),
    ):
        assert None is not ask(memo, other)


def test_a_change_of_the_gate_forgets_denials(memo: DenyMemo, clock: Clock):
    """A top-up of a local gate is seen at once."""
    memo.land(QUESTION, ask(memo), denial())
    clock.revision += 1
    assert None is not ask(memo)


def test_an_admission_lets_all_ask_at_once(memo: DenyMemo):
    """Once a customer was let in, questions do not wait for each other."""
    memo.land(QUESTION, ask(memo), None)
    assert (None, None) == (ask(memo), ask(memo))


def test_first_questions_wait_for_one_answer(memo: DenyMemo):
    """While the first question is on its way others wait, and share its denial."""
    flight = ask(memo)
    waiting = memo.may_ask(QUESTION, None)
    join = next(waiting)
    assert flight is join.future  # type: ignore[union-attr]
    memo.land(QUESTION, flight, denial())
    assert join.future.done()  # type: ignore[union-attr]
    with pytest.raises(GateDenied):
        next(waiting)


def test_a_question_without_answer_lets_the_next_ask(memo: DenyMemo):
    """An interrupted question neither denies nor blocks."""
    flight = ask(memo)
    waiting = memo.may_ask(QUESTION, None)
    next(waiting)
    memo.land(QUESTION, flight, None)
    with pytest.raises(StopIteration) as stop:
        next(waiting)
    assert None is stop.value.value


def test_another_event_loop_is_not_waited_for(memo: DenyMemo):
    """A question of another loop may wait for this very thread: it is not waited for."""
    ask(memo, loop=object())
    assert None is ask(memo, loop=object())
    assert None is ask(memo, loop=None)


def test_a_memory_of_no_seconds_asks_every_time(clock: Clock):
    """0 is off."""
    memo = DenyMemo(0, clock, lambda: 1)
    assert None is ask(memo)
    memo.land(QUESTION, None, denial())
    assert None is ask(memo)


def test_a_remembered_denial_holds_no_frames(memo: DenyMemo):
    """The memory of a denial does not keep alive what was on the stack when it was raised."""

    class Prompt:
        pass

    def denied() -> weakref.ref[Prompt]:
        prompt = Prompt()
        flight = ask(memo)
        try:
            raise denial()
        except GateDenied as error:
            memo.land(QUESTION, flight, error)
        return weakref.ref(prompt)

    reference = denied()
    gc.collect()
    assert None is reference()


def test_the_memory_is_bounded(memo: DenyMemo, monkeypatch: pytest.MonkeyPatch):
    """Of many customers the latest are remembered."""
    import langchain_vluna.gate.memo as module

    monkeypatch.setattr(module, "_MOST", 10)
    for number in range(50):
        question = Question(Identity(str(number)), "model", None)
        memo.land(question, ask(memo, question), denial())
    assert 10 == len(memo._known)


@pytest.mark.isolated
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_does_not_wait_for_its_parent_s_question(memo: DenyMemo):
    """A question that was on its way in the parent is asked anew in a child, and its lock is free there."""
    ask(memo)
    stop = threading.Event()

    def hold() -> None:
        with memo._lock:
            stop.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if ask(memo) is not None else 1)
    stop.set()
    thread.join()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
