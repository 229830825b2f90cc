"""What is done about the gate's hints.

| hint | by default | because |
| --- | --- | --- |
| `budget.low_headroom`, `budget.shortfall`, `quota.remaining` | `degrade` | allow and warn, or a cheaper path |
| `funding.xusd_shortfall` | `degrade`; `log` where it is 1 | 1 says no more than that there is no balance |
| `rate.limit` with an answer | `warn` | the denial itself says how long to wait |
| `pricing.changed` | `log` | nothing to do |
| whatever voids a charge (`pricing.not_configured`, ...) | error log | and `on_alarm`, once it has happened |
| any other | `warn` | |

`degrade` warns, and moves agents whose middleware has a `fallback_model` over to it. `raise` blocks the run before
its work starts. A hint that comes with a commit comes too late for its own run: for a minute it does the same to the
next runs of the customer with that feature.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from langchain_vluna._core.errors import ConfigurationError, DenialReason, GateDenied
from langchain_vluna._core.types import Hint, Identity
from langchain_vluna._io import forks
from langchain_vluna.gate.ambient import can_degrade

__all__ = ["Advice", "Degraded", "HintAction", "OnHint"]

logger = logging.getLogger("langchain_vluna")

HintAction = Literal["ignore", "log", "warn", "raise", "degrade"]
OnHint = Callable[[Hint], object] | Mapping[str, HintAction | Callable[[Hint], object]] | None
"""One function for all hints, or per hint type (`"*"`: all others) a function or an action.

A function may return the action to take. Without one, a function for all hints adds to the defaults, and a
function for one type replaces them.
"""

_ACTIONS: frozenset[str] = frozenset(get_args(HintAction))
_DEFAULTS: Mapping[str, HintAction] = {
    "budget.low_headroom": "degrade",
    "budget.shortfall": "degrade",
    "funding.xusd_shortfall": "degrade",
    "pricing.changed": "log",
    "quota.remaining": "degrade",
}
_REASONS: tuple[DenialReason, ...] = ("budget", "funding", "quota", "rate")
_OBJECTIONS: tuple[Literal["raise", "degrade"], ...] = ("raise", "degrade")
_STANDS = 60.0
_MOST = 10_000


class Degraded(GateDenied):
    """The run may go on with a cheaper model. Raised only below a middleware that has one."""


@dataclass(frozen=True, slots=True)
class _Standing:
    hint: Hint
    action: Literal["raise", "degrade"]
    until: float
    revision: int


class Advice:
    """Applies the choices per hint type; a callable that raises is logged."""

    def __init__(
        self, on_hint: OnHint, *, brief: float, clock: Callable[[], float], revision: Callable[[], int]
    ) -> None:
        """Check the choices.

        `brief` is for how many seconds an objection is repeated without asking the gate; `clock` is monotonic;
        `revision` grows with every change of a local gate, so that a top-up is seen at once.

        Raises:
            ConfigurationError: An action is not known.
        """
        self._for_all = on_hint if callable(on_hint) else None
        if on_hint is not None and not callable(on_hint) and not isinstance(on_hint, Mapping):
            msg = f"on_hint must be a callable, or a mapping of hint types to callables or actions, got {on_hint!r}"
            raise ConfigurationError(msg)
        self._rules = {} if on_hint is None or callable(on_hint) else dict(on_hint)
        for kind, rule in self._rules.items():
            if not callable(rule) and rule not in _ACTIONS:
                msg = f"on_hint[{kind!r}] must be a callable or one of {', '.join(sorted(_ACTIONS))}, got {rule!r}"
                raise ConfigurationError(msg)
        self._brief = brief
        self._clock = clock
        self._revision = revision
        self._lock = forks.Lock()
        self._logged: set[tuple[str, str, str]] = set()
        self._standing: OrderedDict[tuple[Identity, str], _Standing] = OrderedDict()

    def admitted(self, hints: Iterable[Hint], identity: Identity, feature_code: str) -> GateDenied | None:
        """Act on the hints of an authorize; returns what must be raised instead of doing the work."""
        heard = self._hear(hints, identity, feature_code, self._brief)
        return None if heard is None else _objection(heard, identity, feature_code)

    def settled(self, hints: Iterable[Hint], identity: Identity, feature_code: str) -> None:
        """Act on the hints of a commit."""
        self._hear(hints, identity, feature_code, _STANDS)

    def standing(self, identity: Identity, feature_code: str) -> GateDenied | None:
        """Return what must be raised instead of asking the gate, or instead of doing the work."""
        known = self._standing.get((identity, feature_code))
        if known is None:
            return None
        if self._clock() > known.until or self._revision() != known.revision:
            with self._lock:
                if self._standing.get((identity, feature_code)) is known:
                    del self._standing[identity, feature_code]
            return None
        return _objection(known, identity, feature_code)

    def _hear(self, hints: Iterable[Hint], identity: Identity, feature_code: str, seconds: float) -> _Standing | None:
        """Act on each hint; the strongest objection stands for some time."""
        found = [(hint, self._act(hint, identity, feature_code)) for hint in hints]
        for wanted in _OBJECTIONS:
            hint = next((hint for hint, action in found if action == wanted), None)
            if hint is not None:
                entry = _Standing(hint, wanted, self._clock() + seconds, self._revision())
                self._remember((identity, feature_code), entry)
                return entry
        return None

    def _remember(self, key: tuple[Identity, str], entry: _Standing) -> None:
        with self._lock:
            known = self._standing.get(key)
            if known is None or known.until <= entry.until or known.revision != entry.revision:
                self._standing[key] = entry
            while len(self._standing) > _MOST:
                self._standing.popitem(last=False)

    def _act(self, hint: Hint, identity: Identity, feature_code: str) -> HintAction:
        rule = self._rules.get(hint.type, self._rules.get("*"))
        action = _default(hint)
        if callable(rule):
            action = _asked(rule, hint) or "ignore"
        elif rule is not None:
            action = rule
        elif self._for_all is not None:
            action = _asked(self._for_all, hint) or action
        self._log(hint, action, feature_code, identity.principal_id)
        return action

    def _log(self, hint: Hint, action: HintAction, feature_code: str, principal_id: str) -> None:
        if action == "ignore":
            return
        level = logging.INFO if action == "log" else logging.ERROR if hint.quarantines else logging.WARNING
        first = self._first((hint.type, feature_code, principal_id))
        logger.log(
            level if first else logging.DEBUG,
            "gate hint [%s] %s for feature %r, principal %r: %s",
            hint.level, hint.type, feature_code, principal_id, dict(hint.fields),
        )  # fmt: skip

    def _first(self, what: tuple[str, str, str]) -> bool:
        with self._lock:
            if what in self._logged:
                return False
            if len(self._logged) >= _MOST:
                self._logged.clear()
            self._logged.add(what)
            return True


def _objection(standing: _Standing, identity: Identity, feature_code: str) -> GateDenied | None:
    if standing.action == "degrade" and not can_degrade():
        return None
    kind = GateDenied if standing.action == "raise" else Degraded
    hint = standing.hint
    return kind(
        f"hint {hint.type} {dict(hint.fields)} for feature {feature_code!r}, principal"
        f" {identity.principal_id!r}, and on_hint says {standing.action!r}",
        reason=next((reason for reason in _REASONS if hint.type.startswith(f"{reason}.")), "unknown"),
        hints=(hint,),
        feature_code=feature_code,
        principal_id=identity.principal_id,
    )


def _default(hint: Hint) -> HintAction:
    if hint.type == "funding.xusd_shortfall" and hint.fields.get("shortfall_xusd") == 1:
        return "log"
    return _DEFAULTS.get(hint.type, "warn")


def _asked(function: Callable[[Hint], object], hint: Hint) -> HintAction | None:
    try:
        answer = function(hint)
    except Exception:
        # Border: a user's function may run in the thread that settles, which must go on.
        logger.exception("the on_hint function failed for hint %r", hint.type)
        return _default(hint)
    return answer if answer in _ACTIONS else None  # type: ignore[return-value]
