"""Runs, outbox and ledger together, under any order and repetition of events, faults and take-overs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from langchain_vluna._core import wire
from langchain_vluna._core.config import RetryPolicy
from langchain_vluna._core.errors import GateDenied, GateUnavailable
from langchain_vluna._core.run import UNSETTLED, Event, State
from langchain_vluna._core.types import Identity
from langchain_vluna._io.client import Client
from langchain_vluna._io.local import LocalGate
from langchain_vluna._io.outbox import Outbox, Row, rows, upkeep
from langchain_vluna._io.relay import Outcome, Settlement
from langchain_vluna._io.relay.settlement import Unsettled

FEATURES = ("priced", "unpriced")
CUSTOMER = Identity("customer")
FAULTS = st.sampled_from([None, None, "drop_answer", "reset", "status_500", "status_429"])


@dataclass
class Facts:
    """What really happened to a run, as the machine under test must come to show it."""

    feature: str
    used: int | None = None
    denied: bool = False
    copies: list[Row] = field(default_factory=list)
    """The row as it was seen at some time: what a slow worker holds."""


class RunsAgainstLedger(RuleBasedStateMachine):
    runs = Bundle("runs")

    @initialize()
    def open(self) -> None:
        self.now = 1_700_000_000.0
        self.ledger = LocalGate(clock=lambda: self.now)
        self.ledger.price("priced", "priced", 2)
        self.ledger.grant(CUSTOMER.principal_id, 10**9)
        self.outbox = Outbox(":memory:", clock=lambda: self.now)
        self.client = Client(
            self.ledger, self.ledger.settings, wire="tutorial", retry=RetryPolicy(attempts=1), sleep=lambda _: None
        )
        self.outcomes: list[Outcome] = []
        self.settlement = Settlement(self.client, self.outbox, self.outcomes.append)
        self.facts: dict[str, Facts] = {}
        self.owners = 0

    def write(self, operation: Any) -> Any:
        return self.outbox.apply(operation)

    def begun(self, feature: str, principal: str = CUSTOMER.principal_id) -> Row:
        attempt = f"attempt{len(self.facts)}"
        row = Row(
            attempt=attempt,
            identity=Identity(principal),
            run_id=attempt,
            root_id=attempt,
            ask={"feature_code": feature},
            owner=self.outbox.owner_id,
            created=self.now,
            due=self.now,
        )
        self.write(lambda db: rows.begin(db, row))
        self.facts[attempt] = Facts(feature)
        return row

    def authorize(self, row: Row) -> Any:
        call = wire.authorize_call(identity=row.identity, feature_code=row.feature_code, idempotency_key=row.key("a"))
        return self.client.perform(self._lease(call))

    def _lease(self, call: Any) -> Any:
        return wire.parse_lease((yield from self.client.exchange(call)), call.identity).handle

    def remember(self, attempt: str) -> Row | None:
        row: Row | None = self.write(lambda db: rows.read(db, attempt))
        if row is not None:
            self.facts[attempt].copies.append(row)
        return row

    @rule(target=runs, feature=st.sampled_from(FEATURES))
    def begin(self, feature: str) -> str:
        row = self.begun(feature)
        handle = self.authorize(row)
        self.write(lambda db: rows.advance(db, row.attempt, Event.ADMITTED, {"handle": handle}))
        return row.attempt

    @rule(target=runs, fault=st.sampled_from(["drop_answer", "reset"]))
    def begin_without_answer(self, fault: Any) -> str:
        row = self.begun("priced")
        with self.ledger.fault(fault, on="authorize"), contextlib.suppress(GateUnavailable):
            self.authorize(row)
        self.write(lambda db: rows.advance(db, row.attempt, Event.ABANDONED, {"due": self.now}))
        return row.attempt

    @rule(target=runs)
    def begin_denied(self) -> str:
        row = self.begun("priced", "penniless")
        with contextlib.suppress(GateDenied):
            self.authorize(row)
        self.write(lambda db: rows.advance(db, row.attempt, Event.REFUSED, {}))
        self.facts[row.attempt].denied = True
        return row.attempt

    @rule(target=runs)
    def begin_while_the_gate_is_down(self) -> str:
        row = self.begun("priced")
        self.write(lambda db: rows.advance(db, row.attempt, Event.ALLOWED, {}))
        return row.attempt

    @rule(attempt=runs, quantity=st.integers(1, 1000), expected=st.sampled_from([None, State.OPEN, State.UNGATED]))
    def use(self, attempt: str, quantity: int, expected: State | None) -> None:
        """An end, or its repetition with whatever it says then; `expected` is what its process believes."""
        facts = self.facts[attempt]
        if facts.denied:
            return
        body = {"feature_code": facts.feature, "quantity_minor": str(quantity)}
        changes = {"usage": body, "due": self.now}
        moved = self.write(lambda db: rows.use(db, attempt, None, changes, now=self.now, expected=expected))
        if moved.target is not None:
            assert facts.used is None, "usage was taken twice"
            facts.used = quantity
        self.remember(attempt)

    @rule(attempt=runs)
    def fail(self, attempt: str) -> None:
        self.write(lambda db: rows.advance(db, attempt, Event.FAILED, {"due": self.now}))
        self.remember(attempt)

    @rule(attempt=runs, fault=FAULTS, on=st.sampled_from(["*", "commit", "cancel", "ingest", "authorize"]))
    def settle(self, attempt: str, fault: Any, on: Any) -> None:
        row = self.remember(attempt)
        if row is not None:
            self.attempt_to_settle(self.settlement.one(row), [row], fault, on)

    @rule(attempt=runs, which=st.integers(0, 10))
    def settle_what_a_slow_worker_holds(self, attempt: str, which: int) -> None:
        copies = self.facts[attempt].copies
        if copies and copies[which % len(copies)].state in UNSETTLED:
            row = copies[which % len(copies)]
            self.attempt_to_settle(self.settlement.one(row), [row], None, "*")

    @rule(fault=FAULTS, on=st.sampled_from(["batch", "commit"]))
    def settle_in_a_batch(self, fault: Any, on: Any) -> None:
        batch = self.write(lambda db: rows.select(db, "state = 'committing' AND tries = 0 AND taken_over = 0"))
        if len(batch) > 1:
            self.attempt_to_settle(self.settlement.batch(batch), batch, fault, on)

    def attempt_to_settle(self, flow: Any, batch: list[Row], fault: Any, on: Any) -> None:
        armed = self.ledger.fault(fault, on=on) if fault else contextlib.nullcontext()
        with armed:
            try:
                self.client.perform(flow)
            except Unsettled as unsettled:
                reason = str(unsettled)
                self.write(lambda db: rows.postpone(db, [row.attempt for row in batch], self.now, reason))

    @rule()
    def another_process_takes_over(self) -> None:
        dead, self.owners = self.outbox.owner_id, self.owners + 1
        self.outbox._owner = replace_owner(self.owners)
        self.outbox.transact(lambda db: upkeep._adopt(db, dead=dead, me=self.outbox.owner_id, now=self.now))

    @rule(hours=st.sampled_from([1, 13]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * 3600

    def applied(self, attempt: str) -> list[int]:
        return [r.quantity for r in self.ratings(attempt) if r.status == "applied"]

    def ratings(self, attempt: str) -> list[Any]:
        return [r for r in self.ledger.ratings() if r.idempotency_key.startswith(f"{attempt}-")]

    @invariant()
    def nothing_is_charged_twice_or_otherwise_than_used(self) -> None:
        for attempt, facts in getattr(self, "facts", {}).items():
            charged = self.applied(attempt)
            assert len(charged) <= 1, f"{attempt} was charged {charged}"
            assert charged in ([], [facts.used]), f"{attempt} used {facts.used} and was charged {charged}"
            if facts.denied:
                assert [] == self.ratings(attempt)

    def teardown(self) -> None:
        for attempt in getattr(self, "facts", {}):
            row = self.write(lambda db, attempt=attempt: rows.read(db, attempt))
            if row is not None and row.state in {State.OPEN, State.UNGATED}:
                self.write(lambda db, attempt=attempt: rows.advance(db, attempt, Event.FAILED, {"due": self.now}))
        self.heal()
        for attempt, facts in getattr(self, "facts", {}).items():
            alarmed = [o for o in self.outcomes if o.row.attempt == attempt and o.kind == "quarantined"]
            if facts.used is not None:
                assert self.applied(attempt) == [facts.used] or alarmed, f"{attempt}: lost in silence"
            else:
                assert [] == self.applied(attempt)
            if facts.feature == "priced" and facts.used is not None:
                assert [facts.used] == self.applied(attempt), f"{attempt}: {self.ratings(attempt)}"
        opened = [lease for lease in getattr(self, "ledger", LocalGate()).leases("active") if not lease.commits]
        assert [] == [lease for lease in opened if not self.expired(lease)]

    def heal(self) -> None:
        for _ in range(3):
            left = self.write(
                lambda db: rows.select(db, "state IN ('committing','canceling','recanting','ingesting','voiding')")
            )
            for row in left:
                self.attempt_to_settle(self.settlement.one(replace(row, tries=99)), [row], None, "*")
        assert 0 == self.write(rows.count_unsettled)

    def expired(self, lease: Any) -> bool:
        """A lease whose answer was lost is not looked for after its life."""
        return self.now - 1_700_000_000.0 > 12 * 3600


class _Named:
    def __init__(self, name: str) -> None:
        self.id = name


def replace_owner(number: int) -> Any:
    return _Named(f"process{number}")


RunsAgainstLedger.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestRunsAgainstLedger = RunsAgainstLedger.TestCase
