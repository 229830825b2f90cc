"""Runs whose end nobody tells, found out and settled by a rule the user can read.

A run is an orphan when its task or its parent ended, or when the function that ran it
is gone, a moment ago: ends may still be on their way (a root may end before its
child). Else when nothing happened to it for `orphan_after` seconds. What was delivered
is charged as `on_abort` says; where nothing was, `on_orphan` decides.
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

    def watch(self, run: OpenRun) -> None:
        """Notice the end of the task that runs it."""
        task = run.caller.task() if run.caller.task else None
        if task is None:
            return

        def ended(_: asyncio.Task[Any]) -> None:
            run.orphan(time.monotonic() + _GRACE_TASK, "its task ended and it did not")
            self._wake()

        def unwatch() -> None:
            task.remove_done_callback(ended)

        task.add_done_callback(ended)
        run.unwatch = unwatch

    def parent_ended(self, run_id: RunId) -> None:
        """A chain or a tool ended: what is still open below it has lost its way to end."""
        at = time.monotonic() + _GRACE_PARENT
        below = self._book.below(run_id)
        for run in below:
            run.orphan(at, "its parent ended and it did not")
        if below:
            self._wake()

    def left(self, here: Caller, since: float) -> None:
        """Whoever began runs here since then was cancelled: no end of theirs will be told."""
        for run in self._book.open_runs():
            if run.started >= since and run.caller.same_place(here):
                run.orphan(time.monotonic(), "the call that ran it was cancelled")
        self._wake()

    def sweep(self) -> float | None:
        """Settle what is due; returns the seconds until the next look, `None` where nothing is open."""
        runs = self._book.open_runs()
        if not runs:
            return None
        now = time.monotonic()
        self._look(runs, now)
        next_at = now + _LOOK_EVERY
        for run in runs:
            if run.orphaned_at is None and now - run.touched > self._orphan_after:
                run.orphan(now, f"nothing happened to it for {self._orphan_after:g} s")
            if run.orphaned_at is None:
                continue
            if run.orphaned_at <= now:
                self._settle(run)
            else:
                next_at = min(next_at, run.orphaned_at)
        return max(0.0, next_at - now)

    def waiting(self) -> int:
        """Count orphans whose grace is not over."""
        return sum(run.orphaned_at is not None for run in self._book.open_runs())

    def settle_all(self, why: str) -> None:
        """Settle every open run now: the gate closes."""
        for run in self._book.open_runs():
            run.orphan(time.monotonic(), why)
            self._settle(run)

    def _look(self, runs: list[OpenRun], now: float) -> None:
        unsure = [run for run in runs if run.orphaned_at is None and now - run.started > _YOUNG]
        if not unsure:
            return
        stacks = Stacks()
        for run in unsure[:_LOOKS_PER_ROUND]:
            if not stacks.running(run.caller):
                run.orphan(now + _GRACE_TASK, "the call that ran it is over and told no end")

    def _settle(self, run: OpenRun) -> None:
        logger.info("settling orphan run %s of feature %r: %s", run.spec.run_id, run.spec.feature_code, run.why)
        try:
            self._book.settle_orphan(run)
        except Exception:
            # Border: one run that breaks our own code must not keep the others from being settled.
            logger.exception("settling orphan run %s failed", run.spec.run_id)
