"""The durable queue between finished work and its settlement.

Guarantees:

- What a method returned from is on disk: in the operating system's hands with
  durability `process`, on the medium with `power`.
- Many threads and processes share a file. What a row may still become is decided by
  one compare-and-set (`rows.advance`), and a row belongs to one living process.
- Nothing is deleted but rows that the gate answered, and memories past their time.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from langchain_vluna._core.exchange import Flow, Join
from langchain_vluna._core.run import Event, State
from langchain_vluna._io.outbox import rows
from langchain_vluna._io.outbox.owner import Owner, is_alive, remove_marker
from langchain_vluna._io.outbox.schema import Durability, connect
from langchain_vluna._io.outbox.writer import GroupWriter, Operation

__all__ = ["Outbox", "OutboxError"]

T = TypeVar("T")

_FAST_WAIT = 0.005
_SLOW_WAIT = 30.0
_KEEP_CANCELED = 24 * 3600.0
_KEEP_STEPS = 7 * 24 * 3600.0


class OutboxError(Exception):
    """The outbox cannot be read or written; `busy` where waiting helps."""

    def __init__(self, path: str, cause: Exception) -> None:
        self.busy = isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause)
        super().__init__(f"outbox {path!r}: {cause}; free space, mend permissions, or choose another path with outbox=")


class Outbox:
    """An outbox file, or `:memory:`, as one process sees it. Opened on first use, and anew after a fork."""

    def __init__(
        self, path: str, *, durability: Durability = "process", clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self.clock = clock
        self._durability: Durability = "process" if path == ":memory:" else durability
        self._inherited: list[object] = []
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slow_lock = self._lock if self.path == ":memory:" else threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._slow_db: sqlite3.Connection | None = None
        self._owner: Owner | None = None
        self._writer: GroupWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has used it and not closed it since."""
        return self._db is not None and self._pid == os.getpid()

    @property
    def owner_id(self) -> str:
        """This process's mark on its rows."""
        with self._fast():
            return self._own().id

    def apply(self, operation: Operation[T], *, atomic: bool = False) -> T:
        """Run an operation here and now; microseconds, at most 5 ms where another process writes.

        Raises:
            OutboxError: Also where another process holds the file longer (`busy`).
        """
        with self._fast() as db:
            return _transaction(db, operation) if atomic else operation(db)

    def transact(self, operation: Operation[T]) -> T:
        """Run an operation as one transaction, waiting for other processes; not for event loops."""
        with self._slow() as db:
            return _transaction(db, operation)

    def record(self, operation: Operation[T], *, atomic: bool = False) -> Flow[T]:
        """Run an operation as durably as asked for, in a flow: at once if that is quick, else by the writer."""
        if self._durability == "process":
            try:
                return self.apply(operation, atomic=atomic)
            except OutboxError as error:
                if not error.busy:
                    raise
        future = self._group_writer().submit(operation)
        yield Join(future)
        try:
            return future.result()
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(self.path, error) from error

    def take_over(self) -> int:
        """Adopt the rows of processes that are gone; returns how many. Whoever is first gets them.

        Work that never ended is settled by what its row says: charged where it
        holds an estimate for this case, else cancelled.
        """
        me = self.owner_id
        others = self.apply(lambda db: db.execute("SELECT DISTINCT owner FROM run WHERE owner <> ?", (me,)).fetchall())
        dead = [owner for (owner,) in others if not is_alive(self.path, owner)]
        taken = sum(self.transact(lambda db, owner=owner: _adopt(db, owner, me, self.clock())) for owner in dead)  # type: ignore[misc]
        for owner in dead:
            remove_marker(self.path, owner)
        return taken

    def forget_old(self) -> None:
        """Delete tombstones of cancelled runs after a day and settled steps after seven."""
        now = self.clock()
        self.transact(
            lambda db: (
                db.execute("DELETE FROM run WHERE state = ? AND due < ?", (State.CANCELED, now - _KEEP_CANCELED)),
                db.execute("DELETE FROM step WHERE settled < ?", (now - _KEEP_STEPS,)),
            )
        )

    def close(self) -> None:
        """Let go of the file; rows that are left belong to the next process. Opens again on use."""
        if self._pid != os.getpid():
            return
        if self._writer is not None:
            self._writer.stop()
            self._writer = None
        if self.path == ":memory:":
            return
        with self._lock, self._slow_lock:
            for db in (self._db, self._slow_db):
                if db is not None:
                    db.close()
            if self._owner is not None:
                self._owner.release()
            self._db = self._slow_db = self._owner = None

    @contextmanager
    def _fast(self) -> Iterator[sqlite3.Connection]:
        self._after_fork()
        with self._lock, self._mapped_errors():
            if self._db is None:
                self._db = connect(self.path, self._durability, _FAST_WAIT)
            self._own()
            yield self._db

    @contextmanager
    def _slow(self) -> Iterator[sqlite3.Connection]:
        if self.path == ":memory:":
            with self._fast() as db:
                yield db
            return
        self._after_fork()
        with self._slow_lock, self._mapped_errors():
            if self._slow_db is None:
                self._slow_db = connect(self.path, self._durability, _SLOW_WAIT)
            yield self._slow_db

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(self.path, error) from error

    def _own(self) -> Owner:
        if self._owner is None:
            self._owner = Owner(self.path)
        return self._owner

    def _group_writer(self) -> GroupWriter:
        self._after_fork()
        with self._lock:
            if self._writer is None:
                self._writer = GroupWriter(lambda: connect(self.path, self._durability, _SLOW_WAIT))
            return self._writer

    def _after_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # Closing a connection inherited by fork could delete the parent's write-ahead log: keep it, unused.
        self._inherited += [self._db, self._slow_db, self._owner]
        inherited = self._db
        self._reset()
        if self.path == ":memory:":
            self._db = inherited


def _transaction(db: sqlite3.Connection, operation: Operation[T]) -> T:
    db.execute("BEGIN IMMEDIATE")
    try:
        result = operation(db)
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    return result


def _adopt(db: sqlite3.Connection, dead: str, me: str, now: float) -> int:
    adopted = rows.select(db, "owner = ?", (dead,))
    db.execute("UPDATE run SET owner = ?, taken_over = 1, due = ? WHERE owner = ?", (me, now, dead))
    for row in adopted:
        if row.state is State.ASKING:
            rows.advance(db, row.attempt, Event.UNKNOWN, {"reason": "its process ended while asking the gate"})
        elif row.state in {State.OPEN, State.UNGATED}:
            _settle_orphan(db, row, now)
    return len(adopted)


def _settle_orphan(db: sqlite3.Connection, row: rows.Row, now: float) -> None:
    why = {"reason": "its process ended before the run did"}
    if row.usage is None:
        rows.advance(db, row.attempt, Event.FAILED, why)
    else:
        rows.use(db, row.attempt, row.step, why, now)
