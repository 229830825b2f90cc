"""Rows that are out of reach for the moment: on their way to the gate, or resting after a try."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence

from langchain_vluna._io.outbox import Row

__all__ = ["Inflight"]


class Inflight:
    """Lets one caller at a time have a row. Rests are kept here too, since a broken disk keeps none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def take(self, due: Sequence[Row], most: int) -> list[Row]:
        """Take those of the due rows that nobody has, at most so many."""
        now = self._clock()
        with self._lock:
            taken = [row for row in due if self._until.get(row.attempt, 0.0) <= now][:most]
            self._until.update((row.attempt, math.inf) for row in taken)
        return taken

    def reserve(self, attempt: str) -> bool:
        """Take one row, before it is written; false where somebody has it."""
        with self._lock:
            if self._until.get(attempt, 0.0) > self._clock():
                return False
            self._until[attempt] = math.inf
            return True

    def release(self, attempts: Iterable[str], rest: float = 0.0) -> None:
        """Give rows back, to be taken again after a rest of so many seconds."""
        now = self._clock()
        with self._lock:
            for attempt in attempts:
                if rest:
                    self._until[attempt] = now + rest
                else:
                    self._until.pop(attempt, None)

    def busy(self) -> bool:
        """Whether somebody has a row: it may be answered, and those who learn of it not told yet."""
        with self._lock:
            return math.inf in self._until.values()

    def next_end(self) -> float | None:
        """Return the seconds until a resting row may be taken again; forgets those whose rest is over."""
        now = self._clock()
        with self._lock:
            self._until = {attempt: until for attempt, until in self._until.items() if until > now}
            resting = [until for until in self._until.values() if until < math.inf]
        return min(resting) - now if resting else None
