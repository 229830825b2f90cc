"""What people learn of the gate's answers: hints, alarms and bills."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from langchain_vluna._core.errors import GateDenied
from langchain_vluna._core.types import Commit, Hint, Identity
from langchain_vluna._io import forks
from langchain_vluna._io.relay import Outcome
from langchain_vluna.gate.alarm import Alarm
from langchain_vluna.gate.bill import Bill, BillKey, Bills
from langchain_vluna.gate.hints import Advice
from langchain_vluna.gate.spec import RunSpec, UsageBody

__all__ = ["Observers"]

logger = logging.getLogger("langchain_vluna")

_MOST = 100_000
_MOST_RELEASED = 1_000
"""As many as may end late, in `runs`."""


@dataclass(slots=True)
class _Tab:
    """The bills that a run is on. Its settlement may be told before its usage is: another thread tells that."""

    bills: tuple[Bill, ...]
    used: bool = False
    released: bool = False
    settled: bool = False


class Observers:
    """Hands the gate's answers to advice, bills and alarms."""

    def __init__(
        self,
        bills: Bills,
        advice: Advice,
        on_alarm: Callable[[Alarm], object] | None,
        settled: Callable[[Outcome], None],
    ) -> None:
        self.bills = bills
        self._advice = advice
        self._on_alarm = on_alarm
        self._settled = settled
        self._lock = forks.Lock()
        self._tabs: OrderedDict[str, _Tab] = OrderedDict()
        self._released: OrderedDict[str, None] = OrderedDict()
        self.alarm_counts: Counter[tuple[str, str, str]] = Counter()
        """Runs by kind of alarm, feature and meter."""

    def objection(self, identity: Identity, feature_code: str) -> GateDenied | None:
        """Return what must be raised instead of asking the gate, where a hint of a moment ago says so."""
        return self._advice.standing(identity, feature_code)

    def admitted(self, attempt: str, spec: RunSpec, hints: tuple[Hint, ...]) -> GateDenied | None:
        """A run was let in; returns what must be raised instead of doing its work, where its hints say so."""
        keys: list[BillKey] = [("run", str(spec.root_id)), ("principal", spec.identity.principal_id)]
        keys += [("scope", scope) for scope in spec.scopes]
        if spec.thread_id is not None:
            keys.append(("thread", spec.thread_id))
        tab = _Tab(tuple(map(self.bills.get, keys)))
        with self._lock:
            self._tabs[attempt] = tab
            while len(self._tabs) > _MOST:
                self._tabs.popitem(last=False)
        for bill in tab.bills:
            bill.opened(hints)
        return self._advice.admitted(hints, spec.identity, spec.feature_code) if hints else None

    def used(self, attempt: str, used: UsageBody) -> None:
        """A run ended with usage."""
        with self._lock:
            tab = self._tabs.get(attempt)
            if tab is None:
                return
            tab.used, reopened, tab.released = True, tab.released, False
            self._released.pop(attempt, None)
            if tab.settled:
                del self._tabs[attempt]
        for bill in tab.bills:
            bill.used(used.body, used.usage)
            if reopened:
                bill.reopened()

    def outcome(self, outcome: Outcome) -> None:
        """A row was settled, or cannot be."""
        row, commit = outcome.row, outcome.commit
        hints = commit.hints if commit else ()
        if hints:
            self._advice.settled(hints, row.identity, row.feature_code)
        alarmed = outcome.kind in {"quarantined", "dead"}
        if alarmed:
            self._alarm(outcome)
        if outcome.kind == "lease_gone":
            return
        charged = commit if commit and not alarmed else Commit(None, 0)
        for bill in self._bills_of(row.attempt, released=outcome.kind == "released"):
            bill.settled(row.feature_code, charged.amount_xusd or 0, lines=charged.lines, alarmed=alarmed, hints=hints)
        self._settled(outcome)

    def _bills_of(self, attempt: str, *, released: bool) -> Iterable[Bill]:
        """Return the bills of a run; one that was given up may have an end yet, and then is on them again."""
        with self._lock:
            tab = self._tabs.get(attempt)
            if tab is None or tab.released or tab.settled:
                return ()
            tab.released, tab.settled = released, not released
            if released:
                self._released[attempt] = None
                while len(self._released) > _MOST_RELEASED:
                    self._tabs.pop(self._released.popitem(last=False)[0], None)
            elif tab.used:
                del self._tabs[attempt]
            return tab.bills

    def _alarm(self, outcome: Outcome) -> None:
        row, commit = outcome.row, outcome.commit
        meters = _unpriced(commit) or (row.feature_code,)
        with self._lock:
            known = [self.alarm_counts[outcome.kind, row.feature_code, meter] for meter in meters]
            self.alarm_counts.update((outcome.kind, row.feature_code, meter) for meter in meters)
        if all(known):
            return
        message = _explain(outcome, meters)
        logger.error("%s", message)
        hints = commit.hints if commit else ()
        alarm = Alarm(outcome.kind, row.feature_code, row.identity.principal_id, meters, message, hints)
        if self._on_alarm is None:
            return
        try:
            self._on_alarm(alarm)
        except Exception:
            # Border: a user's function runs in the thread that settles, which must go on.
            logger.exception("the on_alarm function failed")


def _unpriced(commit: Commit | None) -> tuple[str, ...]:
    """Return the meters that kept a commit from being charged, as far as it says."""
    if commit is None:
        return ()
    named = [hint.fields.get("meters") for hint in commit.hints if hint.quarantines]
    listed = [meter for meters in named if isinstance(meters, list) for meter in meters if isinstance(meter, str)]
    return tuple(dict.fromkeys(listed)) or tuple(line.meter_code for line in commit.lines if not line.amount_xusd)


def _explain(outcome: Outcome, meters: tuple[str, ...]) -> str:
    feature, principal = outcome.row.feature_code, outcome.row.identity.principal_id
    if outcome.kind == "dead":
        return (
            f"the gate refuses to charge feature {feature!r} to principal {principal!r}: {outcome.error};"
            f" row {outcome.row.attempt} stays in the outbox"
        )
    types = sorted({hint.type for hint in outcome.commit.hints if hint.quarantines}) if outcome.commit else []
    return (
        f"usage of feature {feature!r} by principal {principal!r} was recorded but NOT charged"
        f" ({', '.join(types) or 'price 0'}): give meters {', '.join(meters)} a price at the gate"
    )
