"""Streams that are read in pieces: by other tasks, by other threads, or by nobody any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig, RunnableLambda

from langchain_vluna import Gate, VlunaCallbackHandler, gated
from langchain_vluna.gate import orphans
from langchain_vluna.testing.models import ScriptedChatModel

MODEL = "scripted.scripted-1"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate with money that gives no grace to what looks like an orphan."""
    for name in ("_LOOK_EVERY", "_LOOK_AGAIN", "_YOUNG", "_GRACE_TASK"):
        monkeypatch.setattr(orphans, name, 0.0)
    with Gate.local() as gate:
        for side in ("input", "output"):
            gate.local_gate.price(MODEL, f"{MODEL}.tokens.{side}", 1)
        gate.local_gate.grant("customer", 1_000_000)
        yield gate


@pytest.fixture
def config(gate: Gate) -> Any:
    return {"callbacks": [VlunaCallbackHandler(gate, principal_id="customer")]}


def look_around(gate: Gate) -> None:
    """Look for orphans as often as it takes to find one and settle it."""
    for _ in range(4):
        gate.engine.watch.sweep()
    gate.flush()


def charged(gate: Gate) -> list[str]:
    assert 0 == gate.flush()
    assert [] == [lease for lease in gate.local_gate.leases("active") if not lease.commits]
    return [rating.labels["usage_source"] for rating in gate.local_gate.ratings()]


async def test_a_chain_that_streams_is_charged_at_its_end(gate: Gate, config: Any) -> None:
    """LangChain reads each chunk of a chain in a task of its own, whose end is not the end of the run."""
    chain = ScriptedChatModel(responses=["one two three four"]) | StrOutputParser()
    stream = chain.astream("Count.", config)
    await anext(stream)
    await anyio.to_thread.run_sync(look_around, gate)
    rest = [chunk async for chunk in stream]
    assert "two three four" == "".join(rest).strip()
    assert ["reported"] == await anyio.to_thread.run_sync(charged, gate)


def test_a_stream_may_be_read_by_a_thread_per_chunk(gate: Gate, config: Any) -> None:
    """Web servers read a sync stream in whichever thread is free; a thread that ended is not the end of the run."""
    stream = ScriptedChatModel(responses=["one two three four"]).stream("Count.", config)
    first = threading.Thread(target=lambda: next(stream))
    first.start()
    first.join()
    look_around(gate)
    list(stream)
    assert ["reported"] == charged(gate)


def test_a_stream_that_another_handler_stopped_is_cancelled(gate: Gate, config: Any) -> None:
    """No event tells that another handler raised after we were admitted; the generator that is gone does."""

    class Refusing(BaseCallbackHandler):
        raise_error = True

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            raise RuntimeError

    model = ScriptedChatModel()
    # A kept exception would keep the stream alive, so `pytest.raises` will not do.
    with suppress(RuntimeError):
        pytest.fail(f"nobody refused: {list(model.stream('Hello', {'callbacks': [*config['callbacks'], Refusing()]}))}")
    look_around(gate)
    assert [] == charged(gate)
    assert ["canceled"] == [lease.state for lease in gate.local_gate.leases()]


def test_work_lasts_until_its_block_is_left(gate: Gate) -> None:
    """The function that entered it, such as an exit stack's, may be gone long before."""
    with ExitStack() as stack:
        run = stack.enter_context(gate.run(feature_code=MODEL, principal_id="customer"))
        run.record(2)
        look_around(gate)
        run.record(3)
    assert ["reported"] == charged(gate)
    assert [5] == [rating.quantity for rating in gate.local_gate.ratings()]


def test_closing_one_gated_stream_leaves_another_alone(gate: Gate, config: Any) -> None:
    """Streams may be read in turns: the one that is closed is charged what it delivered, the other one in full."""

    def guarded() -> Generator[Any]:
        with gated(config["callbacks"][0]):
            yield from ScriptedChatModel(responses=["one two three"]).stream("Count.")

    first = guarded()
    next(first)
    second = ScriptedChatModel(responses=["four five six"]).stream("Count.", config)
    next(second)
    first.close()
    look_around(gate)
    list(second)
    assert ["estimated", "reported"] == charged(gate)


async def test_a_stream_that_outlives_its_chain_may_be_read_slowly(gate: Gate, config: Any) -> None:
    """A chain that leaves a stream to the background is over; whoever holds the stream will read it to its end."""
    model = ScriptedChatModel(responses=["one two three"])
    streams: list[AsyncIterator[Any]] = []

    async def begin(question: str, config: RunnableConfig) -> str:
        streams.append(model.astream(question, config))
        await anext(streams[0])
        return "later"

    await RunnableLambda(begin).ainvoke("Count.", config)
    for run in gate.engine.book.open_runs():
        run.touched -= 10.0
        run.orphaned_at = 0.0
    await anyio.to_thread.run_sync(gate.engine.watch.sweep)
    assert "two three" == "".join([chunk.text async for chunk in streams[0]]).strip()
    assert ["reported"] == await anyio.to_thread.run_sync(charged, gate)


async def test_an_identity_around_a_stream_ends_quietly(gate: Gate) -> None:
    """Who pays is told when the stream begins; a reader with a task per chunk sees the end, and no error of ours."""

    async def guarded() -> AsyncGenerator[Any]:
        with gate.identity(principal_id="customer"):
            handler = VlunaCallbackHandler(gate)
            async for chunk in ScriptedChatModel(responses=["one two"]).astream("Count.", {"callbacks": [handler]}):
                yield chunk

    stream, chunks = guarded(), 0
    with suppress(StopAsyncIteration):
        while await asyncio.create_task(stream.asend(None)):
            chunks += 1
    assert chunks > 2
    assert ["reported"] == await anyio.to_thread.run_sync(charged, gate)
