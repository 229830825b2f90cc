"""How long to wait for a gate that gives no answers."""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["Circuit", "RelayTimes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTimes:
    """The relay's waits, in seconds."""

    linger: float = 0.05
    """Longest time that recorded usage waits for company."""
    first_retry: float = 0.25
    last_retry: float = 60.0
    give_up: float = 5.0
    """A flush without a timeout ends after so long without progress."""
    take_over: float = 30.0

    def backoff(self, failures: int) -> float:
        """Wait after so many failures in a row; doubles up to `last_retry`."""
        return float(min(self.last_retry, self.first_retry * 2 ** min(max(failures - 1, 0), 16)))


class Circuit:
    """Open while the gate gives no answers; then one probe at a time may go, at growing distances."""

    def __init__(self, times: RelayTimes) -> None:
        self._times = times
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0

    def failed(self, now: float, advice: float | None) -> None:
        """Note that a call got no answer; `advice` is the wait the gate asked for."""
        with self._lock:
            self._failures += 1
            self._until = now + max(advice or 0.0, self._times.backoff(self._failures))

    def answered(self) -> None:
        """Note that the gate answers."""
        with self._lock:
            self._failures, self._until = 0, 0.0

    def allowance(self, now: float, most: int, *, urgent: bool) -> int:
        """How many rows may go now."""
        with self._lock:
            if not self._failures:
                return most
            urgent_at = self._until - self._times.backoff(self._failures) + self._times.first_retry
            return 1 if now >= (min(self._until, urgent_at) if urgent else self._until) else 0

    def wait(self, now: float) -> float:
        """Seconds until the next probe may go."""
        with self._lock:
            return max(0.0, self._until - now)
