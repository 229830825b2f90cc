"""The relay's threads: one that looks for work, and as many as there is work for that carry it out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Crew"]

J = TypeVar("J")

_MOST = 16


class Crew(Generic[J]):
    """Daemon threads with a common end. Where no thread can start any more, `drain` does their work."""

    def __init__(self, dispatch: Callable[[Crew[J]], None], carry_out: Callable[[J], None]) -> None:
        self.stopping = False
        self._carry_out = carry_out
        self._jobs: queue.SimpleQueue[J | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._workers: list[threading.Thread] = []
        self._dispatcher = threading.Thread(target=dispatch, args=(self,), name="vluna-relay", daemon=True)
        self.threaded = False
        """Whether threads do the work."""

    def start(self) -> None:
        """Let the dispatcher begin."""
        self.threaded = True
        self.threaded = _started(self._dispatcher)

    def put(self, job: J) -> None:
        """Have a job carried out, by a new thread where all others are busy."""
        self._jobs.put(job)
        with self._lock:
            if not self.threaded or self._jobs.qsize() <= self._idle or len(self._workers) >= _MOST:
                return
            worker = threading.Thread(target=self._work, name=f"vluna-relay-{len(self._workers)}", daemon=True)
            if _started(worker):
                self._workers.append(worker)

    def drain(self) -> None:
        """Carry out what is queued, here and now."""
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                self._carry_out(job)

    def dismiss(self, patience: float) -> list[J]:
        """Let the threads end after what they are at, wait for them so long, and return what nobody began.

        `stopping` was set before.
        """
        with self._lock:
            workers = list(self._workers)
        left = []
        while not self._jobs.empty():
            left.append(self._jobs.get())
        for _ in workers:
            self._jobs.put(None)
        deadline = time.monotonic() + patience
        for thread in (self._dispatcher, *workers):
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        return [job for job in left if job is not None]

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            self._carry_out(job)


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:
        # At the end of the interpreter no thread starts.
        return False
    return True
