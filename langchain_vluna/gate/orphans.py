"""Runs whose end nobody tells, found out and settled by a rule the user can read.

A run is an orphan when its task or its parent ended, or when the function that ran it
is gone, a moment ago: ends may still be on their way. A root may end before its child,
which is then left alone for as long as it is seen at work. Else a run is an orphan when
nothing happened to it for `orphan_after` seconds. What was delivered is charged as
`on_abort` says; where nothing was, `on_orphan` decides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from langchain_vluna.gate.liveness import Caller, Stacks
from langchain_vluna.gate.runs import RunBook
from langchain_vluna.gate.spec import OpenRun, RunId

__all__ = ["OrphanWatch"]

logger = logging.getLogger("langchain_vluna")

_LOOK_EVERY = 1.0
_LOOK_AGAIN = 0.25
_GRACE_PARENT = 1.0
_GRACE_TASK = 0.25
_YOUNG = 1.0
_LOOKS_PER_ROUND = 500


class OrphanWatch:
    """Marks runs as orphans and settles them when their grace is over."""

    def __init__(self, book: RunBook, wake: Callable[[], None], orphan_after: float) -> None:
        self._book = book
        self._wake = wake
        self._orphan_after = orphan_after
        self._next_look = 0.0
        self._looked_at = 0
        self._missing: set[OpenRun] = set()
        self._settling: set[OpenRun] = set()
        """Decided, and not on disk yet: no longer open, and not unsettled to the outbox."""

    def watch(self, run: OpenRun) -> None:
        """Notice the end of the task that runs it; a stream may be read on by others."""
        task = run.caller.task() if run.caller.task else None
        if task is None or run.caller.comes_and_goes:
            return

        def ended(_: asyncio.Task[Any]) -> None:
            run.orphan(time.monotonic() + _GRACE_TASK, "its task ended and it did not")
            self._wake()

        def unwatch() -> None:
            task.remove_done_callback(ended)

        task.add_done_callback(ended)
        run.unwatch = unwatch

    def parent_ended(self, run_id: RunId) -> None:
        """A chain or a tool ended: what is still open below it has lost its way to end, unless it is at work."""
        at = time.monotonic() + _GRACE_PARENT
        below = self._book.below(run_id)
        for run in below:
            run.orphan(at, "its parent ended and it did not", unless_at_work=True)
        if below:
            self._wake()

    def left(self, here: Caller, since: float) -> None:
        """Whoever began runs here since then was cancelled: no end of theirs will be told, but of streams in use."""
        for run in self._book.open_runs():
            if run.started >= since and run.caller.same_place(here) and not run.caller.is_held:
                run.orphan(time.monotonic(), "the call that ran it was cancelled")
        self._wake()

    def sweep(self) -> float | None:
        """Settle what is due; returns the seconds until the next look, `None` where nothing is open."""
        runs = self._book.open_runs()
        if not runs:
            return None
        now = time.monotonic()
        if now >= self._next_look:
            self._look(runs, now)
        next_at = self._next_look
        for run in self._due(runs, now):
            self._settle(run)
        for run in runs:
            if run.orphaned_at is not None and not run.ended:
                next_at = min(next_at, run.orphaned_at)
        return max(0.0, next_at - now)

    def waiting(self) -> int:
        """Count orphans whose grace is not over, or that are being written."""
        # In this order: what is no longer open at the first look is being written at the second, or written.
        orphans = [run for run in self._book.open_runs() if run.orphaned_at is not None]
        return len(self._settling.union(orphans))

    def settle_all(self, why: str) -> None:
        """Settle every open run now: the gate closes."""
        for run in self._book.open_runs():
            run.orphan(time.monotonic(), why)
            self._settle(run)

    def _due(self, runs: list[OpenRun], now: float) -> list[OpenRun]:
        for run in runs:
            if run.orphaned_at is None and now - run.touched > self._orphan_after:
                run.orphan(now, f"nothing happened to it for {self._orphan_after:g} s")
        due = [run for run in runs if run.orphaned_at is not None and run.orphaned_at <= now]
        if not any(run.unless_at_work for run in due):
            return due
        stacks = Stacks()
        at_work = [run for run in due if run.unless_at_work and self._is_at_work(run, stacks, now)]
        for run in at_work:
            # A stream that is drained after its chain ended, or a branch that outlives a failed sibling.
            run.orphaned_at = now + _GRACE_PARENT
        return [run for run in due if run not in at_work]

    def _is_at_work(self, run: OpenRun, stacks: Stacks, now: float) -> bool:
        idle = now - run.touched
        return idle < _GRACE_PARENT or (idle < self._orphan_after and (run.caller.is_held or stacks.sees(run.caller)))

    def _look(self, runs: list[OpenRun], now: float) -> None:
        unsure = [run for run in runs if run.orphaned_at is None and now - run.started > _YOUNG]
        first = self._looked_at % len(unsure) if len(unsure) > _LOOKS_PER_ROUND else 0
        self._looked_at = first + _LOOKS_PER_ROUND
        stacks = Stacks()
        missing = {run for run in unsure[first : first + _LOOKS_PER_ROUND] if not stacks.running(run.caller)}
        for run in missing & self._missing:
            # Seen twice: a task that moves while it is looked at can be missed once.
            run.orphan(now, "the call that ran it is over and told no end")
        self._missing = missing - self._missing
        if self._missing:
            self._looked_at = first
        self._next_look = now + (_LOOK_AGAIN if self._missing else _LOOK_EVERY)

    def _settle(self, run: OpenRun) -> None:
        logger.info("settling orphan run %s of feature %r: %s", run.spec.run_id, run.spec.feature_code, run.why)
        self._settling.add(run)
        try:
            self._book.settle_orphan(run)
        except Exception:
            # Border: one run that breaks our own code must not keep the others from being settled.
            logger.exception("settling orphan run %s failed", run.spec.run_id)
        finally:
            self._settling.discard(run)
