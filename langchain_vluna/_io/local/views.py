"""What there is to look at: rows of the ledger and its journal as plain values that JSON takes.

Each look opens the database for reading, however long it takes, so it belongs into a thread where an event loop runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_core import from_json

from langchain_vluna._core.ledger.answers import parse_lines
from langchain_vluna._io.local.store import Store

__all__ = ["Filter", "SpendBy", "Views"]

Row = dict[str, Any]
SpendBy = Literal["feature", "model", "customer"]

_JOURNAL: Final = """SELECT e.seq, e.at_ms, e.kind, e.verb, e.principal AS principal_id, nullif(e.user, '') AS user_id,
    e.feature AS feature_code, e.lease AS lease_id, e.status, e.code, e.message, e.key AS idempotency_key,
    e.run AS run_id, e.root AS root_run_id, e.thread AS thread_id, e.detail, r.id AS commit_id, r.quantity,
    r.amount AS amount_xusd, r.labels, r.lines, r.hints FROM journal e LEFT JOIN ratings r ON r.seq = e.rating"""
# A cancel or a replay has no labels; it belongs where its lease does.
_OF_RUN: Final = """({run} OR e.lease IN (SELECT e.lease FROM journal e WHERE {run}))"""
_OWNED_BY: Final = "(:principal_id IS NULL OR a.principal = :principal_id) AND (:user_id IS NULL OR a.user = :user_id)"
_SPENT_ON: Final[Mapping[SpendBy, str]] = {
    "feature": "r.feature",
    "model": "coalesce(json_extract(r.labels, '$.model'), json_extract(r.labels, '$.tool'), r.feature)",
    "customer": "a.principal",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Whose rows; `None` is anybody's."""

    principal_id: str | None = None
    user_id: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    """A run's own id or that of its root."""


class Views:
    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    def last(self) -> int:
        """Return the number of the newest entry of the journal, 0 when there is none."""
        with self._store.looking() as connection:
            (seq,) = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()
            return int(seq)

    def journal(
        self,
        where: Filter,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int,
        newest_first: bool = False,
    ) -> list[Row]:
        """Return entries of the journal; those of a run with what belongs to its leases."""
        conditions = ["e.seq > :after", "(:before IS NULL OR e.seq < :before)"]
        if where.principal_id is not None:
            conditions.append("e.principal = :principal_id")
        if where.user_id is not None:
            conditions.append("e.user = :user_id")
        if where.thread_id is not None:
            conditions.append(_OF_RUN.format(run="e.thread = :thread_id"))
        if where.run_id is not None:
            conditions.append(_OF_RUN.format(run="(e.run = :run_id OR e.root = :run_id OR e.lease = :run_id)"))
        order = "DESC" if newest_first else "ASC"
        query = f"{_JOURNAL} WHERE {' AND '.join(conditions)} ORDER BY e.seq {order} LIMIT :limit"
        with self._store.looking() as connection:
            return [_entry(row) for row in _rows(connection, query, where, after=after, before=before, limit=limit)]

    def leases(self, where: Filter, *, open_only: bool, limit: int) -> list[Row]:
        """Return leases, newest first."""
        conditions = [_OWNED_BY]
        if open_only:
            conditions.append("l.state = 'active' AND l.commits = 0")
        for name, value in (("thread_id", where.thread_id), ("run_id", where.run_id)):
            if value is not None:
                run = "e.thread = :thread_id" if name == "thread_id" else "(e.run = :run_id OR e.root = :run_id)"
                conditions.append(f"l.id IN (SELECT e.lease FROM journal e WHERE {run})")
        query = f"""SELECT l.id AS lease_id, a.principal AS principal_id, nullif(a.user, '') AS user_id,
            l.feature AS feature_code, l.state, l.commits, l.created_ms, l.expires_ms
            FROM leases l JOIN accounts a ON a.id = l.account WHERE {" AND ".join(conditions)}
            ORDER BY l.seq DESC LIMIT :limit"""
        with self._store.looking() as connection:
            return _rows(connection, query, where, limit=limit)

    def customers(self, where: Filter, *, limit: int) -> list[Row]:
        """Return wallets with what was granted, charged and is left, the biggest spenders first."""
        query = f"""WITH held AS (SELECT account, count(*) AS n FROM leases WHERE state = 'active' AND commits = 0
            GROUP BY account)
            SELECT a.principal AS principal_id, nullif(a.user, '') AS user_id, a.granted AS granted_xusd,
            a.consumed + a.cash AS spent_xusd, a.granted - a.consumed AS balance_xusd, a.cash AS uncovered_xusd,
            coalesce(h.n, 0) AS open_leases FROM accounts a LEFT JOIN held h ON h.account = a.id
            WHERE {_OWNED_BY} ORDER BY spent_xusd DESC, a.id LIMIT :limit"""
        with self._store.looking() as connection:
            return _rows(connection, query, where, limit=limit)

    def spend(self, by: SpendBy, where: Filter, *, since_ms: int, step_ms: int) -> list[Row]:
        """Return what was charged, by bucket of time and by what it was for."""
        conditions = ["r.applied", "r.created_ms >= :since", _OWNED_BY]
        if where.thread_id is not None:
            conditions.append("json_extract(r.labels, '$.thread_id') = :thread_id")
        if where.run_id is not None:
            conditions.append(
                ":run_id IN (json_extract(r.labels, '$.run_id'), json_extract(r.labels, '$.root_run_id'), r.scope)"
            )
        query = f"""SELECT (r.created_ms - :since) / :step AS bucket, {_SPENT_ON[by]} AS name, count(*) AS runs,
            total(r.amount) AS xusd, total(r.quantity) AS quantity FROM ratings r JOIN accounts a ON a.id = r.account
            WHERE {" AND ".join(conditions)} GROUP BY bucket, name"""
        with self._store.looking() as connection:
            return _rows(connection, query, where, since=since_ms, step=step_ms)

    def meters(self) -> list[Row]:
        """Return meters with their prices and the features that list them."""
        query = """SELECT m.code AS meter_code, m.unit, m.xusd, m.per, m.rounding,
            (SELECT json_group_array(f.feature) FROM feature_meters f WHERE f.meter = m.code) AS features
            FROM meters m ORDER BY m.code"""
        with self._store.looking() as connection:
            return [row | {"features": from_json(row["features"])} for row in _rows(connection, query, Filter())]

    def policies(self) -> list[Row]:
        """Return quotas and rates, with the most that any account has used of them in the current window."""
        query = """SELECT p.feature AS feature_code, p.kind, p.allowed AS "limit", p.window_sec,
            coalesce((SELECT max(w.used) FROM windows w WHERE w.policy = p.id
                AND w.start_ms = :now - :now % (p.window_sec * 1000)), 0) AS used
            FROM policies p ORDER BY p.feature, p.kind, p.window_sec"""
        with self._store.looking() as connection:
            return _rows(connection, query, Filter(), now=self._now_ms())

    def totals(self) -> Row:
        """Return what all ratings come to, and how many of each kind there are."""
        query = """SELECT count(*) AS ratings, coalesce(sum(applied), 0) AS applied,
            total(CASE WHEN applied THEN amount ELSE 0 END) AS spent_xusd,
            (SELECT count(*) FROM leases WHERE state = 'active' AND commits = 0) AS open_leases,
            (SELECT count(*) FROM accounts) AS customers, (SELECT max(seq) FROM journal) AS seq FROM ratings"""
        with self._store.looking() as connection:
            return _rows(connection, query, Filter())[0]


def _rows(connection: sqlite3.Connection, query: str, where: Filter, **values: Any) -> list[Row]:
    named = {
        "principal_id": where.principal_id,
        "user_id": where.user_id,
        "thread_id": where.thread_id,
        "run_id": where.run_id,
    }
    cursor = connection.execute(query, named | values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _entry(row: Row) -> Row:
    """Put together what the journal itself says and what the rating says that it tells of."""
    detail = from_json(row.pop("detail"))
    labels, lines, hints = row.pop("labels"), row.pop("lines"), row.pop("hints")
    return row | {
        "estimate": detail.get("estimate"),
        "labels": from_json(labels) if labels else detail.get("labels", {}),
        "hints": from_json(hints) if hints else detail.get("hints", []),
        "meters": [
            {"meter_code": line.meter_code, "quantity": line.quantity, "amount_xusd": line.amount_xusd}
            for line in (parse_lines(lines) if lines else ())
        ],
    }
