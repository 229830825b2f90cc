"""Waiting for what happens in threads and on loops, without sleeping longer than it takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from tests.support.billing import Till

__all__ = ["settled", "settled_sync", "until"]


async def until(come: Callable[[], bool]) -> None:
    """Wait for something that happens on the loop or in threads."""
    while not come():  # noqa: ASYNC110 -- what is waited for has no event to set
        await asyncio.sleep(0.001)


async def settled(till: Till) -> list[Any]:
    """Wait, with the loop running, until no lease is open, and return the ratings."""
    return await asyncio.to_thread(settled_sync, till)


def settled_sync(till: Till) -> list[Any]:
    """Wait until no lease is open, and return the ratings."""
    pause = threading.Event()
    for _ in range(250):
        if not till.open_leases():
            break
        pause.wait(0.02)
    assert [] == till.open_leases()
    return till.ratings()
