"""The outbox for people: what is in it, why it waits, and what may be done about it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.run import Event, State
from langchain_vluna._io.outbox import rows
from langchain_vluna._io.outbox.rows import Row
from langchain_vluna._io.outbox.store import Outbox

__all__ = ["Desk", "as_dict"]

_PAGE = 500
_EVENTS = {"recommit": Event.RECOMMIT, "reingest": Event.REINGEST}


class Desk:
    """Reads an outbox beside the processes that use it; changes dead rows only."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def counts(self) -> Mapping[State, int]:
        """Count rows by state."""
        found = self._outbox.query(lambda db: db.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall())
        return Counter({State(state): count for state, count in found})

    def rows(self, *, states: tuple[State, ...] = (), principal_id: str | None = None) -> Iterator[Row]:
        """Yield rows in the order of their ids, page by page, so that any number fits."""
        conditions, values = ["attempt > ?"], list[Any]()
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if principal_id is not None:
            conditions.append("principal_id = ?")
            values.append(principal_id)
        where, after = " AND ".join(conditions), ""
        while True:
            page = self._outbox.query(
                lambda db, after=after: rows.select(  # type: ignore[misc]
                    db, f"{where} ORDER BY attempt LIMIT {_PAGE}", (after, *values)
                )
            )
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].attempt

    def find(self, beginning: str) -> Row:
        """Return the row whose attempt or run id begins like this.

        Raises:
            ConfigurationError: None does, or several do.
        """
        pattern = beginning.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        found = self._outbox.query(
            lambda db: rows.select(
                db, "attempt LIKE ? ESCAPE '\\' OR run_id LIKE ? ESCAPE '\\' LIMIT 2", (pattern, pattern)
            )
        )
        if len(found) != 1:
            count = "several rows begin" if found else "no row begins"
            msg = f"{count} with {beginning!r}; give more of an id that is listed"
            raise ConfigurationError(msg)
        return found[0]

    def retry(self, attempt: str, how: Literal["recommit", "reingest"]) -> Row:
        """Let the relay of this process try a dead row again; returns the row as it is then.

        `recommit` sends the same commit under the same key, which can charge nothing twice. `reingest` charges the
        usage without its lease: only for somebody who knows that nothing was charged on it.

        Raises:
            ConfigurationError: The row is not dead, or has no lease to commit on.
        """
        now, me = self._outbox.clock(), self._outbox.owner_id

        def again(db: sqlite3.Connection) -> Row:
            row = rows.read(db, attempt)
            if row is None or row.state is not State.DEAD:
                msg = f"row {attempt!r} is {row.state if row else 'gone'}; only dead rows are tried again by hand"
                raise ConfigurationError(msg)
            if how == "recommit" and row.handle is None:
                msg = f"row {attempt!r} has no lease to commit on; reingest charges it without one"
                raise ConfigurationError(msg)
            rows.advance(db, attempt, _EVENTS[how], {"owner": me, "due": now, "tries": 1})
            return rows.read(db, attempt) or row

        return self._outbox.transact(again)

    def export(self) -> Iterator[str]:
        """Yield all rows as lines of JSON, without the secrets of their leases."""
        for row in self.rows():
            yield json.dumps(as_dict(row))


def as_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain data, without the secret of its lease."""
    return {
        "attempt": row.attempt,
        "state": str(row.state),
        "principal_id": row.identity.principal_id,
        "user_id": row.identity.user_id,
        "feature_code": row.feature_code,
        "run_id": row.run_id,
        "root_id": row.root_id,
        "step": row.step,
        "leased": row.handle is not None,
        "usage": row.usage,
        "usage_source": row.source,
        "created": row.created,
        "due": row.due,
        "tries": row.tries,
        "taken_over": row.taken_over,
        "reason": row.reason,
        "owner": row.owner,
    }
