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

_GROUP = 256


class GroupWriter:
    """Applies operations in groups, each group one transaction, each operation all or nothing."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._queue: queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="vluna-outbox", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue an operation; its future is done once the transaction is on disk, or failed."""
        future: Future[T] = Future()
        self._queue.put((operation, future))
        return future

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        db: sqlite3.Connection | None = None
        going_on = True
        while going_on:
            group, going_on = self._next_group()
            try:
                db = db or self._connect()
                _apply_group(db, group)
            except (sqlite3.Error, OSError) as error:
                _fail(group, error)
        if db is not None:
            db.close()

    def _next_group(self) -> tuple[list[tuple[Operation[Any], Future[Any]]], bool]:
        group: list[tuple[Operation[Any], Future[Any]]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _GROUP or self._queue.empty():
                return group, True
            item = self._queue.get()
        return group, False


def _apply_group(db: sqlite3.Connection, group: list[tuple[Operation[Any], Future[Any]]]) -> None:
    if not group:
        return
    results: list[tuple[Future[Any], Any]] = []
    db.execute("BEGIN IMMEDIATE")
    try:
        for operation, future in group:
            db.execute("SAVEPOINT one")
            try:
                results.append((future, operation(db)))
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001 -- border: the error belongs to the caller who waits on the future
                db.execute("ROLLBACK TO one")
                future.set_exception(error)
            db.execute("RELEASE one")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    for future, result in results:
        future.set_result(result)


def _fail(group: list[tuple[Operation[Any], Future[Any]]], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
