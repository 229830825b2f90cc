"""The parts of a gate, put together once: client, outboxes, relay, runs and their watch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from langchain_vluna._core.exchange import Flow
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import Outbox, rows
from langchain_vluna._io.relay import Relay, RelayTimes, Settlement
from langchain_vluna.gate.alarm import Alarm
from langchain_vluna.gate.bill import Bills
from langchain_vluna.gate.hints import Advice, OnHint
from langchain_vluna.gate.liveness import find_caller
from langchain_vluna.gate.memo import DenyMemo
from langchain_vluna.gate.observers import Observers
from langchain_vluna.gate.orphans import OrphanWatch
from langchain_vluna.gate.policy import RunPolicy
from langchain_vluna.gate.records import Records
from langchain_vluna.gate.runs import RunBook
from langchain_vluna.gate.spec import Meter, OpenRun, RunSpec, UsageBody
from langchain_vluna.gate.tree import RunTree

__all__ = ["Engine"]

logger = logging.getLogger("langchain_vluna")


class Engine:
    """What a gate and all its handlers share."""

    def __init__(
        self,
        client: Client,
        outbox: Outbox,
        *,
        policy: RunPolicy,
        times: RelayTimes,
        deny_memo: float,
        revision: Callable[[], int],
        on_hint: OnHint,
        on_alarm: Callable[[Alarm], object] | None,
    ) -> None:
        self.client = client
        self.outbox = outbox
        self.policy = policy
        self.tree = RunTree()
        self.bills = Bills()
        # The parts know each other in a circle, so some of it is closed by looking up later.
        advice = Advice(on_hint, brief=deny_memo, clock=time.monotonic, revision=revision)
        observers = Observers(self.bills, advice, on_alarm, lambda outcome: self.book.settled(outcome))  # noqa: PLW0108
        spill = Outbox(":memory:", clock=outbox.clock)
        self.outboxes = (outbox, spill)
        settlements = {box: Settlement(client, box, observers.outcome) for box in self.outboxes}
        self.relay = Relay(
            client,
            list(settlements.values()),
            sweep=lambda: self.watch.sweep(),  # noqa: PLW0108
            waiting=lambda: self.watch.waiting(),  # noqa: PLW0108
            reconcile=lambda: self.book.reconcile(),  # noqa: PLW0108
            times=times,
        )
        memo = DenyMemo(deny_memo, time.monotonic, revision)
        records = Records(self.relay, settlements, policy=policy, observers=observers)
        self.book = RunBook(client, records, policy=policy, memo=memo, observers=observers)
        self.watch = OrphanWatch(self.book, self.relay.wake, policy.orphan_after)
        self.observers = observers

    def start(
        self,
        spec: RunSpec,
        *,
        meter: Meter,
        fallback: UsageBody | None = None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> Flow[OpenRun | None]:
        """Open a run and watch it; see `RunBook.start`. What is done about hints may keep it from its work."""
        objection = self.observers.objection(spec.identity, spec.feature_code)
        if objection is not None:
            raise objection
        caller = find_caller()
        if spec.kind == "work":
            # A block always ends, by whichever thread or task leaves it; who entered it may be gone long before.
            caller = replace(caller, comes_and_goes=True, holds=None)
        run = yield from self.book.start(spec, caller=caller, meter=meter, fallback=fallback, loop=loop)
        if run is None:
            return None
        if run.objection is not None:
            yield from self.book.failed(run, str(run.objection))
            raise run.objection
        self.watch.watch(run)
        self.relay.attend()
        return run

    def close(self, timeout: float | None) -> int:
        """Settle or hand over everything; returns how many rows stay for the next process."""
        if not any(box.is_open for box in self.outboxes):
            # A gate that nobody used must not create files at the end of the interpreter.
            return 0
        self.watch.settle_all("the gate was closed")
        left = self.relay.flush(timeout)
        if left:
            self._tell_what_is_left(left)
        self.relay.stop()
        self.outbox.close()
        return left

    def _tell_what_is_left(self, left: int) -> None:
        in_memory = [box for box in self.outboxes if box.path == ":memory:" and box.is_open]
        lost = sum(box.query(rows.count_unsettled) for box in in_memory)
        if lost:
            logger.error("%s not settled, and in memory only: lost when this process ends", _runs(lost))
        if left > lost:
            logger.warning(
                "%s not settled: kept in %r for the next process, or see `langchain-vluna outbox list`",
                _runs(left - lost),
                self.outbox.path,
            )


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
