"""The runs that are open in this process, and how each begins and ends.

Rules:

- The intent is on disk before the gate is asked, the lease before the work starts, the
  usage before it is charged.
- Whatever interrupts the question, the row says that a lease may exist, and the relay
  finds and cancels it.
- An end never raises. What the outbox cannot take goes to the spill, an outbox in
  memory, and is settled at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from langchain_vluna._core import wire
from langchain_vluna._core.errors import ConfigurationError, GateDenied, GateRejected, GateUnavailable
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.run import UNSETTLED, Event, State
from langchain_vluna._core.types import Call
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import Outbox, OutboxError, Row, rows
from langchain_vluna._io.relay import Outcome, Relay, Settlement
from langchain_vluna.gate.liveness import Caller
from langchain_vluna.gate.memo import DenyMemo, Question
from langchain_vluna.gate.observers import Observers
from langchain_vluna.gate.policy import RunPolicy
from langchain_vluna.gate.spec import Meter, OpenRun, RunId, RunSpec, UsageBody

__all__ = ["RunBook"]

logger = logging.getLogger("langchain_vluna")

_MOST_LATE = 1_000


class RunBook:
    """Interprets the events of runs: asks, records, and hands over to the relay."""

    def __init__(
        self,
        client: Client,
        relay: Relay,
        settlements: Mapping[Outbox, Settlement],
        *,
        policy: RunPolicy,
        memo: DenyMemo,
        observers: Observers,
    ) -> None:
        """`settlements` has the outbox first and the spill second."""
        self._client = client
        self._relay = relay
        self._settlements = settlements
        self._outbox, self._spill = settlements
        self._policy = policy
        self._memo = memo
        self._observers = observers
        self._lock = threading.Lock()
        self._open: dict[RunId, OpenRun] = {}
        self._below: dict[RunId, set[OpenRun]] = {}
        self._late: OrderedDict[RunId, OpenRun] = OrderedDict()
        self._owed: dict[object, int] = {}

    def open_runs(self) -> list[OpenRun]:
        """Return the runs that have begun and not ended in this process."""
        with self._lock:
            return list(self._open.values())

    def below(self, run_id: RunId) -> list[OpenRun]:
        """Return the open runs whose parent or root this is."""
        with self._lock:
            return list(self._below.get(run_id, ()))

    def open_meter(self, run_id: RunId) -> Meter | None:
        """Return the meter of an open run; for each token of a stream, so without a lock."""
        run = self._open.get(run_id)
        return None if run is None else run.meter

    def find(self, run_id: RunId) -> OpenRun | None:
        """Return the run that an end event speaks of: open, or settled as an orphan a while ago."""
        with self._lock:
            return self._open.get(run_id) or self._late.get(run_id)

    def start(
        self,
        spec: RunSpec,
        *,
        caller: Caller,
        meter: Meter,
        fallback: UsageBody | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Flow[OpenRun | None]:
        """Ask the gate and open the run; `None` where the start is a duplicate.

        `fallback` is charged should the run never end; `loop` is the caller's, `None` where it blocks.

        Raises:
            VlunaError: The work must not run.
        """
        call = _question_call(spec)
        now = time.monotonic()
        row = self._row(spec, call.body, fallback)
        run = OpenRun(spec, row, self._outbox, caller, meter, started=now, touched=now)
        if not self._reserve(run):
            return None
        question = Question(spec.identity, spec.feature_code, spec.budget)
        denial: GateDenied | None = None
        admitted = False
        flight = None
        try:
            flight = yield from self._memo.may_ask(question, loop)
            yield from self._ask(run, call)
            admitted = True
        except GateDenied as error:
            denial = error
            raise
        finally:
            if not admitted:
                self._forget(run)
            if admitted or flight is not None or denial is not None:
                self._memo.land(question, flight, denial)
        return run

    def used(self, run: OpenRun, used: UsageBody, *, inline: bool = True) -> Flow[None]:
        """End a run with usage to charge; a second end changes nothing, one after an orphan's cancel is ingested."""
        if run.claim_end() or self._pop_late(run):
            self._forget(run)
            yield from self._settle(run, Event.USED, {"usage": used.body, "source": used.source}, used, inline=inline)

    def failed(self, run: OpenRun, reason: str, *, inline: bool = True) -> Flow[None]:
        """End a run with nothing to charge."""
        if run.claim_end():
            self._forget(run)
            yield from self._settle(run, Event.FAILED, {"reason": reason}, None, inline=inline)

    def settle_orphan(self, run: OpenRun) -> None:
        """Settle a run whose end nobody will tell; should somebody tell it yet, the end counts as well."""
        delivered = run.meter.partial()
        if delivered is None and run.row.usage is not None:
            delivered = UsageBody(run.row.usage, "estimated")
        if delivered is not None:
            self._client.perform(self.used(run, delivered, inline=False))
            return
        with self._lock:
            self._late[run.spec.run_id] = run
            while len(self._late) > _MOST_LATE:
                self._late.popitem(last=False)
        self._client.perform(self.failed(run, run.why, inline=False))

    def settled(self, outcome: Outcome) -> None:
        """Count a customer's settled charge."""
        with self._lock:
            left = self._owed.get(outcome.row.identity, 0) - 1
            if left > 0:
                self._owed[outcome.row.identity] = left
            else:
                self._owed.pop(outcome.row.identity, None)

    def _reserve(self, run: OpenRun) -> bool:
        run_id = run.spec.run_id
        with self._lock:
            known = self._open.get(run_id)
            if known is None:
                self._open[run_id] = run
                for above in run.spec.above:
                    self._below.setdefault(above, set()).add(run)
                self._late.pop(run_id, None)
                return True
        if known.caller.same_place(run.caller):
            return False
        msg = f"run_id {str(run_id)!r} is in use by a call that is still running; give each concurrent call a run_id of its own"
        raise ConfigurationError(msg)

    def _forget(self, run: OpenRun) -> None:
        with self._lock:
            if self._open.get(run.spec.run_id) is not run:
                return
            del self._open[run.spec.run_id]
            for above in run.spec.above:
                below = self._below[above]
                below.discard(run)
                if not below:
                    del self._below[above]
        run.unwatch()

    def _pop_late(self, run: OpenRun) -> bool:
        with self._lock:
            return self._late.pop(run.spec.run_id, None) is run

    def _row(self, spec: RunSpec, ask: Mapping[str, Any], fallback: UsageBody | None) -> Row:
        now = self._outbox.clock()
        return Row(
            attempt=uuid4().hex,
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

    def _ask(self, run: OpenRun, call: Call) -> Flow[None]:
        yield from self._insert(run)
        call = replace(call, idempotency_key=run.row.key("a"))
        try:
            lease = wire.parse_lease((yield from self._client.exchange(call)), call.identity)
            yield from self._admit(run, lease.handle)
        except GateUnavailable as error:
            self._answered(run, Event.UNKNOWN if error.outcome_unknown else Event.REFUSED)
            if self._policy.on_unavailable == "deny":
                raise
            logger.warning("the gate is unavailable and policy lets the work run: %s", error)
            run.row = replace(run.row, attempt=uuid4().hex, state=State.UNGATED)
            yield from self._insert(run)
            self._observers.admitted(run.row.attempt, run.spec, ())
            return
        except (GateDenied, GateRejected, ConfigurationError):
            self._answered(run, Event.REFUSED)
            raise
        except BaseException:
            self._answered(run, Event.UNKNOWN)
            raise
        run.objection = self._observers.admitted(run.row.attempt, run.spec, lease.hints)

    def _insert(self, run: OpenRun) -> Flow[None]:
        try:
            run.row = replace(run.row, owner=self._outbox.owner_id)
            yield from self._outbox.record(lambda db: rows.begin(db, run.row))
        except OutboxError as error:
            if self._policy.on_unavailable == "deny":
                raise GateUnavailable(str(error), outcome_unknown=False) from error
            logger.error("policy lets the work run without a record on disk: %s", error)  # noqa: TRY400 -- says it all
            self._move_to_spill(run)

    def _admit(self, run: OpenRun, handle: str) -> Flow[None]:
        run.row = replace(run.row, state=State.OPEN, handle=handle)
        attempt = run.row.attempt
        try:
            yield from run.outbox.record(
                lambda db: rows.advance(db, attempt, Event.ADMITTED, {"handle": handle}, State.ASKING)
            )
        except OutboxError as error:
            if self._policy.on_unavailable == "deny":
                raise GateUnavailable(str(error)) from error
            self._move_to_spill(run)

    def _answered(self, run: OpenRun, event: Event) -> None:
        # No yield here: the flow may be closing because its task was cancelled.
        attempt = run.row.attempt
        try:
            moved = run.outbox.apply(lambda db: rows.advance(db, attempt, event, {}, State.ASKING))
        except OutboxError as error:
            logger.error("%s", error)  # noqa: TRY400 -- says it all
            if event is Event.REFUSED:
                return
            run.row = replace(run.row, state=State.VOIDING)
            self._move_to_spill(run)
        else:
            if moved.target is not State.VOIDING:
                return
        self._relay.wake()

    def _move_to_spill(self, run: OpenRun) -> None:
        run.outbox, run.row = self._spill, replace(run.row, owner=self._spill.owner_id)
        self._spill.apply(lambda db: rows.begin(db, run.row))

    def _settle(
        self, run: OpenRun, event: Event, changes: dict[str, Any], used: UsageBody | None, *, inline: bool
    ) -> Flow[None]:
        row = run.row
        changes["due"] = now = run.outbox.clock()
        try:
            moved = yield from run.outbox.record(
                lambda db: (
                    rows.use(db, row.attempt, row.step, changes, now, row.state)
                    if event is Event.USED
                    else rows.advance(db, row.attempt, event, changes, row.state)
                ),
                atomic=row.step is not None,
            )
            target = moved.target
        except OutboxError as error:
            logger.error("settled without a record on disk: %s", error)  # noqa: TRY400 -- says it all
            run.row = replace(row, state=State.COMMITTING if used else State.CANCELING, **_stored(changes))
            self._move_to_spill(run)
            target, inline = run.row.state, True
        if target is None:
            return
        if used is not None and target is not State.CANCELING:
            self._observers.used(row.attempt, used)
        if target not in UNSETTLED:
            self._observers.outcome(Outcome(row, "released"))
            return
        yield from self._hand_over(run, inline=inline)

    def _hand_over(self, run: OpenRun, *, inline: bool) -> Flow[None]:
        identity = run.spec.identity
        with self._lock:
            owed = self._owed[identity] = self._owed.get(identity, 0) + 1
        in_spill = run.outbox is self._spill
        if inline and (in_spill or self._policy.settle == "inline" or owed > self._policy.max_unsettled):
            row = run.outbox.apply(lambda db: rows.read(db, run.row.attempt))
            if row is not None:
                yield from self._relay.inline(self._settlements[run.outbox], row)
                return
        self._relay.wake()


def _question_call(spec: RunSpec) -> Call:
    return wire.authorize_call(
        identity=spec.identity,
        feature_code=spec.feature_code,
        idempotency_key="-",
        feature_family_code=spec.feature_family_code,
        estimated_quantity=spec.estimated_quantity,
        budget=spec.budget,
    )


def _stored(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name != "due"}
