"""Runs whose end nobody tells: cancelled, timed out, broken off, abandoned. No lease stays open.

What was delivered is charged, estimated and labelled so; where nothing was, the lease is cancelled.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from langchain_core.runnables import RunnableLambda

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES, answering, perform
from tests.surfaces.waiting import settled, settled_sync, until

pytestmark = pytest.mark.usefixtures("quick_watch")

PROMPT = "What is the answer?"


def hanging(after: int) -> ScriptedChatModel:
    return ScriptedChatModel(responses=[answering], hang_after=after)


def assert_cancelled(till: Till, ratings: list[Any]) -> None:
    """The one lease was cancelled and nothing was charged."""
    assert [] == ratings
    assert ["canceled"] == [view.state for view in till.ledger.leases()]


def assert_delivered_is_charged(ratings: list[Any], text: str) -> None:
    """The one run was charged an estimated prompt, and the text that was delivered."""
    assert ["applied"] == [rating.status for rating in ratings]
    assert "estimated" == ratings[0].labels["usage_source"]
    assert -(-len(text) // 4) == ratings[0].meters[f"{MODEL}.tokens.output"]
    assert ratings[0].meters[f"{MODEL}.tokens.input"] >= len(PROMPT) // 4


# --- cancelled before anything was delivered ------------------------------------------------------------------------


async def cancel_the_task(call: Awaitable[Any], ready: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(call)
    await until(ready)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def wait_for(call: Awaitable[Any], ready: Callable[[], bool]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call, 0.3)


async def timeout_in_a_task_that_lives_on(call: Awaitable[Any], ready: Callable[[], bool]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(None) as limit:
            waiting = asyncio.ensure_future(until(ready))
            waiting.add_done_callback(lambda _: limit.reschedule(0))
            await call

    with pytest.raises(TimeoutError):
        await in_time()


async def scope_in_a_task_that_lives_on(call: Awaitable[Any], ready: Callable[[], bool]) -> None:
    with anyio.CancelScope() as scope:
        waiting = asyncio.ensure_future(until(ready))
        waiting.add_done_callback(lambda _: scope.cancel())
        await call


CANCELLATIONS: list[Callable[[Awaitable[Any], Callable[[], bool]], Awaitable[None]]] = [
    cancel_the_task,
    wait_for,
    timeout_in_a_task_that_lives_on,
    scope_in_a_task_that_lives_on,
]
ASYNC_SHAPES = ["model", "chain", "agent_executor", "async_node", "react_agent", "create_agent"]


@pytest.mark.parametrize("cancel", CANCELLATIONS)
@pytest.mark.parametrize("name", ASYNC_SHAPES)
async def test_a_cancelled_call_leaves_no_lease(make_till: MakeTill, name: str, cancel: Any) -> None:
    """A call cancelled while the provider thinks charges nothing and cancels its lease, in a task that lives on."""
    till, shape = make_till(), SHAPES[name]
    model = hanging(0)
    await cancel(shape.build(model).ainvoke(shape.ask(PROMPT), till.unwitnessed()), lambda: model.calls > 0)
    assert 1 == model.calls
    assert_cancelled(till, await settled(till))


@pytest.mark.parametrize("on_abort", ["bill_delivered", "cancel"])
@pytest.mark.parametrize("cancel", [cancel_the_task, wait_for, scope_in_a_task_that_lives_on])
async def test_a_cancelled_stream_is_charged_what_it_delivered(make_till: MakeTill, cancel: Any, on_abort: Any) -> None:
    """A stream cancelled after two words is charged these words, estimated, or cancelled where the user says so."""
    till, model = make_till(), hanging(2)
    config = till.config(till.handler(on_abort=on_abort))

    async def listen() -> None:
        async for _ in model.astream(PROMPT, config):
            pass

    await cancel(listen(), lambda: len(till.witness.texts) == 2)
    ratings = await settled(till)
    if on_abort == "cancel":
        assert_cancelled(till, ratings)
    else:
        assert_delivered_is_charged(ratings, "".join(till.witness.texts))


# --- a consumer who stops reading -----------------------------------------------------------------------------------


async def break_and_close(stream: Any) -> list[Any]:
    heard = []
    async for chunk in stream:
        heard.append(chunk)
        if len(heard) == 2:
            break
    await stream.aclose()
    return heard


async def break_and_forget(stream: Any) -> list[Any]:
    heard = [await anext(stream), await anext(stream)]
    del stream
    gc.collect()
    await asyncio.sleep(0.01)
    return heard


@pytest.mark.parametrize("leave", [break_and_close, break_and_forget])
@pytest.mark.parametrize("name", ["model", "chain"])
async def test_a_broken_async_stream_is_charged_what_it_delivered(till: Till, name: str, leave: Any) -> None:
    """A consumer who breaks off after two chunks is charged what the provider had delivered."""
    shape = SHAPES[name]
    stream = shape.build(shape.model()).astream(shape.ask(PROMPT), till.config())
    heard = [str(getattr(chunk, "content", chunk)) for chunk in await leave(stream)]
    del stream
    ratings = await settled(till)
    assert "".join(heard) == "".join(till.witness.texts)
    assert_delivered_is_charged(ratings, "".join(heard))


@pytest.mark.parametrize("name", ["sync_node", "async_node", "create_agent"])
async def test_a_broken_async_graph_stream_settles(till: Till, name: str) -> None:
    """A graph's message stream broken off in its middle is charged what was delivered, or all if its node finished."""
    shape = SHAPES[name]
    model = ScriptedChatModel(responses=[answering])
    stream = shape.build(model).astream(shape.ask(PROMPT), till.config(), stream_mode="messages")
    async for _ in stream:
        break
    await stream.aclose()
    ratings = await settled(till)
    assert 1 == len(ratings)
    if till.witness.finished("model"):
        assert "reported" == ratings[0].labels["usage_source"]
    else:
        assert_delivered_is_charged(ratings, "".join(till.witness.texts))


def test_a_closed_sync_stream_is_charged_what_it_delivered(till: Till) -> None:
    """A model's stream that is closed early is charged what was delivered."""
    stream: Any = ScriptedChatModel().stream(PROMPT, till.config())
    heard = str(next(stream).content) + str(next(stream).content)
    stream.close()
    assert_delivered_is_charged(settled_sync(till), heard)


@pytest.mark.parametrize("name", ["chain", "sync_node"])
def test_a_drained_sync_stream_is_charged_in_full(till: Till, name: str) -> None:
    """A chain's or graph's stream that is closed early is drained by LangChain, so it is charged what it reported."""
    shape = SHAPES[name]
    stream: Any = shape.build(shape.model()).stream(shape.ask(PROMPT), till.config())
    next(stream)
    stream.close()
    settled_sync(till)
    till.assert_exact()


def test_an_abandoned_stream_is_settled_when_the_gate_closes(till: Till) -> None:
    """A stream that is held and never read on is charged what was delivered, at the latest when the gate closes."""
    stream = ScriptedChatModel().stream(PROMPT, till.config())
    heard = str(next(stream).content)
    assert [MODEL] == till.open_leases()
    assert 0 == till.gate.close()
    assert_delivered_is_charged(till.ratings(), heard)
    assert [] == till.open_leases()
    del stream


def test_the_end_of_an_abandoned_stream_counts_after_all(till: Till) -> None:
    """A stream given up for dead that is read to its end is still charged once."""
    stream = ScriptedChatModel().stream(PROMPT, till.unwitnessed())
    heard = str(next(stream).content)
    till.gate.engine.watch.settle_all("nothing happened to it for long")
    assert_delivered_is_charged(settled_sync(till), heard)
    assert list(stream)
    assert 1 == len(settled_sync(till))


def test_an_answer_after_its_run_was_given_up_is_charged(make_till: MakeTill) -> None:
    """A run that was given up for dead, and cancelled, is charged by ingest when its answer comes after all."""
    till = make_till()

    def answer(messages: Any) -> Any:
        till.gate.engine.watch.settle_all("nothing happened to it for long")
        assert 0 == till.gate.flush(10.0)
        return answering(messages)

    ScriptedChatModel(responses=[answer]).invoke(PROMPT, till.config())
    settled_sync(till)
    till.assert_exact()
    assert ["ingest"] == [rating.source for rating in till.ratings()]
    assert ["canceled"] == [view.state for view in till.ledger.leases()]


def test_ctrl_c_in_the_consumer_is_charged_what_was_delivered(till: Till) -> None:
    """A KeyboardInterrupt between chunks is charged like any other walk-away."""
    heard = ""

    def listen() -> None:
        nonlocal heard
        for chunk in ScriptedChatModel().stream(PROMPT, till.config()):
            heard += str(chunk.content)
            if len(heard) > 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listen()
    assert_delivered_is_charged(settled_sync(till), heard)


# --- a provider that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["model", "chain", "sync_node", "create_agent"])
def test_a_failing_provider_is_not_charged(make_till: MakeTill, name: str, colour: str) -> None:
    """An error of the provider reaches the caller as it is, and cancels the lease."""
    till, shape = make_till(), SHAPES[name]
    runnable: Any = shape.build(ScriptedChatModel(responses=[OverflowError("too much")]))
    with pytest.raises(OverflowError, match="too much"):
        perform(runnable, shape.ask(PROMPT), colour, till.config())
    assert_cancelled(till, settled_sync(till))


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_retries_after_failures_are_runs_of_their_own(till: Till, colour: str) -> None:
    """Of three attempts, two failing, each is asked for, and only the one that answered is charged."""
    model = ScriptedChatModel(responses=[OSError("no"), OSError("no"), "yes"])
    runnable = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False, retry_if_exception_type=(OSError,))
    perform(runnable, PROMPT, colour, till.config())
    settled_sync(till)
    till.assert_exact(asked=3)
    assert ["canceled", "canceled"] == [view.state for view in till.ledger.leases("canceled")]


async def test_a_failed_branch_spares_the_others(till: Till) -> None:
    """When a parallel branch fails, those that go on behind the caller's back are charged when they end."""
    slow = hanging(0)

    async def fails(_: Any) -> None:
        await until(lambda: slow.calls > 0)
        msg = "branch failed"
        raise OverflowError(msg)

    chain = RunnableLambda(lambda text: text) | {"slow": slow, "quick": hanging(99), "fails": RunnableLambda(fails)}
    with pytest.raises(OverflowError):
        await chain.ainvoke(PROMPT, till.config())
    slow.release()
    await until(lambda: len(till.witness.finished("model")) == 2)
    await settled(till)
    till.assert_exact(asked=2)


# --- the gate's answer comes too late -------------------------------------------------------------------------------


async def test_a_call_cancelled_while_the_gate_is_asked_leaves_no_lease(make_till: MakeTill) -> None:
    """A lease granted to a caller who left meanwhile is found and cancelled, and the provider is not called."""
    till, model = make_till(replays=False), ScriptedChatModel()
    till.ledger.fault("delay", on="authorize", seconds=0.1)
    call = asyncio.create_task(model.ainvoke(PROMPT, till.unwitnessed()))
    await until(lambda: till.asked > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [] == await settled(till)
    assert (0, []) == (model.calls, till.ledger.leases("active"))


async def test_orphans_can_be_charged_their_prompt(make_till: MakeTill) -> None:
    """With `on_orphan="bill_estimate"` a call cancelled before its answer is charged its prompt, estimated."""
    till, model = make_till(options={"on_orphan": "bill_estimate"}), hanging(0)
    await cancel_the_task(model.ainvoke(PROMPT, till.unwitnessed()), lambda: model.calls > 0)
    ratings = await settled(till)
    assert [{f"{MODEL}.tokens.input": 4 + -(-len(PROMPT) // 4)}] == [dict(rating.meters) for rating in ratings]
    assert ["estimated"] == [rating.labels["usage_source"] for rating in ratings]
