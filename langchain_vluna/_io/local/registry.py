"""Statements of the operator: setting up, and looking at everything."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from pydantic_core import from_json

from langchain_vluna._core.ledger.answers import canonical_json, parse_lines
from langchain_vluna._core.ledger.model import Rating, window_start
from langchain_vluna._io.local.catalogue import DEFAULT_FAMILY
from langchain_vluna._io.local.tables import Tables

__all__ = ["Registry"]


class Registry(Tables):
    # --- catalogue

    def ensure_feature(self, code: str, family: str = DEFAULT_FAMILY) -> None:
        if self.feature(code) is None:
            self.create_feature(code, family)

    def ensure_meter(self, code: str, unit: str) -> None:
        """Create a meter, or set the unit of one that a feature brought along."""
        if self._run("UPDATE meters SET unit = ? WHERE code = ?", (unit, code)).rowcount == 0:
            self.create_meter(code, unit)

    def set_price(self, meter: str, price: tuple[Any, ...], now_ms: int) -> None:
        """Set price, block, rounding, prepayment and cost as a new version, unless that is what they are."""
        query = "SELECT xusd, per, rounding, prepaid, cost_xusd, version FROM meters WHERE code = ?"
        *current, version = self._run(query, (meter,)).fetchone()
        if version > 0 and tuple(current) == price:
            return
        fingerprint = sha256(canonical_json([meter, version + 1, *price]).encode()).hexdigest()
        self._run(
            """UPDATE meters SET xusd = ?, per = ?, rounding = ?, prepaid = ?, cost_xusd = ?, version = ?,
            since_ms = ?, fingerprint = ? WHERE code = ?""",
            (*price, version + 1, now_ms, fingerprint, meter),
        )

    def never_priced(self, meter: str) -> bool:
        (version,) = self._run("SELECT version FROM meters WHERE code = ?", (meter,)).fetchone()
        return bool(version == 0)

    def set_feature(
        self,
        code: str,
        *,
        family: str | None = None,
        active: bool | None = None,
        entitlement_required: bool | None = None,
    ) -> None:
        self._run(
            """UPDATE features SET family = coalesce(?, family), active = coalesce(?, active),
            entitlement_required = coalesce(?, entitlement_required) WHERE code = ?""",
            (family, active, entitlement_required, code),
        )

    def set_family(self, code: str, *, entitlement_required: bool) -> None:
        self._run("INSERT OR REPLACE INTO families VALUES (?, ?)", (code, entitlement_required))

    def entitle(self, feature: str, account_id: int) -> None:
        self._run("INSERT OR IGNORE INTO entitlements VALUES (?, ?)", (feature, account_id))

    def set_policy(self, feature: str, kind: str, allowed: int, window_sec: int) -> None:
        self._run(
            """INSERT INTO policies (feature, kind, allowed, window_sec) VALUES (?, ?, ?, ?)
            ON CONFLICT (feature, kind, window_sec) DO UPDATE SET allowed = excluded.allowed""",
            (feature, kind, allowed, window_sec),
        )

    def drop_policy(self, feature: str, kind: str, window_sec: int) -> None:
        """Forget a policy and what was used of it, or its successor would inherit that with its number."""
        chosen = "SELECT id FROM policies WHERE feature = ? AND kind = ? AND window_sec = ?"
        self._run(f"DELETE FROM windows WHERE policy IN ({chosen})", (feature, kind, window_sec))
        self._run(f"DELETE FROM policies WHERE id IN ({chosen})", (feature, kind, window_sec))

    # --- money

    def grant(self, account_id: int, xusd: int) -> None:
        self._run("UPDATE accounts SET granted = granted + ? WHERE id = ?", (xusd, account_id))

    def withdraw(self, account_id: int) -> int:
        """Take back what is left of the grants; returns how much that was."""
        (left,) = self._run("SELECT granted - consumed FROM accounts WHERE id = ?", (account_id,)).fetchone()
        self._run("UPDATE accounts SET granted = consumed WHERE id = ?", (account_id,))
        return int(left)

    def add_budget(self, budget_id: str, account_id: int, allowed: int, name: str | None) -> None:
        self._run(
            "INSERT INTO budgets (id, account, name, allowed) VALUES (?, ?, ?, ?)",
            (budget_id, account_id, name, allowed),
        )

    def available(self, principal: str, user: str | None) -> int:
        (value,) = self._run(
            "SELECT coalesce(sum(granted - consumed), 0) FROM accounts WHERE principal = ? AND user IN ('', ?)",
            (principal, user or ""),
        ).fetchone()
        return int(value)

    def expire_leases(self, lease_id: str | None, expires_ms: int) -> int:
        """Let active leases without a commit end then, if that is sooner; returns how many."""
        return self._run(
            """UPDATE leases SET expires_ms = ?1
            WHERE state = 'active' AND commits = 0 AND expires_ms > ?1 AND (?2 IS NULL OR id = ?2)""",
            (expires_ms, lease_id),
        ).rowcount

    # --- everything there is

    def all_ratings(self, principal: str | None) -> list[Rating]:
        rows = self._run(
            """SELECT r.id, a.principal, a.user, r.feature, r.quantity, r.lines, r.amount, r.applied, r.labels, r.key,
            r.scope, r.hints, r.created_ms FROM ratings r JOIN accounts a ON a.id = r.account
            WHERE ? IS NULL OR a.principal = ? ORDER BY r.seq""",
            (principal, principal),
        )
        return [_rating(row) for row in rows]

    def all_leases(self, state: str | None) -> Iterable[tuple[Any, ...]]:
        return self._run(
            """SELECT l.id, a.principal, nullif(a.user, ''), l.feature, l.state, l.commits
            FROM leases l JOIN accounts a ON a.id = l.account WHERE ? IS NULL OR l.state = ? ORDER BY l.seq""",
            (state, state),
        )

    def all_budgets(self) -> Iterable[tuple[Any, ...]]:
        return self._run(
            """SELECT b.id, a.principal, nullif(a.user, ''), b.name, b.allowed, b.consumed
            FROM budgets b JOIN accounts a ON a.id = b.account ORDER BY b.seq"""
        )

    def all_policies(self) -> Iterable[tuple[Any, ...]]:
        return self._run("SELECT feature, kind, allowed, window_sec FROM policies ORDER BY feature, kind, window_sec")

    def all_accounts(self) -> Iterable[tuple[Any, ...]]:
        return self._run("SELECT principal, nullif(user, ''), granted, consumed FROM accounts ORDER BY id")

    def used(self, feature: str, principal: str, user: str | None, now_ms: int) -> dict[int, int]:
        rows = self._run(
            """SELECT p.window_sec, w.start_ms, w.used FROM policies p JOIN windows w ON w.policy = p.id
            JOIN accounts a ON a.id = w.account
            WHERE p.feature = ? AND p.kind = 'quota' AND a.principal = ? AND a.user = ?""",
            (feature, principal, user or ""),
        )
        return {size: used for size, start, used in rows if start == window_start(now_ms, size)}


def _rating(row: tuple[Any, ...]) -> Rating:
    commit_id, principal, user, feature, quantity, lines, amount, applied, labels, key, scope, hints, created_ms = row
    meters: dict[str, int] = {}
    for line in parse_lines(lines):
        meters[line.meter_code] = meters.get(line.meter_code, 0) + line.quantity
    return Rating(
        commit_id=commit_id,
        principal_id=principal,
        user_id=user or None,
        feature_code=feature,
        quantity=quantity,
        meters=meters,
        amount_xusd=amount,
        status="applied" if applied else "quarantined",
        labels=from_json(labels),
        idempotency_key=key,
        source="commit" if scope else "ingest",
        hints=tuple(hint["type"] for hint in from_json(hints)),
        created_ms=created_ms,
    )
