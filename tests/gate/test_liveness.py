"""Whether the code that started a run is still at it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Generator
from types import ModuleType

import pytest

from langchain_vluna.gate.liveness import Caller, Stacks, find_caller


def looked_at(caller: Caller) -> tuple[bool, bool]:
    """What a look from another thread says: maybe running, certainly at work."""
    seen: list[tuple[bool, bool]] = []

    def look() -> None:
        stacks = Stacks()
        seen.append((stacks.running(caller), stacks.sees(caller)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return seen[0]


RUNNING, GONE, UNTOLD = (True, True), (False, False), (True, False)


def test_a_function_on_a_stack_is_at_work():
    """A plain call is at work until it returns."""

    def call() -> Caller:
        caller = find_caller()
        assert RUNNING == looked_at(caller)
        return caller

    assert GONE == looked_at(call())


def test_of_green_threads_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch):
    """Under gevent a call that waits is on no stack, and its thread's id is no thread's: it may be running."""
    monkeypatch.setitem(sys.modules, "gevent", ModuleType("gevent"))

    def call() -> Caller:
        return find_caller()

    assert UNTOLD == looked_at(call())


def test_a_call_in_a_thread_that_ended_is_over():
    """A thread's end is the end of what it ran."""
    callers: list[Caller] = []
    thread = threading.Thread(target=lambda: callers.append(find_caller()))
    thread.start()
    thread.join()
    assert GONE == looked_at(callers[0])


async def test_a_task_that_waits_inside_a_call_is_at_work():
    """A call is found on its task's chain of awaits, and is over when a surviving task left it."""
    caller: list[Caller] = []

    async def call() -> None:
        caller.append(find_caller())
        await asyncio.Event().wait()

    async def survives() -> None:
        try:
            async with asyncio.timeout(0.05):
                await call()
        except TimeoutError:
            await asyncio.Event().wait()

    task = asyncio.create_task(survives())
    await asyncio.sleep(0.01)
    assert RUNNING == looked_at(caller[0])
    await asyncio.sleep(0.1)
    assert not task.done()
    assert GONE == looked_at(caller[0])
    task.cancel()


async def test_a_task_that_computes_is_at_work():
    """A call that does not await is found on the stack of its loop's thread."""

    async def call() -> tuple[bool, bool]:
        return looked_at(find_caller())

    async def outer() -> tuple[bool, bool]:
        return await call()

    assert RUNNING == await asyncio.create_task(outer())


async def test_a_call_whose_task_ended_is_over():
    """A finished task runs nothing, whatever it left undone."""

    async def call() -> Caller:
        return find_caller()

    assert GONE == looked_at(await asyncio.create_task(call()))


async def test_a_collected_task_runs_nothing():
    """Nothing is held of a task; when it is gone, so is its call."""

    async def call() -> Caller:
        return find_caller()

    task = asyncio.create_task(call())
    caller = await task
    del task
    assert caller.task is not None
    assert GONE == looked_at(caller)


def test_a_generator_that_nobody_steps_says_nothing():
    """A stream that is not being read is neither seen nor given up."""

    def stream() -> Generator[Caller, None, None]:
        caller = find_caller()
        assert RUNNING == looked_at(caller)
        yield caller
        yield caller

    steps = stream()
    assert UNTOLD == looked_at(next(steps))
    steps.close()


async def test_an_async_generator_that_nobody_steps_says_nothing():
    """As with plain ones: whoever reads a stream may come back."""

    async def stream() -> AsyncIterator[Caller]:
        yield find_caller()

    steps = stream()
    assert UNTOLD == looked_at(await anext(steps))


async def test_a_chain_of_awaits_that_cannot_be_followed_says_nothing():
    """What an async generator awaits for a task cannot be seen: the run is left alone."""
    caller: list[Caller] = []

    async def call() -> None:
        caller.append(find_caller())
        await asyncio.Event().wait()

    async def generator() -> AsyncIterator[int]:
        await call()
        yield 1

    async def consume() -> None:
        async for _ in generator():
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    running, sees = looked_at(caller[0])
    assert (True, False) == (running, sees)
    task.cancel()


async def test_places_are_told_apart_by_thread_and_task():
    """Two starts are in the same place if the same thread and the same task made them."""

    async def here() -> Caller:
        return find_caller()

    mine = find_caller()
    assert mine.same_place(find_caller())
    assert not mine.same_place(await asyncio.create_task(here()))
    elsewhere = await asyncio.to_thread(find_caller)
    assert not mine.same_place(elsewhere)
