"""The relay: settles what waits in the outboxes, in the background and on demand.

One dispatcher looks for due rows and a few workers carry them to the gate; all are
daemon threads, started on first use and again after a fork. A wake-up lingers, so
that rows of one customer share a batch. What fails at one outbox, or at one row,
does not stop the others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from langchain_vluna._core.exchange import Flow
from langchain_vluna._io import forks
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import OutboxError, Row, rows, upkeep
from langchain_vluna._io.relay.carrier import BROKEN_WAIT, Carrier, Complaints, Job
from langchain_vluna._io.relay.circuit import Circuit, RelayTimes
from langchain_vluna._io.relay.crew import Crew
from langchain_vluna._io.relay.inflight import Inflight
from langchain_vluna._io.relay.settlement import Settlement, groups

__all__ = ["Relay"]

logger = logging.getLogger("langchain_vluna")

_BATCH = 100
_ROUND = 1000
_FORGET_EVERY = 5.0
_STOP_PATIENCE = 2.0
_FLUSH_LOOK = 0.02


class Relay:
    """Background settlement of one gate's outboxes."""

    def __init__(
        self,
        client: Client,
        settlements: Sequence[Settlement],
        *,
        sweep: Callable[[], float | None],
        waiting: Callable[[], int],
        reconcile: Callable[[], None] = lambda: None,
        times: RelayTimes | None = None,
    ) -> None:
        """Wire the relay to the runs of its process.

        `sweep` settles runs that ended unseen and returns the seconds until its next call, `None` for never;
        `waiting` counts those that it will settle soon; `reconcile` compares the outbox with what is running.
        """
        self._client = client
        self._settlements = settlements
        self._sweep = sweep
        self._waiting = waiting
        self._reconcile = reconcile
        self._times = times or RelayTimes()
        self._begin()
        forks.track(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._inflight = Inflight(time.monotonic)
        self._circuit = Circuit(self._times, time.monotonic)
        self._complaints = Complaints(time.monotonic)
        self._carrier = Carrier(
            self._client,
            self._times,
            self._circuit,
            self._inflight,
            self._complaints,
            wake=self.wake,
            done=self._notify,
        )
        self._crew: Crew[Job] | None = None
        self._awake = False
        self._idle = True
        self._urgent = 0
        self._next_take_over = self._next_forget = 0.0

    def before_fork(self) -> None:
        """Nothing has to be let go of: the outboxes close themselves."""

    def after_fork(self, *, in_child: bool) -> None:
        """A child has no threads, and only rows of its own."""
        if in_child:
            self._begin()

    def wake(self) -> None:
        """Say that something is due, or will be."""
        self._start()
        if not self._awake:
            with self._changed:
                self._awake = True
                self._changed.notify_all()

    def attend(self) -> None:
        """Say that a run has opened, so that sweeps begin if none were going on."""
        if self._idle or self._crew is None:
            self._idle = False
            self.wake()

    @property
    def gate_is_down(self) -> bool:
        """Whether the last call got no answer."""
        return self._circuit.is_open

    def reserve(self, attempt: str) -> bool:
        """Keep a row for `inline`, before it is written; false where it is on its way already."""
        return self._inflight.reserve(attempt)

    def release(self, attempt: str) -> None:
        """Give back a reserved row that was not settled inline."""
        self._inflight.release([attempt])

    def inline(self, settlement: Settlement, row: Row) -> Flow[None]:
        """Settle one reserved row in the caller's own flow; what fails or is interrupted is left to the background."""
        return self._carrier.inline(settlement, row)

    def flush(self, timeout: float | None, progress: Callable[[int], object] | None = None) -> int:
        """Settle all there is, that of processes that ended included; returns how many rows are still unsettled.

        Without a timeout it waits as long as there is progress, and 5 s beyond. `progress` is told how many are
        left, again and again. An outbox that cannot be read counts as one row.
        """
        self._guarded(self._take_over_now)
        left = self._count()
        if not left and not self._inflight.busy():
            return 0
        crew = self._start()
        least, progress_at = left, time.monotonic()
        deadline = None if timeout is None else progress_at + timeout
        self._hurry(1)
        try:
            # Bills and alarms are told of a row after it is settled, by whoever has it.
            while left or self._inflight.busy():
                if progress is not None:
                    progress(left)
                if not crew.threaded:
                    self._round(crew)
                    crew.drain()
                now = time.monotonic()
                if left < least:
                    least, progress_at = left, now
                if now >= (progress_at + self._times.give_up if deadline is None else deadline):
                    break
                with self._changed:
                    self._changed.wait(_FLUSH_LOOK)
                left = self._count()
            return left
        finally:
            self._hurry(-1)

    def unsettled(self) -> int:
        """Count this process's rows that the gate owes an answer, and orphans about to become such."""
        return self._waiting() + sum(
            s.outbox.query(partial(rows.count_unsettled, owner=s.outbox.owner_id))
            for s in self._settlements
            if s.outbox.is_open
        )

    def stop(self) -> None:
        """End the threads once they have finished what they are at; `wake` starts them again."""
        with self._changed:
            crew, self._crew = self._crew, None
            if crew is None:
                return
            crew.stopping = True
            self._changed.notify_all()
        for _, batch in crew.dismiss(_STOP_PATIENCE):
            self._inflight.release(row.attempt for row in batch)
        self._idle, self._next_take_over = True, 0.0

    def _start(self) -> Crew[Job]:
        crew = self._crew
        if crew is not None and crew.threaded:
            return crew
        with self._changed:
            if self._crew is None or not self._crew.threaded:
                self._crew = Crew(self._dispatch, self._carrier.carry_out)
                self._crew.start()
            return self._crew

    def _dispatch(self, crew: Crew[Job]) -> None:
        while not crew.stopping:
            delay = self._round(crew)
            with self._changed:
                if not (self._awake or self._urgent or crew.stopping):
                    self._changed.wait(delay)
                if self._awake and not (self._urgent or crew.stopping):
                    self._changed.wait_for(lambda: self._urgent or crew.stopping, self._times.linger)
                elif self._urgent and not crew.stopping:
                    self._changed.wait(self._times.linger / 5)
                self._awake = False

    def _round(self, crew: Crew[Job]) -> float | None:
        """Hand due rows to the workers; returns the seconds until something else is due."""
        waits = [self._guarded(self._swept), self._guarded(self._keep_house)]
        waits += [self._guarded(partial(self._hand_out, crew, settlement)) for settlement in self._settlements]
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _guarded(self, part: Callable[[], float | None]) -> float | None:
        try:
            return part()
        except OutboxError as error:
            self._complaints.say(error)
        except Exception:
            # Border of the thread: what breaks one part of a round must not end the settling of everything.
            logger.exception("a part of the settlement failed")
        return BROKEN_WAIT

    def _swept(self) -> float | None:
        until_next = self._sweep()
        self._idle = until_next is None
        return until_next

    def _hand_out(self, crew: Crew[Job], settlement: Settlement) -> float | None:
        outbox = settlement.outbox
        if not outbox.is_open:
            return None
        now, urgent, owner = outbox.clock(), self._urgent > 0, outbox.owner_id
        allowed = self._circuit.allowance(_ROUND, urgent=urgent)
        if allowed:
            horizon = now + self._times.longest_advice if urgent else now
            free = self._inflight.take(
                outbox.query(partial(rows.due_rows, owner=owner, now=horizon, limit=_ROUND)), allowed
            )
            if free:
                self._circuit.probing()
            for job in groups(free, settlement.wants_single, _BATCH):
                crew.put((settlement, job))
        next_due = outbox.query(partial(rows.next_due, owner=owner, now=now))
        waits = [self._inflight.next_end() or math.inf, math.inf if allowed else self._circuit.wait()]
        if next_due is not None:
            waits.append(max(next_due - now, self._circuit.wait()))
        return None if min(waits) == math.inf else max(min(waits), self._times.linger)

    def _keep_house(self) -> float | None:
        now = time.monotonic()
        if now >= self._next_forget:
            self._next_forget = now + _FORGET_EVERY
            for settlement in self._settlements:
                if settlement.outbox.is_open:
                    upkeep.forget_old(settlement.outbox)
        if now >= self._next_take_over:
            self._take_over_now()
            self._reconcile()
        shared = any(s.outbox.path != ":memory:" and s.outbox.is_open for s in self._settlements)
        return self._next_take_over - now if shared else None

    def _take_over_now(self) -> None:
        self._next_take_over = time.monotonic() + self._times.take_over
        for settlement in self._settlements:
            taken = upkeep.take_over(settlement.outbox)
            if taken:
                logger.info("took over %d rows of processes that ended", taken)

    def _count(self) -> int:
        try:
            return self.unsettled()
        except OutboxError as error:
            self._complaints.say(error)
            return 1

    def _hurry(self, change: int) -> None:
        with self._changed:
            self._urgent += change
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
