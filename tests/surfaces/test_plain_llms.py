"""Plain LLMs, text in and text out: their async starts are told in tasks that end before the work begins."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.language_models.fake import FakeListLLM, FakeStreamingListLLM

from langchain_vluna import GateDenied, VlunaCallbackHandler
from tests.support.billing import MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import MODES, SHAPES, perform, run
from tests.surfaces.waiting import settled, settled_sync, until

pytestmark = pytest.mark.usefixtures("quick_watch")

ANSWER = "one two three"


class HeldLLM(FakeListLLM):
    """Answers when it is let go."""

    responses: list[str] = [ANSWER]  # noqa: RUF012 -- a field of the model
    begun: Any = None
    go: Any = None

    def _call(self, *args: Any, **kwargs: Any) -> str:
        self.begun.set()
        self.go.wait()
        return super()._call(*args, **kwargs)

    async def _acall(self, *args: Any, **kwargs: Any) -> str:
        self.begun.set()
        await until(self.go.is_set)
        return super()._call(*args, **kwargs)


def held() -> HeldLLM:
    return HeldLLM(begun=threading.Event(), go=threading.Event())


def handler(till: Till) -> VlunaCallbackHandler:
    return till.handler(features=lambda _: MODEL)


def assert_charged(till: Till, runs: int) -> None:
    ratings = settled_sync(till)
    assert [("commit", "estimated", -(-len(ANSWER) // 4))] * runs == [
        (rating.source, rating.labels["usage_source"], rating.meters[f"{MODEL}.tokens.output"]) for rating in ratings
    ]
    assert runs == till.asked


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "astream_events"])
def test_a_plain_llm_is_charged_an_estimate_in_every_mode(till: Till, mode: str) -> None:
    """A plain LLM that reports nothing is charged prompt and answer, estimated and labelled, once per prompt."""
    llm = FakeStreamingListLLM(responses=[ANSWER])
    assert_charged(till, run(SHAPES["model"], llm, mode, till.unwitnessed(handler(till))))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "astream_events"])
def test_a_denied_plain_llm_is_not_called(make_till: MakeTill, mode: str) -> None:
    """A denied plain LLM does not run, and the gate is asked once."""
    till, llm = make_till(grant=0), held()
    with pytest.raises(GateDenied):
        run(SHAPES["model"], llm, mode, till.unwitnessed(handler(till)))
    assert (False, 1) == (llm.begun.is_set(), till.asked)
    till.assert_nothing_charged()


async def test_an_async_llm_that_thinks_long_is_no_orphan(till: Till) -> None:
    """An async call that outlasts the task its start was told in is charged by commit, not given up for dead."""
    llm = held()
    call = asyncio.create_task(llm.ainvoke("q", till.unwitnessed(handler(till))))
    await until(llm.begun.is_set)
    await asyncio.sleep(0.3)
    assert [MODEL] == await asyncio.to_thread(till.open_leases)
    llm.go.set()
    assert ANSWER == await call
    await asyncio.to_thread(assert_charged, till, 1)


async def test_a_cancelled_async_llm_leaves_no_lease(make_till: MakeTill) -> None:
    """A cancelled async call of a plain LLM is cancelled at the gate."""
    till, llm = make_till(), held()
    call = asyncio.create_task(llm.ainvoke("q", till.unwitnessed(handler(till))))
    await until(llm.begun.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [] == await settled(till)
    assert ["canceled"] == [view.state for view in till.ledger.leases()]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_failing_llm_is_not_charged(make_till: MakeTill, colour: str) -> None:
    """An error of a plain LLM reaches the caller and cancels the lease."""

    class FailingLLM(FakeListLLM):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            msg = "too much"
            raise OverflowError(msg)

        async def _acall(self, *args: Any, **kwargs: Any) -> str:
            return self._call()

    till = make_till()
    with pytest.raises(OverflowError, match="too much"):
        perform(FailingLLM(responses=[""]), "q", colour, till.unwitnessed(handler(till)))
    assert [] == settled_sync(till)
