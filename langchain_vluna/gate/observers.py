"""What people learn of the gate's answers: hints, alarms and bills."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from langchain_vluna._core.types import Hint
from langchain_vluna._io.relay import Outcome
from langchain_vluna.gate.bill import BillKey, Bills
from langchain_vluna.gate.spec import RunSpec, UsageBody

__all__ = ["Alarm", "Observers"]

logger = logging.getLogger("langchain_vluna")

_MOST = 10_000
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "alarm": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Alarm:
    """Work was done and not charged, or cannot be: somebody has to act."""

    kind: str
    """`quarantined`: recorded by the gate but not charged; `dead`: refused for good, kept in the outbox."""
    feature_code: str
    principal_id: str
    meters: tuple[str, ...]
    message: str
    hints: tuple[Hint, ...] = ()


class Observers:
    """Hands the gate's answers to logs, bills and the user's callables; a callable that raises is logged."""

    def __init__(
        self,
        bills: Bills,
        on_hint: Callable[[Hint], object] | None,
        on_alarm: Callable[[Alarm], object] | None,
        settled: Callable[[Outcome], None],
    ) -> None:
        self.bills = bills
        self._on_hint = on_hint
        self._on_alarm = on_alarm
        self._settled = settled
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, tuple[BillKey, ...]] = OrderedDict()
        self._logged: set[tuple[str, ...]] = set()
        self.alarm_counts: Counter[tuple[str, str, tuple[str, ...]]] = Counter()

    def admitted(self, attempt: str, spec: RunSpec, hints: Iterable[Hint]) -> None:
        """A run was let in."""
        keys: list[BillKey] = [("run", str(spec.root_id)), ("principal", spec.identity.principal_id)]
        keys += [("scope", scope) for scope in spec.scopes]
        if spec.thread_id is not None:
            keys.append(("thread", spec.thread_id))
        with self._lock:
            self._keys[attempt] = tuple(keys)
            while len(self._keys) > _MOST * 10:
                self._keys.popitem(last=False)
        for key in keys:
            self.bills.get(key).opened()
        self.hinted(hints, spec.feature_code, spec.identity.principal_id)

    def used(self, attempt: str, used: UsageBody) -> None:
        """A run ended with usage."""
        for key in self._keys.get(attempt, ()):
            self.bills.get(key).used(used.body, used.usage)

    def outcome(self, outcome: Outcome) -> None:
        """A row was settled, or cannot be."""
        row, commit = outcome.row, outcome.commit
        hints = commit.hints if commit else ()
        self.hinted(hints, row.feature_code, row.identity.principal_id)
        alarmed = outcome.kind in {"quarantined", "dead"}
        if alarmed:
            self._alarm(outcome)
        if outcome.kind == "lease_gone":
            return
        amount = commit.amount_xusd or 0 if commit and not alarmed else 0
        with self._lock:
            keys = self._keys.pop(row.attempt, ())
        for key in keys:
            self.bills.get(key).settled(amount, alarmed=alarmed, hints=hints)
        self._settled(outcome)

    def hinted(self, hints: Iterable[Hint], feature_code: str, principal_id: str) -> None:
        """Log each hint once per feature and customer, and hand every one on."""
        for hint in hints:
            first = self._first(("hint", hint.type, feature_code, principal_id))
            logger.log(
                _LEVELS[hint.level] if first else logging.DEBUG,
                "gate hint [%s] %s for feature %r, principal %r: %s",
                hint.level, hint.type, feature_code, principal_id, dict(hint.fields),
            )  # fmt: skip
            _call(self._on_hint, hint)

    def _alarm(self, outcome: Outcome) -> None:
        row, commit = outcome.row, outcome.commit
        unpriced = tuple(line.meter_code for line in commit.lines if not line.amount_xusd) if commit else ()
        self.alarm_counts[outcome.kind, row.feature_code, unpriced] += 1
        if not self._first((outcome.kind, row.feature_code, *unpriced)):
            return
        message = _explain(outcome, unpriced)
        logger.error("%s", message)
        hints = commit.hints if commit else ()
        _call(
            self._on_alarm, Alarm(outcome.kind, row.feature_code, row.identity.principal_id, unpriced, message, hints)
        )

    def _first(self, what: tuple[str, ...]) -> bool:
        with self._lock:
            if what in self._logged:
                return False
            if len(self._logged) >= _MOST:
                self._logged.clear()
            self._logged.add(what)
            return True


def _explain(outcome: Outcome, unpriced: tuple[str, ...]) -> str:
    feature, principal = outcome.row.feature_code, outcome.row.identity.principal_id
    if outcome.kind == "dead":
        return (
            f"the gate refuses to charge feature {feature!r} to principal {principal!r}: {outcome.error};"
            f" row {outcome.row.attempt} stays in the outbox"
        )
    types = sorted({hint.type for hint in outcome.commit.hints if hint.quarantines}) if outcome.commit else []
    return (
        f"usage of feature {feature!r} by principal {principal!r} was recorded but NOT charged"
        f" ({', '.join(types) or 'price 0'}): give meters {', '.join(unpriced) or feature} a price at the gate"
    )


def _call(callback: Callable[..., object] | None, value: object) -> None:
    if callback is None:
        return
    try:
        callback(value)
    except Exception:
        # Border: a user's callable runs in the thread that settles, which must go on.
        logger.exception("a hint or alarm callable raised")
