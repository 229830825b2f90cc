"""Rows whose process is gone, or has lost sight of them, and memories past their time."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from functools import partial
from pathlib import Path

from langchain_vluna._core.run import Event, State
from langchain_vluna._io.outbox import rows
from langchain_vluna._io.outbox.failure import OutboxError
from langchain_vluna._io.outbox.owner import is_alive, remove_marker, sweep_markers
from langchain_vluna._io.outbox.store import Outbox

__all__ = ["forget_old", "running", "settle_strays", "take_over"]

_RUNNING_SQL = f"state IN ('{State.ASKING}', '{State.OPEN}', '{State.UNGATED}')"
_KEPT_SQL = f"state IN ('{State.CANCELED}', '{State.DEAD}')"

_KEEP_CANCELED = 24 * 3600.0
_MOST_CANCELED = 5_000
_KEEP_STEPS = 7 * 24 * 3600.0


def take_over(outbox: Outbox) -> int:
    """Adopt the rows of processes that are gone; returns how many need settling. Whoever is first gets them.

    Work that never ended is settled by what its row says: charged where it
    holds an estimate for this case, else cancelled.
    """
    if outbox.path == ":memory:" or not (outbox.is_open or Path(outbox.path).exists()):
        return 0
    me, now = outbox.owner_id, outbox.clock()
    owners = outbox.query(lambda db: db.execute("SELECT DISTINCT owner FROM run WHERE owner <> ?", (me,)).fetchall())
    taken = 0
    try:
        for (owner,) in owners:
            if not is_alive(outbox.path, owner):
                taken += outbox.transact(partial(_adopt, dead=owner, me=me, now=now))
                remove_marker(outbox.path, owner)
        sweep_markers(outbox.path, me, now)
    except (sqlite3.Error, OSError) as error:
        raise OutboxError.of(outbox.path, error) from error
    return taken


def running(outbox: Outbox) -> list[str]:
    """Return the attempts of this process that have not ended."""
    query = f"SELECT attempt FROM run WHERE owner = ? AND {_RUNNING_SQL}"
    return [attempt for (attempt,) in outbox.query(lambda db: db.execute(query, (outbox.owner_id,)).fetchall())]


def settle_strays(outbox: Outbox, attempts: Collection[str]) -> None:
    """Settle runs that have begun and that nobody in this process can end any more."""
    now = outbox.clock()

    def settle(db: sqlite3.Connection) -> None:
        for attempt in attempts:
            row = rows.read(db, attempt)
            if row is not None and row.state in {State.ASKING, State.OPEN, State.UNGATED}:
                _give_up(db, row, now, "its run is unknown to its process")

    outbox.transact(settle)


def forget_old(outbox: Outbox) -> None:
    """Delete tombstones of cancelled runs after a day, or when they are too many, and settled steps after seven."""
    now = outbox.clock()
    outbox.transact(
        lambda db: rows.forget(
            db, canceled_before=now - _KEEP_CANCELED, most_canceled=_MOST_CANCELED, steps_before=now - _KEEP_STEPS
        )
    )


def _adopt(db: sqlite3.Connection, dead: str, me: str, now: float) -> int:
    unfinished = rows.select(db, f"owner = ? AND {_RUNNING_SQL}", (dead,))
    db.execute(f"UPDATE run SET owner = ? WHERE owner = ? AND {_KEPT_SQL}", (me, dead))
    taken = db.execute("UPDATE run SET owner = ?, taken_over = 1, due = ? WHERE owner = ?", (me, now, dead)).rowcount
    for row in unfinished:
        _give_up(db, row, now, "its process ended before the run did")
    return taken


def _give_up(db: sqlite3.Connection, row: rows.Row, now: float, reason: str) -> None:
    why = {"reason": reason, "due": now}
    if row.state is State.ASKING:
        rows.advance(db, row.attempt, Event.ABANDONED, why)
    elif row.usage is None:
        rows.advance(db, row.attempt, Event.FAILED, why)
    else:
        # What the row says is charged in this case, as `on_orphan` chose when it began.
        rows.use(db, row.attempt, row.step, why, now=now)
