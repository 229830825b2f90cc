"""What a row of the outbox holds, and the statements that read and write it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from langchain_vluna._core.run import Event, State, step
from langchain_vluna._core.types import Call, Identity
from langchain_vluna._io.outbox.schema import UNSETTLED_SQL

__all__ = [
    "Row",
    "Transition",
    "advance",
    "begin",
    "count_unsettled",
    "due_rows",
    "forget",
    "next_due",
    "postpone",
    "put",
    "read",
    "select",
    "use",
]

_COLUMNS = (
    "attempt, state, owner, principal_id, user_id, run_id, root_id, step,"
    " ask, handle, usage, source, created, due, tries, taken_over, reason"
)


@dataclass(slots=True)
class Row:
    """One run as the outbox knows it. Bodies are neutral (`Call.body`), without handle."""

    attempt: str
    """Made at the start of the run; every idempotency key derives from it."""
    identity: Identity
    run_id: str
    root_id: str
    ask: Mapping[str, Any]
    """Body of authorize."""
    state: State = State.ASKING
    owner: str = ""
    step: str | None = None
    """Key of the logical step, where a step is charged once over several attempts."""
    handle: str | None = field(default=None, repr=False)
    usage: Mapping[str, Any] | None = None
    """Body of commit or ingest. In an open run: what to charge should it never end."""
    source: str | None = None
    created: float = 0.0
    due: float = 0.0
    """Unix time before which the relay leaves the row alone."""
    tries: int = 0
    taken_over: bool = False
    reason: str | None = None

    @property
    def feature_code(self) -> str:
        """The feature the run was authorized for."""
        return str(self.ask["feature_code"])

    def key(self, verb: str) -> str:
        """Idempotency key of one operation on this run; the same on every try."""
        return f"{self.attempt}-{verb}"

    @property
    def question(self) -> Call:
        """The authorize call of this run; asked again, it is answered with the same lease."""
        return Call("authorize", self.identity, self.ask, self.key("a"))


@dataclass(frozen=True, slots=True)
class Transition:
    """What a compare-and-set did: `target` is `None` where the event changed nothing."""

    row: Row | None
    """The row before the event; `None` where there was none."""
    target: State | None


def begin(db: sqlite3.Connection, row: Row) -> None:
    """Write the intent: before it, nothing of the run has reached the gate."""
    put(db, row, "INSERT")


def put(db: sqlite3.Connection, row: Row, verb: str = "INSERT OR REPLACE") -> None:
    """Write a row as it is, whatever was there; for an outbox that nobody else uses."""
    db.execute(
        f"{verb} INTO run ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            row.attempt,
            row.state,
            row.owner,
            row.identity.principal_id,
            row.identity.user_id,
            row.run_id,
            row.root_id,
            row.step,
            _dump(row.ask),
            row.handle,
            _dump(row.usage),
            row.source,
            row.created,
            row.due,
            row.tries,
            row.taken_over,
            row.reason,
        ),
    )


def read(db: sqlite3.Connection, attempt: str) -> Row | None:
    """Return the row of one attempt."""
    found = db.execute(f"SELECT {_COLUMNS} FROM run WHERE attempt = ?", (attempt,)).fetchone()
    return None if found is None else _row(found)


def select(db: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> list[Row]:
    """Return the rows that a condition of this package selects."""
    return [_row(found) for found in db.execute(f"SELECT {_COLUMNS} FROM run WHERE {where}", values)]


def advance(
    db: sqlite3.Connection,
    attempt: str,
    event: Event,
    changes: Mapping[str, Any],
    expected: State | None = None,
) -> Transition:
    """Take one step of the run machine by compare-and-set.

    A concurrent change between reading and writing makes it read again, so
    exactly one caller sees the transition and every other a duplicate. With
    `expected` the first try reads nothing, and a success returns no row.
    """
    if expected is not None:
        target = step(expected, event)
        if target is not None and _compare_and_set(db, attempt, expected, target, changes):
            return Transition(None, target)
    while True:
        row = read(db, attempt)
        if row is None:
            return Transition(None, None)
        target = step(row.state, event)
        if target is None:
            return Transition(row, None)
        if _compare_and_set(db, attempt, row.state, target, changes):
            return Transition(row, target)


def use(
    db: sqlite3.Connection,
    attempt: str,
    step_key: str | None,
    changes: Mapping[str, Any],
    *,
    now: float,
    expected: State | None = None,
) -> Transition:
    """Record usage; of a logical step that was settled before, the run is cancelled instead.

    With a step key the caller holds a write transaction, so that the memory of
    steps and the state of the run change together.
    """
    if step_key is None:
        return advance(db, attempt, Event.USED, changes, expected)
    if db.execute("INSERT OR IGNORE INTO step (key, settled) VALUES (?, ?)", (step_key, now)).rowcount == 1:
        return advance(db, attempt, Event.USED, changes, expected)
    return advance(db, attempt, Event.FAILED, {"reason": "its step was settled before"}, expected)


def _compare_and_set(
    db: sqlite3.Connection, attempt: str, state: State, target: State, changes: Mapping[str, Any]
) -> bool:
    if target is State.DONE:
        return db.execute("DELETE FROM run WHERE attempt = ? AND state = ?", (attempt, state)).rowcount == 1
    values = {**changes, "state": target}
    if target is State.CANCELED:
        values["handle"] = None
    if "usage" in values:
        values["usage"] = _dump(values["usage"])
    names = " = ?, ".join(values)
    moved = db.execute(
        f"UPDATE run SET {names} = ? WHERE attempt = ? AND state = ?", (*values.values(), attempt, state)
    )
    return moved.rowcount == 1


def due_rows(db: sqlite3.Connection, *, owner: str, now: float, limit: int) -> list[Row]:
    """Return rows of `owner` that the gate owes an answer and that may be tried now, oldest first."""
    return select(
        db,
        f"{UNSETTLED_SQL} AND owner = ? AND due <= ? ORDER BY due LIMIT ?",
        (owner, now, limit),
    )


def count_unsettled(db: sqlite3.Connection, owner: str | None = None) -> int:
    """Count the rows that the gate owes an answer."""
    mine, values = ("", ()) if owner is None else (" AND owner = ?", (owner,))
    found = db.execute(f"SELECT count(*) FROM run WHERE {UNSETTLED_SQL}{mine}", values).fetchone()
    return int(found[0])


def next_due(db: sqlite3.Connection, *, owner: str, now: float) -> float | None:
    """Return when the next row of `owner` that is not due yet becomes due."""
    query = f"SELECT min(due) FROM run WHERE {UNSETTLED_SQL} AND owner = ? AND due > ?"
    found: float | None = db.execute(query, (owner, now)).fetchone()[0]
    return found


def postpone(db: sqlite3.Connection, attempts: Iterable[str], due: float, reason: str) -> None:
    """Note a failed try: the rows wait until `due`."""
    db.executemany(
        "UPDATE run SET due = ?, tries = tries + 1, reason = ? WHERE attempt = ?",
        [(due, reason, attempt) for attempt in attempts],
    )


def forget(db: sqlite3.Connection, *, canceled_before: float, most_canceled: int, steps_before: float) -> int:
    """Delete memories past their time, and the oldest of too many; returns how many."""
    oldest = db.execute(
        f"SELECT due FROM run WHERE state = '{State.CANCELED}' ORDER BY due DESC LIMIT 1 OFFSET ?", (most_canceled,)
    ).fetchone()
    before = max(canceled_before, oldest[0]) if oldest else canceled_before
    gone = db.execute(f"DELETE FROM run WHERE state = '{State.CANCELED}' AND due <= ?", (before,)).rowcount
    return gone + db.execute("DELETE FROM step WHERE settled < ?", (steps_before,)).rowcount


def _dump(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else to_json(value).decode()


def _row(found: Sequence[Any]) -> Row:
    (attempt, state, owner, principal, user, run_id, root_id, step_key,
     ask, handle, usage, source, created, due, tries, taken_over, reason) = found  # fmt: skip
    return Row(
        attempt=attempt,
        state=State(state),
        owner=owner,
        identity=Identity(principal, user),
        run_id=run_id,
        root_id=root_id,
        step=step_key,
        ask=from_json(ask),
        handle=handle,
        usage=None if usage is None else from_json(usage),
        source=source,
        created=created,
        due=due,
        tries=tries,
        taken_over=bool(taken_over),
        reason=reason,
    )
