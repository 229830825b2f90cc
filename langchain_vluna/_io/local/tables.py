"""Tables of what happened: leases, ratings, and the answers that no row can give again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic_core import from_json

from langchain_vluna._core.ledger.answers import canonical_json, parse_lines, stored_lines
from langchain_vluna._core.ledger.model import HeldLease, Line
from langchain_vluna._io.local.catalogue import Account, Catalogue

__all__ = ["NewLease", "StoredAnswer", "StoredLease", "StoredRating", "Tables"]

_KEPT: Final = 100_000
"""Entries of the journal."""
_SWEEP: Final = 1000

_LEASE = """SELECT id, coalesce(chosen, 'lease.' || id || '.' || tail), feature, family, state, created_ms, expires_ms,
    start_ms, window_sec, budget"""


@dataclass(frozen=True, slots=True)
class StoredLease:
    lease: HeldLease
    body: str
    hints: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class NewLease:
    lease: HeldLease
    tail: str = field(repr=False)
    chosen: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredRating:
    commit_id: str
    scope: str
    """The lease of a commit; empty for ingest."""
    body: str | None
    """`None` where it came in a batch."""
    feature_code: str
    quantity: int
    amount_xusd: int
    cost_xusd: int
    applied: bool
    labels: Mapping[str, str]
    lines: tuple[Line, ...]
    hints: Sequence[Mapping[str, Any]]
    budget_id: str | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    body: str
    data: dict[str, Any]


class Tables(Catalogue):
    """The whole ledger inside one transaction."""

    def mark(self) -> None:
        self._run("SAVEPOINT mark")

    def undo_to_mark(self) -> None:
        self._run("ROLLBACK TO mark")

    @contextmanager
    def undone_when_refused(self) -> Iterator[None]:
        """Take back what the block wrote when it raises; the transaction goes on."""
        self._run("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self._run("ROLLBACK TO step")
            raise
        finally:
            self._run("RELEASE step")

    def lease(self, lease_id: str, account: Account) -> HeldLease | None:
        rows = self._run(f"{_LEASE} FROM leases WHERE id = ? AND account = ?", (lease_id.lower(), account.account_id))
        return next((HeldLease(*values) for values in rows), None)

    def chosen_lease(self, handle: str, account: Account) -> HeldLease | None:
        rows = self._run(f"{_LEASE} FROM leases WHERE chosen = ? AND account = ?", (handle, account.account_id))
        return next((HeldLease(*values) for values in rows), None)

    def lease_by_key(self, key: str, account: Account, *, any_account: bool) -> StoredLease | None:
        rows = self._run(
            f"{_LEASE}, body, hints FROM leases WHERE key = ? AND (? OR account = ?)",
            (key, any_account, account.account_id),
        )
        return next((StoredLease(HeldLease(*v[:-2]), v[-2], from_json(v[-1])) for v in rows), None)

    def add_lease(
        self, new: NewLease, account: Account, *, key: str, body: str, hints: Sequence[Mapping[str, Any]]
    ) -> None:
        lease = new.lease
        self._run(
            """INSERT INTO leases (id, tail, chosen, account, feature, family, state, key, body, created_ms,
            expires_ms, start_ms, window_sec, budget, hints) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                *(lease.lease_id, new.tail, new.chosen, account.account_id, lease.feature_code, lease.family),
                *(lease.state, key, body, lease.created_ms, lease.expires_ms, lease.window_start_ms),
                *(lease.window_sec, lease.budget_id, canonical_json(hints)),
            ),
        )

    def cancel_lease(self, lease_id: str) -> None:
        self._run("UPDATE leases SET state = 'canceled' WHERE id = ?", (lease_id,))

    def count_commit(self, lease_id: str, *, close: bool) -> None:
        state = ", state = 'closed'" if close else ""
        self._run(f"UPDATE leases SET commits = commits + 1{state} WHERE id = ?", (lease_id,))

    def ratings_by_key(
        self, key: str, account: Account, *, ingested: bool, any_account: bool = False
    ) -> list[StoredRating]:
        """Return what a key stands for; one key may stand for usage under several leases."""
        rows = self._run(
            """SELECT id, scope, body, feature, quantity, amount, cost, applied, labels, lines, hints, budget,
            created_ms FROM ratings WHERE key = ? AND (scope = '') = ? AND (? OR account = ?) ORDER BY seq""",
            (key, ingested, any_account, account.account_id),
        )
        return [_stored_rating(*row) for row in rows]

    def add_rating(self, rating: StoredRating, account: Account, key: str) -> int:
        """Return its row."""
        added = self._run(
            """INSERT INTO ratings (id, account, scope, key, body, feature, quantity, amount, cost, applied, labels,
            lines, hints, budget, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                *(rating.commit_id, account.account_id, rating.scope, key, rating.body, rating.feature_code),
                *(rating.quantity, rating.amount_xusd, rating.cost_xusd, rating.applied),
                *(canonical_json(rating.labels), stored_lines(rating.lines), canonical_json(rating.hints)),
                *(rating.budget_id, rating.created_ms),
            ),
        )
        return added.lastrowid or 0

    def add_entry(self, columns: tuple[Any, ...]) -> None:
        """Add to the journal, in the order of its columns; the oldest entries make room now and then."""
        added = self._run(
            "INSERT INTO journal VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", columns
        ).lastrowid
        if added is not None and added % _SWEEP == 0:
            self._run("DELETE FROM journal WHERE seq <= ?", (added - _KEPT,))

    def answer(self, verb: str, key: str, account: Account, *, since_ms: int, any_account: bool) -> StoredAnswer | None:
        row = self._run(
            """SELECT body, data FROM answers
            WHERE verb = ? AND key = ? AND (? OR account = ?) AND created_ms > ?""",
            (verb, key, any_account, account.account_id, since_ms),
        ).fetchone()
        return None if row is None else StoredAnswer(row[0], from_json(row[1]))

    def keep_answer(
        self, verb: str, key: str, account: Account, *, body: str, data: object, now_ms: int, since_ms: int
    ) -> None:
        self._run("DELETE FROM answers WHERE created_ms <= ?", (since_ms,))
        self._run(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            (verb, key, account.account_id, body, canonical_json(data), now_ms),
        )


def _stored_rating(*row: Any) -> StoredRating:
    raw = StoredRating(*row)
    return replace(
        raw,
        applied=bool(row[7]),
        labels=from_json(row[8]),
        lines=parse_lines(row[9]),
        hints=from_json(row[10]),
    )
