"""The runs that are open in this process, and how each begins and ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from uuid import uuid4

from langchain_vluna._core import wire
from langchain_vluna._core.errors import ConfigurationError, GateDenied, GateRejected, GateUnavailable
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import Call
from langchain_vluna._io import forks
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import upkeep
from langchain_vluna._io.relay import Outcome
from langchain_vluna.gate.liveness import Caller, Stacks
from langchain_vluna.gate.memo import DenyMemo, Question
from langchain_vluna.gate.observers import Observers
from langchain_vluna.gate.policy import RunPolicy
from langchain_vluna.gate.records import Records
from langchain_vluna.gate.spec import Meter, OpenRun, RunId, RunSpec, UsageBody

__all__ = ["RunBook"]

logger = logging.getLogger("langchain_vluna")

_MOST_LATE = 1_000


class RunBook:
    """Interprets the events of runs: asks, records, and hands over to the relay."""

    def __init__(
        self, client: Client, records: Records, *, policy: RunPolicy, memo: DenyMemo, observers: Observers
    ) -> None:
        self._client = client
        self._records = records
        self._policy = policy
        self._memo = memo
        self._observers = observers
        self._begin()
        forks.track(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[RunId, OpenRun] = {}
        self._below: dict[RunId, set[OpenRun]] = {}
        self._late: OrderedDict[RunId, OpenRun] = OrderedDict()
        self._strays: set[str] = set()

    def before_fork(self) -> None:
        """Nothing has to be let go of."""

    def after_fork(self, *, in_child: bool) -> None:
        """The runs of the parent go on in the parent, and end there."""
        if in_child:
            self._begin()
            self._records.reset()

    def open_runs(self) -> list[OpenRun]:
        """Return the runs that were let in and have not ended in this process."""
        with self._lock:
            return [run for run in self._open.values() if run.row.state is not State.ASKING]

    def below(self, run_id: RunId) -> list[OpenRun]:
        """Return the open runs whose parent or root this is."""
        with self._lock:
            return list(self._below.get(run_id, ()))

    def open_meter(self, run_id: RunId) -> Meter | None:
        """Return the meter of an open run, which is at work; for each token of a stream, so without a lock."""
        run = self._open.get(run_id)
        if run is None:
            return None
        run.touched = time.monotonic()
        return run.meter

    def find(self, run_id: RunId) -> OpenRun | None:
        """Return the run that an end event speaks of: open, or given up a while ago."""
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
        ask = _question(spec).body
        now = time.monotonic()
        row = self._records.new_row(spec, ask, fallback)
        run = OpenRun(spec, row, self._records.outbox, caller, meter, started=now, touched=now)
        known = self._put(run)
        if known is not None:
            if _is_told_again(known, run):
                return None
            yield from self._displace(known)
            if self._put(run) is not None:
                raise _in_use(run)
        question = Question(spec.identity, spec.feature_code, spec.budget)
        denial: GateDenied | None = None
        admitted = False
        flight = None
        try:
            flight = yield from self._memo.may_ask(question, loop)
            yield from self._ask(run)
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
        """End a run with usage to charge; a second end changes nothing, one after a cancel is ingested."""
        if run.claim_end() or self._pop_late(run):
            self._forget(run)
            changes = {"usage": used.body, "source": used.source}
            yield from self._records.ended(run, Event.USED, changes, used, inline=inline)

    def failed(self, run: OpenRun, reason: str, *, inline: bool = True) -> Flow[None]:
        """End a run with nothing to charge; should somebody tell of usage yet, that counts as well."""
        if run.claim_end():
            if run.objection is None:
                self._remember_late(run)
            self._forget(run)
            yield from self._records.ended(run, Event.FAILED, {"reason": reason}, None, inline=inline)

    def given_up(self, run: OpenRun) -> Flow[None]:
        """End a run whose end nobody will tell: charge what it delivered, or by its fallback, or cancel it."""
        delivered = run.meter.partial()
        if delivered is None and run.row.usage is not None:
            delivered = UsageBody(run.row.usage, "estimated")
        if delivered is not None:
            yield from self.used(run, delivered, inline=False)
        else:
            yield from self.failed(run, run.why, inline=False)

    def settle_orphan(self, run: OpenRun) -> None:
        """Do what `given_up` says, in a thread of the relay."""
        self._client.perform(self.given_up(run))

    def settled(self, outcome: Outcome) -> None:
        """Count a customer's settled run."""
        self._records.settled(outcome)

    def reconcile(self) -> None:
        """Settle rows that nobody in this process can end: seen twice in a row, since an end takes a moment."""
        outbox = self._records.outbox
        if not outbox.is_open:
            return
        with self._lock:
            known = {run.row.attempt for run in self._open.values()}
        strays = set(upkeep.running(outbox)) - known
        lasting = strays & self._strays
        self._strays = strays - lasting
        if lasting:
            logger.warning("settling %d runs whose beginning was interrupted", len(lasting))
            upkeep.settle_strays(outbox, lasting)

    def _put(self, run: OpenRun) -> OpenRun | None:
        """Note a run as begun; returns the one that has its id, which stays."""
        run_id = run.spec.run_id
        with self._lock:
            known = self._open.get(run_id)
            if known is not None:
                return known
            self._open[run_id] = run
            for above in run.spec.above:
                self._below.setdefault(above, set()).add(run)
            self._late.pop(run_id, None)
            return None

    def _displace(self, known: OpenRun) -> Flow[None]:
        """Give up a run whose id is used again: an abandoned stream, or a call that was cancelled a moment ago."""
        if known.row.state is State.ASKING or Stacks().sees(known.caller):
            raise _in_use(known)
        known.orphan(time.monotonic(), "its run_id was used for another run")
        yield from self.given_up(known)

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
        run.unwatch = _nothing

    def _pop_late(self, run: OpenRun) -> bool:
        with self._lock:
            if self._late.get(run.spec.run_id) is not run:
                return False
            del self._late[run.spec.run_id]
            return True

    def _remember_late(self, run: OpenRun) -> None:
        with self._lock:
            self._late[run.spec.run_id] = run
            while len(self._late) > _MOST_LATE:
                self._late.popitem(last=False)

    def _ask(self, run: OpenRun) -> Flow[None]:
        yield from self._records.intent(run)
        try:
            lease = wire.parse_lease((yield from self._client.exchange(run.row.question)), run.spec.identity)
            yield from self._records.admitted(run, lease.handle)
        except GateUnavailable as error:
            self._records.answered(run, Event.ABANDONED if error.outcome_unknown else Event.REFUSED)
            if self._policy.on_unavailable == "deny":
                raise
            logger.warning("the gate is unavailable and policy lets the work run: %s", error)
            run.row = replace(run.row, attempt=uuid4().hex, state=State.UNGATED, handle=None)
            yield from self._records.intent(run)
            self._observers.admitted(run.row.attempt, run.spec, ())
            return
        except (GateDenied, GateRejected, ConfigurationError) as error:
            self._records.answered(run, Event.ABANDONED if error.outcome_unknown else Event.REFUSED)
            raise
        except BaseException:
            self._records.answered(run, Event.ABANDONED)
            raise
        run.objection = self._observers.admitted(run.row.attempt, run.spec, lease.hints)


def _is_told_again(known: OpenRun, run: OpenRun) -> bool:
    """Whether one start is told twice: by a handler that is attached twice, or by two handlers of one gate."""
    if run.caller.managed and run.spec.event is not None:
        return known.spec.event is run.spec.event
    return known.caller.same_place(run.caller)


def _in_use(run: OpenRun) -> ConfigurationError:
    run_id = str(run.spec.run_id)
    return ConfigurationError(
        f"run_id {run_id!r} is in use by a call that still runs; give each concurrent call a run_id of its own"
    )


def _question(spec: RunSpec) -> Call:
    return wire.authorize_call(
        identity=spec.identity,
        feature_code=spec.feature_code,
        idempotency_key="-",
        feature_family_code=spec.feature_family_code,
        estimated_quantity=spec.estimated_quantity,
        budget=spec.budget,
        # The commit has them again: no generation passes them on. These say who was denied.
        labels=spec.labels,
    )


def _nothing() -> None:
    return
