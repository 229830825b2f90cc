"""Tables of what is set up and counted: accounts, features, meters, policies, budgets, remainders.

One small indexed statement each, values in and out, always inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from langchain_vluna._core.ledger.model import Budget, Feature, Meter, Price, Quota, Rate, window_start
from langchain_vluna._io.local.memory import Memory

__all__ = ["DEFAULT_FAMILY", "Account", "Catalogue"]

DEFAULT_FAMILY: Final = "auto.registry"
"""Family of a feature that is registered without one."""

_METER = """m.code, m.unit, m.xusd, m.per, m.rounding, m.prepaid, m.cost_xusd, m.version, m.since_ms,
    m.fingerprint"""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose money, counters and keys a request uses."""

    account_id: int
    own: int
    """What is left of its grants, in XUSD."""
    shared_id: int | None = None
    """The principal's own account, where the request has a user."""
    shared: int = 0

    @property
    def available(self) -> int:
        return self.own + self.shared


class Catalogue:
    def __init__(self, connection: sqlite3.Connection, memory: Memory | None = None) -> None:
        self._run = connection.execute
        self._memory = Memory() if memory is None else memory
        if memory is not None:
            memory.begin(self.revision())

    # --- revision

    def revision(self) -> int:
        (value,) = self._run("SELECT value FROM revision").fetchone()
        return int(value)

    def raise_revision(self) -> None:
        self._run("UPDATE revision SET value = value + 1")
        self._memory.forget()

    # --- accounts

    def account(self, principal_id: str, user_id: str | None) -> Account:
        """Return the account of an identity; it exists from then on."""
        if user_id is None:
            return Account(*self._wallet(principal_id, ""))
        own_id, own = self._wallet(principal_id, user_id)
        shared = self._run(
            "SELECT id, granted - consumed FROM accounts WHERE principal = ? AND user = ''", (principal_id,)
        ).fetchone()
        return Account(own_id, own, *(shared or (None, 0)))

    def uncovered(self, account: Account) -> int:
        """Return what was charged beyond the grants."""
        (cash,) = self._run("SELECT cash FROM accounts WHERE id = ?", (account.account_id,)).fetchone()
        return int(cash)

    def as_it_is(self, account: Account) -> Account:
        """Return the account with what is left by now."""
        left = dict(
            self._run(
                "SELECT id, granted - consumed FROM accounts WHERE id IN (?, ?)",
                (account.account_id, account.shared_id),
            ).fetchall()
        )
        return Account(
            account.account_id, left[account.account_id], account.shared_id, left.get(account.shared_id or 0, 0)
        )

    def known_account(self, principal_id: str, user_id: str | None) -> bool:
        query = "SELECT 1 FROM accounts WHERE principal = ? AND user = ?"
        return self._run(query, (principal_id, user_id or "")).fetchone() is not None

    def _wallet(self, principal: str, user: str) -> tuple[int, int]:
        query = "SELECT id, granted - consumed FROM accounts WHERE principal = ? AND user = ?"
        row: tuple[int, int] | None = self._run(query, (principal, user)).fetchone()
        if row is not None:
            return row
        created = self._run("INSERT INTO accounts (principal, user) VALUES (?, ?)", (principal, user)).lastrowid
        return created or 0, 0

    def spend(self, account: Account, amount: int) -> None:
        """Charge the grants of the account, then those of its principal; the rest is cash."""
        own = min(amount, account.own)
        shared = min(amount - own, account.shared)
        if shared:
            self._run("UPDATE accounts SET consumed = consumed + ? WHERE id = ?", (shared, account.shared_id))
        if amount - shared:
            self._run(
                "UPDATE accounts SET consumed = consumed + ?, cash = cash + ? WHERE id = ?",
                (own, amount - own - shared, account.account_id),
            )

    # --- catalogue

    def feature(self, code: str) -> Feature | None:
        return self._memory.read(self._feature_now, code)

    def _feature_now(self, code: str) -> Feature | None:
        row = self._run(
            """SELECT f.family, f.active, coalesce(f.entitlement_required, g.entitlement_required, 0)
            FROM features f LEFT JOIN families g ON g.code = f.family WHERE f.code = ?""",
            (code,),
        ).fetchone()
        return None if row is None else Feature(code, row[0], bool(row[1]), bool(row[2]))

    def features(self, code: str | None = None) -> list[Feature]:
        rows = self._run("SELECT code FROM features WHERE ? IS NULL OR code = ? ORDER BY code", (code, code)).fetchall()
        return [feature for (found,) in rows if (feature := self.feature(found)) is not None]

    def all_meters(self) -> list[tuple[Meter, list[str]]]:
        """Return every meter with the features that list it."""
        rows = self._run(
            f"""SELECT {_METER}, group_concat(a.feature) FROM meters m
            LEFT JOIN feature_meters a ON a.meter = m.code GROUP BY m.code ORDER BY m.code"""
        )
        return [(_meter(row[:-1], attached=True), sorted((row[-1] or "").split(","))) for row in rows]

    def entitled(self, feature: str, account: Account) -> bool:
        return (
            self._run(
                "SELECT 1 FROM entitlements WHERE feature = ? AND account IN (?, ?)",
                (feature, account.account_id, account.shared_id),
            ).fetchone()
            is not None
        )

    def create_feature(self, code: str, family: str) -> None:
        """Register a feature with its primary meter, which has its code."""
        self.raise_revision()
        self._run("INSERT INTO features VALUES (?, ?, 1, NULL)", (code, family))
        if not self.meters(code, [code]):
            self.create_meter(code, "unit")
        self.attach_meter(code, code)

    def create_meter(self, code: str, unit: str) -> None:
        self.raise_revision()
        self._run("INSERT INTO meters VALUES (?, ?, NULL, 1, 'nearest', 0, 0, 0, 0, '')", (code, unit))

    def attach_meter(self, feature: str, meter: str) -> None:
        self.raise_revision()
        self._run(
            """INSERT OR IGNORE INTO feature_meters
            SELECT ?, ?, coalesce(max(position), 0) + 1 FROM feature_meters WHERE feature = ?""",
            (feature, meter, feature),
        )

    def meters_of(self, feature: str) -> list[Meter]:
        """Return the meters that a feature lists, its primary one first."""
        return self._memory.read(self._meters_now, feature)

    def _meters_now(self, feature: str) -> list[Meter]:
        rows = self._run(
            f"""SELECT {_METER} FROM feature_meters a JOIN meters m ON m.code = a.meter
            WHERE a.feature = ? ORDER BY a.position""",
            (feature,),
        )
        return [_meter(row, attached=True) for row in rows]

    def meters(self, feature: str, codes: Collection[str]) -> dict[str, Meter]:
        """Return those of the meters that exist, and whether the feature lists them."""
        found = {meter.code: meter for meter in self.meters_of(feature) if meter.code in codes}
        for code in codes:
            if code not in found:
                row = self._run(f"SELECT {_METER} FROM meters m WHERE m.code = ?", (code,)).fetchone()
                if row is not None:
                    found[code] = _meter(row, attached=False)
        return found

    # --- counters

    def policies(self, feature: str, account: Account, at_ms: int) -> tuple[list[Quota], list[Rate]]:
        """Return quotas and rates, each with what is used in its window at that time, first set first."""
        if not self._memory.read(self._limited_now, feature):
            return [], []
        rows = self._run(
            """SELECT p.kind, p.id, p.allowed, p.window_sec, coalesce(w.used, 0) FROM policies p
            LEFT JOIN windows w ON w.policy = p.id AND w.account = ?
                AND w.start_ms = ? - ? % (p.window_sec * 1000)
            WHERE p.feature = ? ORDER BY p.id""",
            (account.account_id, at_ms, at_ms, feature),
        ).fetchall()
        quotas = [Quota(*row[1:]) for row in rows if row[0] == "quota"]
        return quotas, [Rate(*row[1:]) for row in rows if row[0] == "rate"]

    def _limited_now(self, feature: str) -> bool:
        return self._run("SELECT 1 FROM policies WHERE feature = ?", (feature,)).fetchone() is not None

    def count(self, policy: Quota | Rate, account: Account, at_ms: int, used: int) -> None:
        """Set what is used of a policy in the window of that time."""
        self._run(
            """INSERT INTO windows VALUES (?, ?, ?, ?)
            ON CONFLICT (policy, account, start_ms) DO UPDATE SET used = excluded.used""",
            (policy.policy_id, account.account_id, window_start(at_ms, policy.window_sec), used),
        )

    def budget(self, reference: str, account: Account) -> Budget | None:
        """Return a budget of the account or its principal, by its id or its name."""
        row = self._run(
            """SELECT id, allowed, consumed FROM budgets
            WHERE account IN (?, ?) AND (id = ? OR name = ?) ORDER BY id = ? DESC""",
            (account.account_id, account.shared_id, reference.lower(), reference, reference.lower()),
        ).fetchone()
        return None if row is None else Budget(*row)

    def consume_budget(self, budget: Budget, amount: int) -> None:
        self._run("UPDATE budgets SET consumed = consumed + ? WHERE id = ?", (amount, budget.budget_id))

    def remainders(self, account: Account, meters: Iterable[Meter]) -> dict[str, int]:
        """Return waiting units by meter code; a price per single unit never leaves any."""
        found = {}
        for meter in meters:
            if meter.price is None or meter.price.per == 1:
                continue
            row = self._run(
                "SELECT waiting FROM remainders WHERE account = ? AND meter = ? AND version = ?",
                (account.account_id, meter.code, meter.price.version),
            ).fetchone()
            if row is not None:
                found[meter.code] = row[0]
        return found

    def keep_remainders(self, account: Account, meters: Mapping[str, Meter], waiting: Mapping[str, int]) -> None:
        for code, units in waiting.items():
            price = meters[code].price
            if price is not None:
                self._run(
                    """INSERT INTO remainders VALUES (?, ?, ?, ?)
                    ON CONFLICT (account, meter, version) DO UPDATE SET waiting = excluded.waiting""",
                    (account.account_id, code, price.version, units),
                )


def _meter(row: tuple[Any, ...], *, attached: bool) -> Meter:
    code, unit, xusd, per, rounding, prepaid, cost, version, since, fingerprint = row
    price = None if xusd is None else Price(xusd, per, rounding, bool(prepaid), cost, version, since, fingerprint)
    return Meter(code, unit, price, attached)
