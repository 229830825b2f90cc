"""The durable queue between finished work and its settlement.

Guarantees:

- What a method returned from is on disk: in the operating system's hands with
  durability `process`, on the medium with `power`.
- Many threads and processes share a file. What a row may still become is decided by
  one compare-and-set (`rows.advance`), and a row belongs to one living process.
- Nothing is deleted but rows that the gate answered, and memories past their time.
- No connection is open across a fork.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TypeVar

from langchain_vluna._core.exchange import Flow, Join
from langchain_vluna._io import forks
from langchain_vluna._io.outbox.failure import MappedErrors, OutboxError
from langchain_vluna._io.outbox.owner import Owner
from langchain_vluna._io.outbox.schema import Durability, connect
from langchain_vluna._io.outbox.writer import GroupWriter, Operation

__all__ = ["Outbox"]

T = TypeVar("T")

_FAST_WAIT = 0.005
_SLOW_WAIT = 30.0
_CONNECTIONS = 2


class Outbox:
    """An outbox file, or `:memory:`, as one process sees it. Opened on first use, and anew after a fork."""

    def __init__(
        self,
        path: str,
        *,
        durability: Durability = "process",
        clock: Callable[[], float] = time.time,  # noqa: TID251 -- the one default
    ) -> None:
        self.path = path
        self.clock = clock
        self._errors = MappedErrors(path)
        self._durability: Durability = "process" if path == ":memory:" else durability
        self._inherited: list[object] = []
        self._reset()
        forks.track(self)

    def _reset(self) -> None:
        # Two connections, so that the reading of many rows never delays the writing of one.
        self._lock, self._slow_lock = threading.Lock(), threading.Lock()
        self._held: list[threading.Lock] = []
        self._db: sqlite3.Connection | None = None
        self._slow_db: sqlite3.Connection | None = None
        self._owner: Owner | None = None
        self._writer: GroupWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has used it and not closed it since."""
        return self._db is not None

    @property
    def owner_id(self) -> str:
        """This process's mark on its rows."""
        owner = self._owner
        if owner is not None:
            return owner.id
        with self._lock, self._errors:
            self._connected()
            return self._own().id

    def ready(self) -> Flow[None]:
        """Open the file in a thread, for flows that must not block: whoever writes to it is waited for.

        Raises:
            OutboxError: It cannot be opened.
        """
        if self._db is not None or self.path == ":memory:":
            return
        future: Future[None] = Future()
        try:
            threading.Thread(target=_fulfil, args=(future, self._open), daemon=True).start()
        except RuntimeError:
            # No thread starts at the end of the interpreter: it is opened where it is used.
            return
        yield Join(future)
        future.result()

    def apply(self, operation: Operation[T], *, atomic: bool = False) -> T:
        """Run an operation here and now; microseconds, at most 5 ms where another process writes.

        Raises:
            OutboxError: Also where another process holds the file longer (`busy`).
        """
        with self._lock, self._errors:
            db = self._connected()
            return _transaction(db, operation) if atomic else operation(db)

    def query(self, operation: Operation[T]) -> T:
        """Read, however much, out of the way of `apply`; not for event loops."""
        with self._slow() as db:
            return operation(db)

    def transact(self, operation: Operation[T]) -> T:
        """Run an operation as one transaction, waiting for other processes; not for event loops."""
        with self._slow() as db:
            return _transaction(db, operation)

    def record(
        self, operation: Operation[T], *, atomic: bool = False, late: Callable[[T], object] | None = None
    ) -> Flow[T]:
        """Run an operation as durably as asked for, in a flow: at once if that is quick, else by the writer.

        A flow that is closed while the writer is at it does not stop the writer; `late` is then told the result.
        """
        if self._durability == "process":
            try:
                return self.apply(operation, atomic=atomic)
            except OutboxError as error:
                if not error.busy:
                    raise
        future = self._submit(operation)
        try:
            yield Join(future)
        except GeneratorExit:
            if late is not None:
                future.add_done_callback(lambda done: done.exception() or late(done.result()))
            raise
        return self._result(future)

    def post(
        self, operation: Operation[T], done: Callable[[T], object], failed: Callable[[OutboxError], object]
    ) -> None:
        """Run an operation without waiting for it, for callers that cannot; one of the callables is told."""

        def told(future: Future[T]) -> None:
            try:
                result = self._result(future)
            except OutboxError as error:
                failed(error)
            else:
                done(result)

        if self._durability == "process":
            try:
                done(self.apply(operation))
            except OutboxError as error:
                if not error.busy:
                    failed(error)
                    return
            else:
                return
        self._submit(operation).add_done_callback(told)

    def close(self) -> None:
        """Let go of the file; rows that are left belong to the next process. Opens again on use."""
        self._stop_writer()
        if self.path == ":memory:":
            return
        with self._lock, self._slow_lock:
            self._disconnect()
            if self._owner is not None:
                self._owner.release()
                self._owner = None

    def before_fork(self) -> None:
        """Finish what is being written, close all connections and keep them closed until the fork is done."""
        # Nobody may be inside SQLite when the fork comes: its own locks would stay locked in the child for ever.
        self._held = forks.hold(self._lock, self._slow_lock)
        if self._writer is not None:
            self._writer.hold(forks.PATIENCE)
        if len(self._held) == _CONNECTIONS:
            self._disconnect()

    def after_fork(self, *, in_child: bool) -> None:
        """Let the parent go on; in the child, begin as a process of its own."""
        if not in_child:
            if self._writer is not None:
                self._writer.let_go()
            for lock in self._held:
                lock.release()
            return
        # What is left open is the parent's: to close it here could let go of its locks.
        self._inherited += [self._db, self._owner]
        if self._owner is not None:
            Owner.inherited.add(self._owner.id)
        self._reset()

    def _open(self) -> None:
        with self._lock, self._errors:
            self._connected()

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or self._owner is None:
            self._db = self._db or connect(self.path, self._durability, _FAST_WAIT)
            self._own()
        return self._db

    @contextmanager
    def _slow(self) -> Iterator[sqlite3.Connection]:
        if self.path == ":memory:":
            with self._lock, self._errors:
                yield self._connected()
            return
        with self._slow_lock, self._errors:
            if self._slow_db is None:
                self._slow_db = connect(self.path, self._durability, _SLOW_WAIT)
            yield self._slow_db

    def _own(self) -> Owner:
        if self._owner is None:
            self._owner = Owner(self.path)
        return self._owner

    def _submit(self, operation: Operation[T]) -> Future[T]:
        try:
            with self._lock:
                if self._writer is None:
                    self._writer = GroupWriter(lambda: connect(self.path, self._durability, _SLOW_WAIT))
                return self._writer.submit(operation)
        except RuntimeError:
            # No thread starts at the end of the interpreter.
            future: Future[T] = Future()
            _fulfil(future, lambda: self.transact(operation))
            return future

    def _result(self, future: Future[T]) -> T:
        with self._errors:
            return future.result()

    def _stop_writer(self) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.stop()

    def _disconnect(self) -> None:
        if self.path == ":memory:":
            return
        for db in (self._db, self._slow_db):
            if db is not None:
                db.close()
        self._db = self._slow_db = None


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 -- border: it belongs to whoever waits on the future
        future.set_exception(error)


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
