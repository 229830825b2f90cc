"""Drivers: they carry out what a flow asks for, in either colour, and know nothing of gates."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.exchange import Flow, Join, Send, Turn, Wait
from langchain_vluna._core.types import Transport

if TYPE_CHECKING:
    import concurrent.futures

__all__ = ["adrive", "drive"]

T = TypeVar("T")


def drive(flow: Flow[T], transport: Transport, sleep: Callable[[float], None]) -> T:
    """Run `flow` to its end, blocking. An interrupted flow is closed, so that its `finally` runs."""
    try:
        effect = next(flow)
        while True:
            match effect:
                case Send(request):
                    try:
                        response = transport.send(request)
                    except TransportFailure as failure:
                        effect = flow.throw(failure)
                    else:
                        effect = flow.send(response)
                case Wait(seconds):
                    sleep(seconds)
                    effect = next(flow)
                case Join(future):
                    _wait(future)
                    effect = next(flow)
                case Turn():
                    effect = next(flow)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


async def adrive(
    flow: Flow[T],
    transport: Transport,
    sleep: Callable[[float], Awaitable[None]],
    turn: Callable[[], Awaitable[None]],
) -> T:
    """Run `flow` to its end without blocking the event loop."""
    try:
        effect = next(flow)
        while True:
            match effect:
                case Send(request):
                    try:
                        response = await transport.asend(request)
                    except TransportFailure as failure:
                        effect = flow.throw(failure)
                    else:
                        effect = flow.send(response)
                case Wait(seconds):
                    await sleep(seconds)
                    effect = next(flow)
                case Join(future):
                    await _done(future)
                    effect = next(flow)
                case Turn():
                    await turn()
                    effect = next(flow)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


def _wait(future: concurrent.futures.Future[Any]) -> None:
    # `concurrent.futures.wait` never wakes for a future that is cancelled while it waits.
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait()


async def _done(future: concurrent.futures.Future[Any]) -> None:
    import asyncio

    # `asyncio.wait` leaves the future alone when the waiting task is cancelled; awaiting it would cancel it
    # for everybody. Its exception is its owner's business.
    mirror = asyncio.wrap_future(future)
    mirror.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait((mirror,))
