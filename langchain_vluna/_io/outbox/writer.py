"""One thread that writes what may wait: for a lock, or for the disk to be sure.

All operations that arrive while a transaction is being written share the next
one, so that many callers pay for one fsync.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["GroupWriter", "Operation"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
_Job = tuple[Operation[Any], Future[Any]]
_Told = tuple[Future[Any], Any, Exception | None]

_GROUP = 256


class GroupWriter:
    """Applies operations in groups, each group one transaction, each operation all or nothing."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._held = False
        self._db: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._work, name="vluna-outbox", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; its future is done once the transaction is on disk, or failed. Never after `stop`."""
        future: Future[T] = Future()
        # From here on nobody can cancel it: it is going to be written, whoever still waits for it.
        future.set_running_or_notify_cancel()
        self._queue.put((operation, future))
        return future

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def hold(self, patience: float) -> None:
        """Wait for the transaction that is being written, close the connection, and keep the thread from the next."""
        self._held = self._writing.acquire(timeout=patience)
        if self._held:
            self._disconnect()

    def let_go(self) -> None:
        """Let the thread go on."""
        if self._held:
            self._held = False
            self._writing.release()

    def _work(self) -> None:
        going_on = True
        while going_on:
            group, going_on = self._next_group()
            with self._writing:
                told = self._write(group)
            # Not while holding the lock: whoever is told may want something of the outbox.
            for future, result, error in told:
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        with self._writing:
            self._disconnect()

    def _write(self, group: list[_Job]) -> list[_Told]:
        if not group:
            return []
        try:
            self._db = self._db or self._connect()
            return _apply_group(self._db, group)
        except (sqlite3.Error, OSError) as error:
            return [(future, None, error) for _, future in group]

    def _next_group(self) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _GROUP or self._queue.empty():
                return group, True
            item = self._queue.get()
        return group, False

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _apply_group(db: sqlite3.Connection, group: list[_Job]) -> list[_Told]:
    told: list[_Told] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        for operation, future in group:
            db.execute("SAVEPOINT one")
            try:
                told.append((future, operation(db), None))
            except Exception as error:
                if not db.in_transaction:
                    # SQLite gave up the whole transaction: the disk is full, or worse.
                    raise
                # Border: the error belongs to the caller who waits on the future.
                db.execute("ROLLBACK TO one")
                told.append((future, None, error))
            db.execute("RELEASE one")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return told
