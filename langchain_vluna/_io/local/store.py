"""One SQLite database: opening, migrating, and one short write transaction at a time.

Any number of threads and processes may share a file. A transaction never waits for long while it
holds the thread lock: where another process writes, `transaction` raises `Busy` at once unless
it is told to wait.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._io import forks
from langchain_vluna._io.local.schema import MIGRATIONS

__all__ = ["Busy", "Store"]

BUSY_MS: Final = 5
_PAUSE = 0.001
_LOG_PAGES: Final = 4000
"""Of 4 KiB, before the log is written back. That waits for the disk, and a request makes some 20 pages."""
_OPEN_BUSY_MS = 30_000
_SWITCH_ATTEMPTS = 200
_SWITCH_PAUSE = 0.01


class Busy(Exception):
    """Somebody else writes right now; nothing was done."""


class Store:
    def __init__(self, path: str, *, now_ms: Callable[[], int]) -> None:
        self.path = path
        self.in_memory = path == ":memory:"
        self._now_ms = now_ms
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._held: list[threading.Lock] = []
        self._connection: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize[..., Store] | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        with self._lock:
            self._open()
        forks.track(self)

    @contextmanager
    def transaction(self, *, wait: float = 0) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed at the end, rolled back by any exception.

        Raises:
            Busy: Another thread or process still writes after `wait` seconds.
        """
        connection = self._begin(wait)
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            self._lock.release()

    def _begin(self, wait: float) -> sqlite3.Connection:
        """Return with the thread lock held and a transaction open; never wait for long with the lock held."""
        deadline = time.monotonic() + wait if wait else 0
        while True:
            connection = self._try_begin()
            if connection is not None:
                return connection
            if time.monotonic() >= deadline:
                raise Busy
            threading.Event().wait(_PAUSE)

    def _try_begin(self) -> sqlite3.Connection | None:
        if not self._lock.acquire(timeout=BUSY_MS / 1000):
            return None
        try:
            connection = self._ready()
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._lock.release()
            if isinstance(error, sqlite3.OperationalError) and _is_busy(error):
                return None
            raise
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read without taking the write lock of the database."""
        with self._lock:
            yield self._ready()

    @contextmanager
    def looking(self) -> Iterator[sqlite3.Connection]:
        """Read for as long as it takes, in nobody's way: a file is opened once more for it."""
        if self.in_memory:
            with self.reading() as connection:
                yield connection
            return
        with self._lock:
            self._ready()
        with self._looking, closing(sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)) as again:
            again.execute(f"PRAGMA busy_timeout = {_OPEN_BUSY_MS}")
            again.execute("PRAGMA query_only = 1")
            yield again

    def close(self) -> None:
        """Close a file; what is in memory stays, because it would be lost."""
        if self.in_memory:
            return
        with self._lock:
            if self._finalizer is not None and self._process == os.getpid():
                self._finalizer()
            self._connection = None

    def before_fork(self) -> None:
        """Close a file, and keep everybody out of SQLite until the fork is done: its own locks would stay locked."""
        self._held = forks.hold(self._lock, self._looking)
        if self._lock in self._held and not self.in_memory and self._finalizer is not None:
            self._finalizer()
            self._connection = None

    def after_fork(self, *, in_child: bool) -> None:
        """Let the parent go on; a child opens a file anew, and has a copy of what is in memory."""
        held, self._held = self._held, []
        if in_child:
            self._lock, self._looking = threading.Lock(), threading.Lock()
            return
        for lock in held:
            lock.release()

    def _ready(self) -> sqlite3.Connection:
        if self._process != os.getpid() and not self.in_memory:
            self._leave_to_parent()
        return self._connection or self._open()

    def _leave_to_parent(self) -> None:
        """SQLite forbids a child process to use, or even to close, what its parent opened."""
        if self._connection is not None:
            self._inherited.append(self._connection)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        try:
            if not self.in_memory:
                Path(self.path).touch(mode=0o600)
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            msg = f"cannot open the local gate's database {self.path!r}: {error}; give a path in a writable folder"
            raise ConfigurationError(msg) from error
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._process = os.getpid()
        self._connection = connection
        self._finalizer = weakref.finalize(self, connection.close)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute(f"PRAGMA busy_timeout = {_OPEN_BUSY_MS}")
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            self._migrate(connection)
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        except sqlite3.DatabaseError as error:
            msg = f"{self.path!r} is no database of a local gate: {error}; move it away or give another path"
            raise ConfigurationError(msg) from error

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL)"
            )
            done = self._done(connection)
            for version, statements in enumerate(MIGRATIONS[done:], start=done + 1):
                for statement in statements:
                    connection.execute(statement)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (version, self._now_ms()))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _done(self, connection: sqlite3.Connection) -> int:
        (done,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
        if done > len(MIGRATIONS):
            msg = f"{self.path!r} was written by a newer version of langchain-vluna; upgrade it or give another path"
            raise ConfigurationError(msg)
        return int(done)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait for another process that switches at the same moment."""
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or attempt == _SWITCH_ATTEMPTS - 1:
                raise
            threading.Event().wait(_SWITCH_PAUSE)
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
