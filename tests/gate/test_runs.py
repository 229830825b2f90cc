"""Which starts are the same run, and which are another with the same id."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from langchain_vluna import ConfigurationError, VlunaCallbackHandler
from langchain_vluna.gate.runs import RunBook
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.hall import CUSTOMER, Hall, Measured, body

FEATURE = "scripted.scripted-1"


@pytest.fixture
def hall() -> Iterator[Hall]:
    with Hall().open() as hall:
        for side in ("input", "output"):
            hall.ledger.price(FEATURE, f"{FEATURE}.tokens.{side}", 1)
        yield hall


def handler(hall: Hall) -> VlunaCallbackHandler:
    return VlunaCallbackHandler(hall.gate, principal_id=CUSTOMER)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_start_told_twice_is_one_run(hall: Hall, colour: str):
    """Two handlers of one gate, or one attached twice, ask once and charge once."""
    ours = handler(hall)
    model = ScriptedChatModel().with_config(callbacks=[ours])
    config: Any = {"callbacks": [ours, handler(hall)], "run_id": uuid4()}
    if colour == "sync":
        model.invoke("hello", config)
    else:
        asyncio.run(model.ainvoke("hello", config))
    assert 0 == hall.gate.flush(10)
    assert (1, 1) == (hall.ledger.requests["authorize"], len(hall.applied()))


def test_a_start_told_twice_by_hand_is_one_run(hall: Hall):
    """Whoever drives a handler by hand may repeat himself too."""
    ours, run_id = handler(hall), uuid4()
    for _ in range(2):
        ours.on_chat_model_start({}, [[]], run_id=run_id, metadata={"ls_provider": "scripted", "ls_model_name": "m"})
    assert 1 == hall.ledger.requests["authorize"]
    ours.on_llm_error(ValueError(), run_id=run_id)


def test_one_config_used_again_is_another_run(hall: Hall):
    """A run id that comes again after its run ended is asked for, and charged, again."""
    config: Any = {"callbacks": [handler(hall)], "run_id": uuid4()}
    for _ in range(2):
        ScriptedChatModel().invoke("hello", config)
    assert 0 == hall.gate.flush(10)
    assert (2, 2) == (hall.ledger.requests["authorize"], len(hall.applied()))


def test_a_run_id_of_an_abandoned_stream_is_asked_for_again(hall: Hall):
    """Nothing runs unasked because its id belongs to a stream that nobody reads on; what that delivered is charged."""
    model = ScriptedChatModel(responses=["one two three"])
    config: Any = {"callbacks": [handler(hall)], "run_id": uuid4()}
    abandoned = model.stream("hello", config)
    next(abandoned)
    model.invoke("hello", config)
    assert 2 == hall.ledger.requests["authorize"]
    abandoned.close()  # type: ignore[attr-defined]
    assert 0 == hall.gate.flush(10)
    assert ["estimated", "reported"] == sorted(r.labels["usage_source"] for r in hall.ledger.ratings())


async def test_a_run_id_of_a_cancelled_call_is_asked_for_again(hall: Hall):
    """A call that was cancelled a moment ago does not stand in the way of the next with its id."""
    config: Any = {"callbacks": [handler(hall)], "run_id": uuid4()}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ScriptedChatModel(hang_after=0).ainvoke("hello", config)
    await ScriptedChatModel().ainvoke("hello", config)
    assert 0 == await hall.gate.aflush(10)
    assert 2 == hall.ledger.requests["authorize"]
    assert ["canceled", "closed"] == sorted(lease.state for lease in hall.ledger.leases() if lease.state != "active")


def test_a_run_id_of_a_call_that_runs_is_refused(hall: Hall):
    """Two calls at once under one id cannot be told apart: the second is an error, before any work."""
    config: Any = {"callbacks": [handler(hall)], "run_id": uuid4()}
    slow = ScriptedChatModel(hang_after=0)
    thread = threading.Thread(target=slow.invoke, args=("hello", config))
    thread.start()
    while not slow.calls:
        threading.Event().wait(0.005)
    with pytest.raises(ConfigurationError, match="is in use by a call that still runs"):
        ScriptedChatModel().invoke("hello", config)
    slow.release()
    thread.join()
    assert 0 == hall.gate.flush(10)
    assert 1 == len(hall.applied())


def test_only_so_many_ended_runs_are_remembered(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    """The memory of runs that may end late is bounded."""
    from langchain_vluna.gate import runs

    monkeypatch.setattr(runs, "_MOST_LATE", 5)
    for _ in range(20):
        hall.fail(hall.begin())
    assert 5 == len(hall.engine.book._late)
    assert [] == hall.engine.book.open_runs()


def test_the_bills_of_only_so_many_cancelled_runs_are_held(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    """A provider that fails for hours leaves no bill behind per failure; a late end of the last ones is on theirs."""
    from langchain_vluna.gate import observers

    monkeypatch.setattr(observers, "_MOST_RELEASED", 5)
    begun = [hall.begin() for _ in range(20)]
    for run in begun:
        hall.fail(run)
        assert 0 == hall.gate.flush(10)
    assert 5 == len(hall.engine.observers._tabs)
    bills = [hall.gate.bill(run_id=str(run.spec.run_id)) for run in begun]
    for run in begun[-2:]:
        hall.use(run)
    assert 3 == len(hall.engine.observers._released)
    assert 0 == hall.gate.flush(10)
    assert [7, 7] == hall.applied()
    assert [0] * 18 + [14, 14] == [bill.amount_xusd for bill in bills]
    assert 3 == len(hall.engine.observers._tabs)


@pytest.mark.isolated
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_begins_with_nothing(tmp_path: Path):
    """A child neither settles nor ends its parent's runs; what it runs itself is charged; the parent goes on."""
    with Hall(outbox=tmp_path / "vluna.outbox").open() as hall:
        run = hall.begin()
        hall.use(hall.begin(), 5)
        assert 0 == hall.gate.flush(10)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                book: RunBook = hall.engine.book
                alone = (book.open_runs(), book.find(run.spec.run_id), hall.left()[0].state) == ([], None, "open")
                own = hall.begin(meter=Measured(body(6)))
                hall.use(own, 6)
                left = hall.gate.close(10)
                status = 0 if alone and left == 0 and 6 in hall.applied() else 2
            finally:
                os._exit(status)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hall.use(run, 7)
        assert 0 == hall.gate.flush(10)
        assert [5, 7] == hall.applied()  # the ledger is in memory: the child charged its own copy of it
