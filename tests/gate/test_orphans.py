"""Runs whose end nobody tells: who finds them, when, and what becomes of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel

from langchain_vluna import VlunaCallbackHandler
from langchain_vluna._core.ledger.model import Rating
from langchain_vluna.gate import orphans
from langchain_vluna.gate.liveness import Caller, find_caller
from langchain_vluna.gate.spec import OpenRun
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.hall import CUSTOMER, Hall, Measured, body

FEATURE = "scripted.scripted-1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all graces."""
    for name in ("_LOOK_EVERY", "_LOOK_AGAIN", "_GRACE_TASK", "_YOUNG"):
        monkeypatch.setattr(orphans, name, 0.02)
    monkeypatch.setattr(orphans, "_GRACE_PARENT", 0.1)


@pytest.fixture
def hall() -> Iterator[Hall]:
    with Hall().open() as hall:
        price(hall)
        yield hall


def price(hall: Hall) -> None:
    for side in ("input", "output"):
        hall.ledger.price(FEATURE, f"{FEATURE}.tokens.{side}", 1)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


async def auntil(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(until, condition)


def config(hall: Hall, **more: Any) -> Any:
    return {"callbacks": [VlunaCallbackHandler(hall.gate, principal_id=CUSTOMER)], **more}


def leases(hall: Hall) -> list[str]:
    return [lease.state for lease in hall.ledger.leases()]


def one(hall: Hall) -> Rating:
    (rating,) = hall.ledger.ratings()
    return rating


async def test_a_cancelled_task_s_run_is_cancelled(hall: Hall):
    """A task that is cancelled tells no end: its run is settled at once."""
    model = ScriptedChatModel(hang_after=0)
    task = asyncio.create_task(model.ainvoke("hello", config(hall)))
    await auntil(lambda: model.calls)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await auntil(lambda: leases(hall) == ["canceled"])
    assert [] == hall.applied()


async def test_a_timeout_inside_a_surviving_task_is_found(hall: Hall):
    """A call that its task has left is over, although the task goes on."""
    model = ScriptedChatModel(hang_after=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await model.ainvoke("hello", config(hall))
    await auntil(lambda: leases(hall) == ["canceled"])


async def test_a_call_that_takes_long_is_no_orphan(hall: Hall):
    """A run is left alone for as long as its call waits, or computes, however long."""
    model = ScriptedChatModel(delay=0.5)
    await model.ainvoke("hello", config(hall))
    assert 0 == await hall.gate.aflush(10)
    assert "reported" == one(hall).labels["usage_source"]
    assert "commit" == one(hall).source


def test_a_run_after_which_another_handler_raised_is_found(hall: Hall):
    """When a handler behind ours raises, LangChain tells us nothing: the run's function is gone."""

    class Raises(BaseCallbackHandler):
        raise_error = True

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            message = "no"
            raise ValueError(message)

    model = ScriptedChatModel()
    handler = VlunaCallbackHandler(hall.gate, principal_id=CUSTOMER)
    with pytest.raises(ValueError, match="no"):
        model.invoke("hello", {"callbacks": [handler, Raises()]})
    until(lambda: leases(hall) == ["canceled"])
    assert 0 == model.calls


def test_a_held_stream_is_left_alone(hall: Hall):
    """A stream that somebody holds may be read on."""
    model = ScriptedChatModel(responses=["one two three"])
    stream = model.stream("hello", config(hall))
    next(stream)
    time.sleep(0.3)
    assert ["active"] == leases(hall)
    list(stream)
    assert 0 == hall.gate.flush(10)
    assert "reported" == one(hall).labels["usage_source"]


def test_a_stream_that_is_drained_after_its_chain_ended_is_charged_in_full(hall: Hall):
    """A chain may end before its model does: while the model delivers, its run waits for the real usage."""
    model = ScriptedChatModel(responses=["one two three four five six seven eight nine ten"], delay=0.04)
    chain = ChatPromptTemplate.from_template("{text}") | model | StrOutputParser()
    stream = chain.stream({"text": "hello"}, config(hall))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 0 == hall.gate.flush(10)
    assert "reported" == one(hall).labels["usage_source"]


async def test_a_branch_that_outlives_its_failed_sibling_is_charged(hall: Hall):
    """When one branch fails, the chain ends; the other branch goes on, and is charged what it reports."""
    model = ScriptedChatModel(delay=0.6)

    async def fails(_: str) -> str:
        message = "broken branch"
        raise ValueError(message)

    both = RunnableParallel(good=model, bad=RunnableLambda(fails))
    with pytest.raises(ValueError, match="broken branch"):
        await both.ainvoke("hello", config(hall))
    await asyncio.sleep(0.7)
    assert 0 == await hall.gate.aflush(10)
    assert "reported" == one(hall).labels["usage_source"]


def begun(hall: Hall, **how: Any) -> OpenRun:
    """Begin a run as a stream does, of which nobody can say from outside whether it goes on."""
    run = hall.begin(**{"caller": Caller(threading.get_ident(), None, comes_and_goes=True), **how})
    hall.engine.watch.watch(run)
    hall.engine.relay.attend()
    return run


def test_what_an_orphan_delivered_is_charged(hall: Hall):
    """An orphan that has delivered something is charged that."""
    run = begun(hall, meter=Measured(body(5, "estimated")))
    hall.engine.watch.left(run.caller, run.started)
    until(lambda: hall.applied() == [5])


def test_a_late_end_overrides_a_cancel(hall: Hall):
    """An orphan that was cancelled and ends after all is charged by ingest, once."""
    run = begun(hall)
    hall.engine.watch.left(run.caller, run.started)
    until(lambda: leases(hall) == ["canceled"])
    assert run is hall.engine.book.find(run.spec.run_id)
    for quantity in (9, 10):
        hall.use(run, quantity)
    assert 0 == hall.gate.flush(10)
    assert [9] == hall.applied()
    assert "ingest" == one(hall).source


def test_a_late_end_after_an_estimate_changes_nothing(hall: Hall):
    """What was charged by estimate stays charged: nobody pays twice."""
    run = begun(hall, meter=Measured(body(5, "estimated")))
    hall.engine.watch.left(run.caller, run.started)
    until(lambda: hall.applied() == [5])
    hall.use(run, 9)
    assert 0 == hall.gate.flush(10)
    assert [5] == hall.applied()


def test_an_orphan_may_be_charged_its_estimate():
    """With `on_orphan="bill_estimate"` a run that never ended is charged its fallback, labelled as an estimate."""
    with Hall(on_orphan="bill_estimate").open() as hall:
        run = begun(hall, fallback=body(3, "estimated"))
        hall.engine.watch.left(run.caller, run.started)
        until(lambda: hall.applied() == [3])


def test_a_run_to_which_nothing_happens_is_given_up():
    """After `orphan_after` seconds without an event a run is an orphan, wherever it is."""
    with Hall(orphan_after=0.2).open() as hall:
        begun(hall)
        until(lambda: leases(hall) == ["canceled"])


def test_a_token_is_an_event():
    """A stream that delivers is not given up, however long it lasts."""
    with Hall(orphan_after=0.3).open() as hall:
        run = begun(hall)
        for _ in range(10):
            time.sleep(0.06)
            assert run.meter is hall.engine.book.open_meter(run.spec.run_id)
        assert ["active"] == leases(hall)
        hall.use(run)


def test_a_parent_s_end_is_the_end_of_what_is_below(hall: Hall):
    """A run whose parent ended, and that nobody sees at work, is settled after a moment."""
    parent = str(uuid4())
    spec = hall.spec(parent_id=parent, root_id=parent)
    begun(hall, spec=spec, caller=hall.elsewhere())
    hall.engine.watch.parent_ended(parent)
    until(lambda: leases(hall) == ["canceled"])
    assert ({}, []) == (hall.engine.book._below, hall.engine.book.open_runs())


def test_a_flush_waits_for_orphans_to_come(hall: Hall):
    """A flush does not end while an orphan's grace lasts."""
    parent = str(uuid4())
    begun(hall, spec=hall.spec(parent_id=parent, root_id=parent), caller=hall.elsewhere())
    hall.engine.watch.parent_ended(parent)
    assert 0 == hall.gate.flush(10)
    assert ["canceled"] == leases(hall)


def test_a_flush_waits_for_an_orphan_that_is_being_written(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    """Between the decision about an orphan and its record on disk a flush does not take all for settled."""
    at_it, go_on = threading.Event(), threading.Event()
    ended = hall.engine.book._records.ended

    def slowly(*told: Any, **how: Any) -> Any:
        at_it.set()
        assert go_on.wait(10)
        return ended(*told, **how)

    monkeypatch.setattr(hall.engine.book._records, "ended", slowly)
    parent = str(uuid4())
    begun(hall, spec=hall.spec(parent_id=parent, root_id=parent), caller=hall.elsewhere())
    hall.engine.watch.parent_ended(parent)
    assert at_it.wait(10)
    assert 1 == hall.engine.relay.unsettled()
    go_on.set()
    assert 0 == hall.gate.flush(10)
    assert ["canceled"] == leases(hall)


def test_closing_settles_what_is_open():
    """What still runs when the gate closes is settled by the orphan rule."""
    hall = Hall()
    begun(hall)
    begun(hall, meter=Measured(body(5, "estimated")))
    assert 0 == hall.gate.close(10)
    assert [5] == hall.applied()
    assert ["canceled", "closed"] == sorted(leases(hall))


def test_closing_leaves_what_is_being_asked_for():
    """A question on its way while the gate closes is not an orphan: it is answered, and its run ends as any other."""
    with Hall().open() as hall:
        begun(hall)
        flow = hall.starting()
        request = next(flow).request
        hall.gate.close(10)
        with pytest.raises(StopIteration) as stop:
            flow.send(hall.ledger.send(request))
        hall.use(stop.value.value, 9)
        assert 0 == hall.gate.flush(10)
        assert [9] == hall.applied()


def test_many_long_runs_are_all_looked_at(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    """However many runs there are, each is looked at in its turn."""
    monkeypatch.setattr(orphans, "_LOOKS_PER_ROUND", 3)
    runs = [begun(hall, caller=_Still.caller()) for _ in range(8)]
    last = begun(hall, caller=hall.elsewhere())
    until(lambda: last.ended)
    assert not any(run.ended for run in runs)
    for run in runs:
        hall.fail(run)


class _Still:
    """A thread that stays in one function."""

    @staticmethod
    def caller() -> Caller:
        found: list[Caller] = []

        def stay() -> None:
            found.append(find_caller())
            time.sleep(3)

        threading.Thread(target=stay, daemon=True).start()
        until(lambda: found)
        return found[0]


def test_one_orphan_that_breaks_does_not_keep_the_others(hall: Hall, caplog: pytest.LogCaptureFixture):
    """An orphan whose settlement raises is logged; the next is settled."""

    class Broken:
        def partial(self) -> None:
            message = "bug"
            raise KeyError(message)

    run, other = begun(hall, meter=Broken()), begun(hall)
    hall.engine.watch.left(run.caller, 0.0)
    until(lambda: other.ended)
    assert "settling orphan run" in caplog.text
    hall.fail(run)
