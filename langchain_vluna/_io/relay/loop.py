"""The relay: settles what waits in the outboxes, in the background and on demand.

One dispatcher looks for due rows and a few workers carry them to the gate; all are
daemon threads, started on first use and again after a fork. A wake-up lingers, so
that rows of one customer share a batch.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence

from langchain_vluna._core.errors import GateUnavailable, VlunaError
from langchain_vluna._core.exchange import Flow
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import OutboxError, Row, rows
from langchain_vluna._io.relay.circuit import Circuit, RelayTimes
from langchain_vluna._io.relay.settlement import Settlement, Unsettled, groups

__all__ = ["Relay"]

logger = logging.getLogger("langchain_vluna")

_BATCH = 100
_ROUND = 1000
_WORKERS = 4

Job = tuple[Settlement, list[Row]]


class Relay:
    """Background settlement of one gate's outboxes."""

    def __init__(
        self,
        client: Client,
        settlements: Sequence[Settlement],
        *,
        sweep: Callable[[], float | None],
        waiting: Callable[[], int],
        times: RelayTimes | None = None,
    ) -> None:
        """Wire the relay to the runs of its process.

        `sweep` settles runs that ended unseen and returns the seconds until its next call, `None` for never;
        `waiting` counts those that it will settle soon.
        """
        self._client = client
        self._settlements = settlements
        self._sweep = sweep
        self._waiting = waiting
        self._times = times or RelayTimes()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._inflight: set[str] = set()
        self._circuit = Circuit(self._times)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._awake = False
        self._idle = True
        self._urgent = 0
        self._next_take_over = 0.0

    def wake(self) -> None:
        """Say that something is due, or will be."""
        self._start()
        if not self._awake:
            with self._changed:
                self._awake = True
                self._changed.notify_all()

    def attend(self) -> None:
        """Say that a run has opened, so that sweeps begin if none were going on."""
        if self._idle or not self._threads or self._pid != os.getpid():
            self._idle = False
            self.wake()

    def inline(self, settlement: Settlement, row: Row) -> Flow[None]:
        """Settle one row in the caller's own flow; on failure it is left to the background."""
        with self._changed:
            if row.attempt in self._inflight:
                return
            self._inflight.add(row.attempt)
        try:
            yield from settlement.one(row)
        except Unsettled as unsettled:
            self._postpone(settlement, [row], unsettled.error)
            self.wake()
        finally:
            self._done([row])

    def flush(self, timeout: float | None) -> int:
        """Settle all that is due now; returns how many rows are still unsettled.

        Without a timeout it waits as long as there is progress, and 5 s beyond.
        """
        self._start()
        least, progress_at = self.unsettled(), time.monotonic()
        deadline = None if timeout is None else progress_at + timeout
        with self._changed:
            self._urgent += 1
            self._changed.notify_all()
        try:
            while left := self.unsettled():
                now = time.monotonic()
                if left < least:
                    least, progress_at = left, now
                if now >= (progress_at + self._times.give_up if deadline is None else deadline):
                    break
                with self._changed:
                    self._changed.wait(0.02)
            return left
        finally:
            with self._changed:
                self._urgent -= 1

    def unsettled(self) -> int:
        """Count this process's rows that the gate owes an answer, and orphans about to become such."""
        return self._waiting() + sum(
            s.outbox.apply(lambda db, owner=s.outbox.owner_id: rows.count_unsettled(db, owner))  # type: ignore[misc]
            for s in self._settlements
        )

    def stop(self) -> None:
        """End the threads once they have finished what they are at; `wake` starts them again."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)
        self._reset()

    def _start(self) -> None:
        if self._pid != os.getpid():
            self._reset()
        if self._threads:
            return
        with self._changed:
            if self._threads:
                return
            targets = [("relay", self._dispatch)] + [(f"relay-{n}", self._work) for n in range(_WORKERS)]
            self._threads = [threading.Thread(target=t, name=f"vluna-{name}", daemon=True) for name, t in targets]
            for thread in self._threads:
                thread.start()

    def _dispatch(self) -> None:
        while not self._stopping:
            try:
                delay = self._round()
            except OutboxError as error:
                logger.error("settlement waits: %s", error)  # noqa: TRY400 -- the message says it all
                delay = self._times.last_retry
            with self._changed:
                if not (self._awake or self._urgent or self._stopping):
                    self._changed.wait(delay)
                if self._awake and not (self._urgent or self._stopping):
                    self._changed.wait_for(lambda: self._urgent or self._stopping, self._times.linger)
                elif self._urgent and not self._stopping:
                    self._changed.wait(self._times.linger / 5)
                self._awake = False
        for _ in range(_WORKERS):
            self._jobs.put(None)

    def _round(self) -> float | None:
        """Hand due rows to the workers; returns the seconds until something else is due."""
        until_sweep = self._sweep()
        self._idle = until_sweep is None
        waits = [until_sweep, self._take_over()]
        for settlement in self._settlements:
            waits.append(self._hand_out(settlement))
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _hand_out(self, settlement: Settlement) -> float | None:
        outbox = settlement.outbox
        now, urgent = outbox.clock(), self._urgent > 0
        allowed = self._circuit.allowance(now, _ROUND, urgent=urgent)
        horizon = now + self._times.last_retry if urgent else now
        owner = outbox.owner_id
        due = outbox.apply(lambda db: rows.due_rows(db, owner, horizon, _ROUND)) if allowed else []
        with self._changed:
            free = [row for row in due if row.attempt not in self._inflight][:allowed]
            self._inflight.update(row.attempt for row in free)
        for job in groups(free, settlement.wants_single, _BATCH):
            self._jobs.put((settlement, job))
        next_due = outbox.apply(lambda db: rows.next_due(db, owner, now))
        if next_due is None:
            return None
        return max(next_due - now, self._circuit.wait(now), self._times.linger)

    def _take_over(self) -> float | None:
        shared = [s.outbox for s in self._settlements if s.outbox.path != ":memory:"]
        if not shared:
            return None
        now = time.monotonic()
        if now >= self._next_take_over:
            self._next_take_over = now + self._times.take_over
            for outbox in shared:
                taken = outbox.take_over()
                if taken:
                    logger.info("took over %d rows of processes that ended", taken)
                outbox.forget_old()
        return self._next_take_over - now

    def _work(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            settlement, batch = job
            try:
                flow = settlement.one(batch[0]) if len(batch) == 1 else settlement.batch(batch)
                self._client.perform(flow)
                self._circuit.answered()
            except Unsettled as unsettled:
                self._postpone(settlement, batch, unsettled.error)
            except OutboxError as error:
                logger.error("settlement waits: %s", error)  # noqa: TRY400 -- the message says it all
            except Exception:
                # Border of the thread: one row that breaks our own code must not stop the settling of all others.
                logger.exception("settlement of %d rows failed", len(batch))
                self._postpone(settlement, batch, GateUnavailable("internal error; see the log"))
            finally:
                self._done(batch)

    def _postpone(self, settlement: Settlement, batch: Sequence[Row], error: VlunaError) -> None:
        now = settlement.outbox.clock()
        if isinstance(error, GateUnavailable):
            self._circuit.failed(now, error.retry_after)
        due = now + max(error.retry_after or 0.0, self._times.backoff(max(row.tries for row in batch) + 1))
        attempts, reason = [row.attempt for row in batch], str(error)
        try:
            settlement.outbox.transact(lambda db: rows.postpone(db, attempts, due, reason))
        except OutboxError as failure:
            logger.error("settlement waits: %s", failure)  # noqa: TRY400 -- the message says it all

    def _done(self, batch: Sequence[Row]) -> None:
        with self._changed:
            self._inflight.difference_update(row.attempt for row in batch)
            self._changed.notify_all()
