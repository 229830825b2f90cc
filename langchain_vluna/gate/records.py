"""What is written of a run, and when: the steps of its row in the outbox.

Rules:

- The intent is on disk before the gate is asked, the lease before the work starts, the
  usage before it is charged.
- Whatever interrupts the question, the row says that a lease may exist, and the relay
  finds and cancels it.
- An end never raises. What the outbox cannot take goes to the spill, an outbox in
  memory, and is settled at once: under the keys of the lost row, so that it is charged
  once even where the row turns up again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from secrets import token_hex
from typing import Any

from langchain_vluna._core.errors import GateUnavailable
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.run import UNSETTLED, Event, State
from langchain_vluna._core.types import Identity
from langchain_vluna._io.outbox import Outbox, OutboxError, Row, Transition, rows
from langchain_vluna._io.relay import Outcome, Relay, Settlement
from langchain_vluna.gate.observers import Observers
from langchain_vluna.gate.policy import RunPolicy
from langchain_vluna.gate.spec import OpenRun, RunSpec, UsageBody

__all__ = ["Records"]

logger = logging.getLogger("langchain_vluna")


class Records:
    """Writes the rows of this process's runs, and hands those that are due to the relay."""

    def __init__(
        self, relay: Relay, settlements: Mapping[Outbox, Settlement], *, policy: RunPolicy, observers: Observers
    ) -> None:
        """`settlements` has the outbox first and the spill second."""
        self._relay = relay
        self._settlements = settlements
        self.outbox, self._spill = settlements
        self._policy = policy
        self._observers = observers
        self.reset()

    def reset(self) -> None:
        """Forget what is owed: in a child, that is the parent's business."""
        self._lock = threading.Lock()
        self._owed: dict[Identity, int] = {}

    def new_row(self, spec: RunSpec, ask: Mapping[str, Any], fallback: UsageBody | None) -> Row:
        """Describe a run that is about to be asked for."""
        now = self.outbox.clock()
        return Row(
            attempt=token_hex(16),
            identity=spec.identity,
            run_id=str(spec.run_id),
            root_id=str(spec.root_id),
            step=spec.step,
            ask=ask,
            usage=fallback.body if fallback else None,
            source=fallback.source if fallback else None,
            created=now,
            due=now,
        )

    def intent(self, run: OpenRun) -> Flow[None]:
        """Write that the gate is going to be asked, or that the work runs without it.

        Raises:
            GateUnavailable: It cannot be written, and the work must not run without.
        """
        run.outbox = self.outbox
        try:
            yield from self.outbox.ready()
            row = run.row
            row.owner = self.outbox.owner_id
            yield from self.outbox.record(
                lambda db: rows.begin(db, row),
                # The caller is gone before the gate was asked: nothing of the run remains.
                late=lambda _: self.answered(run, Event.REFUSED if row.state is State.ASKING else Event.ABANDONED),
            )
        except OutboxError as error:
            if self._policy.on_unavailable == "deny":
                raise GateUnavailable(error.message, outcome_unknown=False) from error
            logger.error("policy lets the work run without a record on disk: %s", error)  # noqa: TRY400 -- says it all
            self._move_to_spill(run)

    def admitted(self, run: OpenRun, handle: str) -> Flow[None]:
        """Write the lease.

        Raises:
            GateUnavailable: As of `intent`.
            RunStateError: Another process took this one for dead and gave the run up.
        """
        row = run.row
        row.handle, row.state, attempt = handle, State.OPEN, row.attempt
        try:
            moved = yield from run.outbox.record(
                lambda db: rows.advance(db, attempt, Event.ADMITTED, {"handle": handle}, State.ASKING),
                late=lambda _: self.answered(run, Event.ABANDONED),
            )
        except OutboxError as error:
            if self._policy.on_unavailable == "deny":
                raise GateUnavailable(error.message) from error
            self._move_to_spill(run)
            return
        if moved.target is None:
            # The row is gone: somebody moved the file away. Its keys are still good.
            self._move_to_spill(run)

    def answered(self, run: OpenRun, event: Event) -> None:
        """Write that the work will not run. Does not wait: its flow may be closing, since its task was cancelled."""
        attempt, expected = run.row.attempt, run.row.state

        def failed(error: OutboxError) -> None:
            logger.error("%s", error)
            if event is Event.ABANDONED and expected is not State.UNGATED:
                run.row = replace(run.row, state=State.VOIDING)
                self._move_to_spill(run)
                self._relay.wake()

        run.outbox.post(
            lambda db: rows.advance(db, attempt, event, {}, expected),
            done=lambda moved: self._relay.wake() if moved.target in UNSETTLED else None,
            failed=failed,
        )

    def ended(
        self, run: OpenRun, event: Event, changes: Mapping[str, Any], used: UsageBody | None, *, inline: bool
    ) -> Flow[None]:
        """Write how the run ended, then have it settled: inline where policy says so, else in the background."""
        # The background must not take the row between its writing and its settling.
        attempt = run.row.attempt
        reserved = inline and self._settles_inline(run) and self._relay.reserve(attempt)
        try:
            target = yield from self._write_end(run, event, changes, used)
            if target not in UNSETTLED:
                return
            if inline and not reserved and run.outbox is self._spill and not self._relay.gate_is_down:
                reserved = self._relay.reserve(attempt)
            row = run.outbox.apply(lambda db: rows.read(db, attempt)) if reserved else None
            if row is None:
                self._relay.wake()
                return
            reserved = False
            yield from self._relay.inline(self._settlements[run.outbox], row)
        except OutboxError as error:
            logger.error("%s", error)  # noqa: TRY400 -- says it all
            self._relay.wake()
        finally:
            if reserved:
                self._relay.release(attempt)

    def settled(self, outcome: Outcome) -> None:
        """Count a customer's settled run."""
        if outcome.row.taken_over:
            return
        with self._lock:
            left = self._owed.get(outcome.row.identity, 0) - 1
            if left > 0:
                self._owed[outcome.row.identity] = left
            else:
                self._owed.pop(outcome.row.identity, None)

    def _settles_inline(self, run: OpenRun) -> bool:
        if self._policy.settle == "inline":
            return True
        return self._owed.get(run.spec.identity, 0) >= self._policy.max_unsettled and not self._relay.gate_is_down

    def _write_end(
        self, run: OpenRun, event: Event, changes: Mapping[str, Any], used: UsageBody | None
    ) -> Flow[State | None]:
        row, now = run.row, run.outbox.clock()
        stored = {**changes, "due": now}

        def write(db: Any) -> Transition:
            if event is Event.USED:
                return rows.use(db, row.attempt, row.step, stored, now=now, expected=row.state)
            return rows.advance(db, row.attempt, event, stored, row.state)

        try:
            moved = yield from run.outbox.record(
                write, atomic=row.step is not None, late=self._noting(run, used, self._relay.wake)
            )
        except OutboxError as error:
            logger.error("settled without a record on disk: %s", error)  # noqa: TRY400 -- says it all
            moved = Transition(None, None)
        if used is not None and moved == Transition(None, None):
            moved = self._spill_end(run, changes)
        self._noting(run, used, lambda: None)(moved)
        return moved.target

    def _spill_end(self, run: OpenRun, changes: Mapping[str, Any]) -> Transition:
        state = State.INGESTING if run.row.state is State.UNGATED else State.COMMITTING
        run.row = replace(run.row, state=state, **changes)
        self._move_to_spill(run)
        return Transition(None, state)

    def _noting(self, run: OpenRun, used: UsageBody | None, then: Callable[[], None]) -> Callable[[Transition], None]:
        """Return what makes a written end known; `then` is called where the gate owes an answer."""

        def note(moved: Transition) -> None:
            if moved.target is None:
                return
            if moved.row is None or moved.row.state not in UNSETTLED:
                identity = run.spec.identity
                with self._lock:
                    self._owed[identity] = self._owed.get(identity, 0) + 1
            if used is not None and moved.target is not State.CANCELING:
                self._observers.used(run.row.attempt, used)
            if moved.target in UNSETTLED:
                then()
            else:
                self._observers.outcome(Outcome(run.row, "released"))

        return note

    def _move_to_spill(self, run: OpenRun) -> None:
        run.outbox, run.row = self._spill, replace(run.row, owner=self._spill.owner_id)
        self._spill.apply(lambda db: rows.put(db, run.row))
