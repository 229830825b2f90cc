"""The file of the outbox: how it is opened, and how its tables came to be.

Each migration and the record that it was applied are one transaction, so a
process killed in between leaves a file that the next one completes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Literal

from langchain_vluna._core.run import UNSETTLED, State

__all__ = ["UNSETTLED_SQL", "Durability", "connect", "is_locked"]

Durability = Literal["process", "power"]

UNSETTLED_SQL = "state IN ({})".format(", ".join(f"'{state}'" for state in sorted(UNSETTLED)))
"""To be written in queries as it is: the index of due rows serves no other wording."""

_MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "001_run",
        """
        CREATE TABLE run (
            attempt TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            owner TEXT NOT NULL,
            principal_id TEXT NOT NULL,
            user_id TEXT,
            run_id TEXT NOT NULL,
            root_id TEXT NOT NULL,
            step TEXT,
            ask TEXT NOT NULL,
            handle TEXT,
            usage TEXT,
            source TEXT,
            created REAL NOT NULL,
            due REAL NOT NULL,
            tries INTEGER NOT NULL,
            taken_over INTEGER NOT NULL,
            reason TEXT
        ) WITHOUT ROWID
        """,
    ),
    ("002_step", "CREATE TABLE step (key TEXT PRIMARY KEY, settled REAL NOT NULL) WITHOUT ROWID"),
    ("003_due", f"CREATE INDEX run_due ON run (owner, due) WHERE {UNSETTLED_SQL}"),
    ("004_canceled", f"CREATE INDEX run_canceled ON run (due) WHERE state = '{State.CANCELED}'"),
    ("005_step_settled", "CREATE INDEX step_settled ON step (settled)"),
)

_OPEN_WAIT = 10.0
_SWITCH_ATTEMPTS = 500
_SWITCH_PAUSE = 0.01


def connect(path: str, durability: Durability, busy_timeout: float) -> sqlite3.Connection:
    """Open the file, private to its owner, with all migrations applied.

    Raises:
        sqlite3.Error, OSError: The file cannot be created, read or written.
    """
    if path != ":memory:":
        _create_private(Path(path))
    db = sqlite3.connect(path, timeout=_OPEN_WAIT, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(db)
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        _migrate(db)
        db.execute(f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}")
    except BaseException:
        db.close()
        raise
    return db


def is_locked(error: Exception) -> bool:
    """Whether somebody else is at the file, so that waiting helps."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _create_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the main file, so the mode must be right before it opens it.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Never opened where it exists: closing any descriptor of a file drops all POSIX locks that this process has on it,
    # those of SQLite too, and the next process that closes the file would take itself for the last and delete its log.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if file.exists() and file.stat().st_mode & 0o077:
            file.chmod(0o600)


def _write_ahead(db: sqlite3.Connection) -> None:
    # SQLite does not wait for another process that switches a new file at the same moment.
    for attempt in range(_SWITCH_ATTEMPTS):
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or attempt == _SWITCH_ATTEMPTS - 1:
                raise
            threading.Event().wait(_SWITCH_PAUSE)
        else:
            if mode not in {"wal", "memory"}:
                msg = f"this file system has no shared memory for SQLite (journal mode {mode!r})"
                raise sqlite3.OperationalError(msg)
            return


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY) WITHOUT ROWID")
    applied = {name for (name,) in db.execute("SELECT name FROM migration")}
    unknown = applied - {name for name, _ in _MIGRATIONS}
    if unknown:
        msg = f"written by a newer version of langchain-vluna (migration {max(unknown)!r}), which must be used with it"
        raise sqlite3.DatabaseError(msg)
    for name, statement in _MIGRATIONS:
        if name not in applied:
            _apply(db, name, statement)


def _apply(db: sqlite3.Connection, name: str, statement: str) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have applied it while this one waited for the lock.
        if not db.execute("SELECT 1 FROM migration WHERE name = ?", (name,)).fetchone():
            db.execute(statement)
            db.execute("INSERT INTO migration VALUES (?)", (name,))
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
