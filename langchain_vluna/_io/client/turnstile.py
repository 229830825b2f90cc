"""Turns on an event loop: a burst of starts must not stand in the way of everything else that runs there."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["Turnstiles"]

_AT_ONCE = 4
"""Turns in one round of a loop: some two milliseconds of work, while a round itself costs some tens of microseconds."""


class Turnstiles:
    """The turnstile of each event loop that this is used on."""

    def __init__(self) -> None:
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turnstile] = weakref.WeakKeyDictionary()

    async def turn(self) -> None:
        """Return at once to the first few callers in a round of the loop, and to others in later rounds, in order."""
        # Here, because importing it takes as long as importing all of this package.
        import asyncio

        loop = asyncio.get_running_loop()
        turnstile = self._by_loop.get(loop)
        if turnstile is None:
            turnstile = self._by_loop[loop] = _Turnstile()
        waiter = turnstile.enter(loop)
        if waiter is not None:
            await waiter


class _Turnstile:
    def __init__(self) -> None:
        self._used = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None] | None:
        """Take a turn, or get something to wait for."""
        if self._used == 0:
            loop.call_soon(self._next_round, loop)
        if self._used < _AT_ONCE:
            self._used += 1
            return None
        waiter = loop.create_future()
        self._waiting.append(waiter)
        return waiter

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._used = 0
        while self._waiting and self._used < _AT_ONCE:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._used += 1
        if self._used:
            loop.call_soon(self._next_round, loop)
