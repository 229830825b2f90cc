"""The file of the outbox: how it is opened, and how its tables came to be.

Each migration and the record that it was applied are one transaction, so a
process killed in between leaves a file that the next one completes.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Literal

__all__ = ["Durability", "connect"]

Durability = Literal["process", "power"]

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
)


def connect(path: str, durability: Durability, busy_timeout: float) -> sqlite3.Connection:
    """Open the file, private to its owner, with all migrations applied.

    Raises:
        sqlite3.Error, OSError: The file cannot be created, read or written.
    """
    if path != ":memory:":
        _create_private(Path(path))
    db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        _migrate(db)
        db.execute(f"PRAGMA busy_timeout = {int(busy_timeout * 1000)}")
    except BaseException:
        db.close()
        raise
    return db


def _create_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the main file, so the mode must be right before it opens it.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _migrate(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY) WITHOUT ROWID")
    for name, statement in _MIGRATIONS:
        if db.execute("SELECT 1 FROM migration WHERE name = ?", (name,)).fetchone():
            continue
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
