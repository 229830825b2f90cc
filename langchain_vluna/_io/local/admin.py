"""Setting up a local gate and looking into it: prices, grants, policies, and what was recorded.

Each change is one transaction and raises the revision, so that whoever remembers an answer knows when to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.ledger.fields import creatable
from langchain_vluna._core.ledger.model import LeaseState, Rating, Rounding
from langchain_vluna._io.local.catalogue import DEFAULT_FAMILY
from langchain_vluna._io.local.journal import Witness
from langchain_vluna._io.local.names import new_uuid
from langchain_vluna._io.local.registry import Registry
from langchain_vluna._io.local.store import Store

__all__ = ["AccountView", "Admin", "BudgetView", "LeaseView", "MeterView", "PolicyView"]

_MOST: Final = 2**53 - 1
"""No number beyond it: the wire's numbers are JSON numbers."""
_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as the ledger has it; open is an active one with no commit, since a batch closes none."""

    lease_id: str
    principal_id: str
    user_id: str | None
    feature_code: str
    state: LeaseState
    commits: int
    """Recorded under it, quarantined ones included."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    budget_id: str
    principal_id: str
    user_id: str | None
    name: str | None
    limit_xusd: int
    consumed_xusd: int


@dataclass(frozen=True, slots=True)
class MeterView:
    meter_code: str
    unit: str
    features: tuple[str, ...]
    xusd: int | None
    """`None` is no price."""
    per: int
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class PolicyView:
    feature_code: str
    kind: Literal["quota", "rate"]
    limit: int
    window_sec: int


@dataclass(frozen=True, slots=True)
class AccountView:
    principal_id: str
    user_id: str | None
    granted_xusd: int
    spent_xusd: int
    """Of the grants; what was charged beyond them is not in it."""

    @property
    def balance_xusd(self) -> int:
        """What is left of its own grants."""
        return self.granted_xusd - self.spent_xusd


class Admin:
    """What an operator does to a gate. Codes are taken in any case, as the gate itself does."""

    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    def price(  # noqa: PLR0917 -- read aloud: feature, meter, price, per how many of what
        self,
        feature_code: str,
        meter_code: str,
        xusd: int | None,
        per: int = 1,
        unit: str = "token",
        rounding: Rounding = "nearest",
        *,
        cost_xusd: int = 0,
        residual_mode: Literal["prepaid"] | None = None,
    ) -> None:
        """Charge `xusd` per block of `per` units of a meter.

        The feature need not have been seen yet. Its primary meter, which has its code, takes the first price that
        one of its meters gets, unless it has its own. A new price starts a new remainder; the same price again
        changes nothing. `None` is a meter without a price, which quarantines what is committed on it; 0 is a price.
        """
        feature, meter = _code(feature_code), _code(meter_code)
        if xusd is not None:
            _whole("xusd", xusd)
        _whole("per", per, least=1)
        _whole("cost_xusd", cost_xusd)
        if rounding not in {"floor", "nearest", "ceil"}:
            raise ConfigurationError(f"rounding {rounding!r} is not known; use 'floor', 'nearest' or 'ceil'")
        values = (xusd, per, rounding, int(residual_mode == "prepaid"), cost_xusd)
        with self._changing("price", f"{meter}: {_said(xusd, per, unit)}", feature=feature) as tables:
            tables.ensure_feature(feature)
            tables.ensure_meter(meter, unit)
            tables.attach_meter(feature, meter)
            tables.set_price(meter, values, self._now_ms())
            if xusd is not None and tables.never_priced(feature):
                tables.set_price(feature, values, self._now_ms())

    def grant(self, principal_id: str, xusd: int, user_id: str | None = None) -> None:
        """Give money. Without a user it is the principal's own: all its users spend it after theirs is gone."""
        _whole("xusd", xusd)
        with self._changing("grant", f"{xusd:,} XUSD", principal_id, user_id) as tables:
            tables.grant(_account(tables, principal_id, user_id), xusd)

    def withdraw(self, principal_id: str, user_id: str | None = None) -> int:
        """Take back what is left of the grants of a principal, or of one of its users; returns how much that was."""
        with self._changing("withdraw", "what was left", principal_id, user_id) as tables:
            return tables.withdraw(_account(tables, principal_id, user_id))

    def quota(self, feature_code: str, limit: int | None, window_sec: int) -> None:
        """Allow `limit` units per window and account; windows are aligned to the Unix epoch. `None` lifts it."""
        self._policy(feature_code, "quota", limit, window_sec)

    def rate(self, feature_code: str, limit: int | None, window_sec: int) -> None:
        """Admit `limit` authorizes per window and account. `None` lifts it."""
        self._policy(feature_code, "rate", limit, window_sec)

    def budget(self, principal_id: str, xusd: int, *, user_id: str | None = None, name: str | None = None) -> str:
        """Open a budget and return its id; `name` is its text in generation `lease`."""
        _whole("xusd", xusd)
        budget_id = new_uuid()
        with self._changing("budget", f"{name or budget_id}: {xusd:,} XUSD", principal_id, user_id) as tables:
            tables.add_budget(budget_id, _account(tables, principal_id, user_id), xusd, name)
        return budget_id

    def entitle(self, feature_code: str, principal_id: str | None = None, *, user_id: str | None = None) -> None:
        """Let a feature need an entitlement, and give one to a principal, or to one of its users.

        Without a principal nobody gets one.
        """
        code = _code(feature_code)
        with self._changing("entitle", "needs an entitlement", principal_id, user_id, feature=code) as tables:
            tables.ensure_feature(code)
            tables.set_feature(code, entitlement_required=True)
            if principal_id is not None:
                tables.entitle(code, _account(tables, principal_id, user_id))

    def feature(
        self,
        feature_code: str,
        *,
        family: str | None = None,
        active: bool | None = None,
        entitlement_required: bool | None = None,
    ) -> None:
        """Register a feature, or change what is given of it."""
        code = _code(feature_code)
        with self._changing("feature", "registered or changed", feature=code) as tables:
            tables.ensure_feature(code, DEFAULT_FAMILY if family is None else family)
            tables.set_feature(code, family=family, active=active, entitlement_required=entitlement_required)

    def family(self, family_code: str, *, entitlement_required: bool) -> None:
        """Decide for all features of a family that do not say otherwise themselves."""
        code = _code(family_code)
        with self._changing("family", f"{code}: entitlement {'needed' if entitlement_required else 'free'}") as tables:
            tables.set_family(code, entitlement_required=entitlement_required)

    def expire_leases(self, lease_id: str | None = None) -> int:
        """Let one lease, or every open one, be past its life and its grace now; returns how many that were."""
        with self._changing("expire", lease_id or "all open leases") as tables:
            return tables.expire_leases(lease_id, 0)

    def balance(self, principal_id: str, user_id: str | None = None) -> int:
        """Return what authorize would see, in XUSD: the user's own grants and those of its principal."""
        with self._store.reading() as connection:
            return Registry(connection).available(principal_id, user_id)

    def ratings(self, principal_id: str | None = None) -> list[Rating]:
        """Return what was recorded, oldest first."""
        with self._store.reading() as connection:
            return Registry(connection).all_ratings(principal_id)

    def leases(self, state: LeaseState | None = None) -> list[LeaseView]:
        """Return leases, oldest first."""
        with self._store.reading() as connection:
            return [LeaseView(*row) for row in Registry(connection).all_leases(state)]

    def budgets(self) -> list[BudgetView]:
        with self._store.reading() as connection:
            return [BudgetView(*row) for row in Registry(connection).all_budgets()]

    def meters(self) -> list[MeterView]:
        """Return meters with their prices, by code."""
        with self._store.reading() as connection:
            return [
                MeterView(meter.code, meter.unit, tuple(filter(None, features)), None, 1, "nearest")
                if (price := meter.price) is None
                else MeterView(meter.code, meter.unit, tuple(features), price.xusd, price.per, price.rounding)
                for meter, features in Registry(connection).all_meters()
            ]

    def policies(self) -> list[PolicyView]:
        """Return quotas and rates, by feature."""
        with self._store.reading() as connection:
            return [PolicyView(*row) for row in Registry(connection).all_policies()]

    def accounts(self) -> list[AccountView]:
        """Return customers and their users, in the order in which they came."""
        with self._store.reading() as connection:
            return [AccountView(*row) for row in Registry(connection).all_accounts()]

    def quota_used(self, feature_code: str, principal_id: str, user_id: str | None = None) -> dict[int, int]:
        """Return what is used in the current windows of a feature's quotas, by window length in seconds."""
        with self._store.reading() as connection:
            return Registry(connection).used(_code(feature_code), principal_id, user_id, self._now_ms())

    def _policy(self, feature_code: str, kind: str, limit: int | None, window_sec: int) -> None:
        code = _code(feature_code)
        _whole("window_sec", window_sec, least=1)
        if limit is None:
            with self._changing(kind, f"lifted for {window_sec:,} s", feature=code) as tables:
                tables.drop_policy(code, kind, window_sec)
            return
        _whole("limit", limit)
        with self._changing(kind, f"{limit:,} in {window_sec:,} s", feature=code) as tables:
            tables.ensure_feature(code)
            tables.set_policy(code, kind, limit, window_sec)

    @contextmanager
    def _changing(
        self,
        verb: str,
        what: str,
        principal_id: str | None = None,
        user_id: str | None = None,
        *,
        feature: str | None = None,
    ) -> Iterator[Registry]:
        witness = Witness(self._now_ms(), verb, principal_id or "", user_id or "")
        with self._store.transaction(wait=_WAIT) as connection:
            tables = Registry(connection)
            tables.raise_revision()
            yield tables
            witness.saw(tables, "changed", feature=feature, message=what)


def _account(tables: Registry, principal_id: str, user_id: str | None) -> int:
    for name, value in (("principal_id", principal_id), ("user_id", user_id)):
        if value == "":
            raise ConfigurationError(f"{name} must not be empty")
    return tables.account(principal_id, user_id).account_id


def _said(xusd: int | None, per: int, unit: str) -> str:
    return "no price" if xusd is None else f"{xusd:,} XUSD per {per:,} {unit}"


def _code(code: str) -> str:
    canonical = code.strip().lower()
    if not creatable(canonical):
        raise ConfigurationError(
            f"code {code!r} is not possible: the gate takes only [a-z0-9]+([._-][a-z0-9]+)*, such as 'openai.gpt-4o'"
        )
    return canonical


def _whole(name: str, value: int, *, least: int = 0) -> None:
    if type(value) is not int or not least <= value <= _MOST:
        raise ConfigurationError(f"{name} must be a whole number from {least} to {_MOST}, got {value!r}")
