"""How long to wait for a gate that gives no answers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Circuit", "RelayTimes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTimes:
    """The relay's waits, in seconds."""

    linger: float = 0.05
    """Longest time that recorded usage waits for company."""
    first_retry: float = 0.25
    last_retry: float = 60.0
    longest_advice: float = 900.0
    """A gate that asks for more is asked again after so long."""
    give_up: float = 5.0
    """A flush without a timeout ends after so long without progress."""
    take_over: float = 30.0
    """How often rows of processes that ended are looked for."""

    def backoff(self, failures: int, advice: float | None = None) -> float:
        """Wait after so many failures in a row: the gate's advice, or doubling up to `last_retry`."""
        own = min(self.last_retry, self.first_retry * 2 ** min(max(failures - 1, 0), 16))
        return float(max(own, min(advice or 0.0, self.longest_advice)))


class Circuit:
    """Open while the gate gives no answers; then one probe at a time goes, at growing distances."""

    def __init__(self, times: RelayTimes, clock: Callable[[], float]) -> None:
        self._times = times
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._failed_at = 0.0
        self._until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the last call got no answer."""
        return self._failures > 0

    def failed(self, advice: float | None) -> None:
        """Note that a call got no answer; `advice` is the wait the gate asked for."""
        with self._lock:
            self._failures += 1
            self._failed_at = self._clock()
            self._until = self._failed_at + self._times.backoff(self._failures, advice)
            self._probing = False

    def answered(self) -> None:
        """Note that the gate answers."""
        with self._lock:
            self._failures, self._until, self._probing = 0, 0.0, False

    def allowance(self, most: int, *, urgent: bool) -> int:
        """How many rows may go now; to somebody who waits, probes go at the shortest distance."""
        with self._lock:
            if not self._failures:
                return most
            until = min(self._until, self._failed_at + self._times.first_retry) if urgent else self._until
            return 1 if self._clock() >= until and not self._probing else 0

    def probing(self) -> None:
        """Note that the one row that may go is on its way."""
        with self._lock:
            self._probing = self._failures > 0

    def probed(self) -> None:
        """Note that it came to nothing: neither an answer nor the lack of one."""
        with self._lock:
            self._probing = False

    def wait(self) -> float:
        """Seconds until the next probe may go; infinite while one is on its way, whose end will be told."""
        with self._lock:
            return math.inf if self._probing else max(0.0, self._until - self._clock())
