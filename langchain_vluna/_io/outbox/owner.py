"""Which processes are alive: each holds a lock on a small file of its own.

The lock goes with the process, however it dies, and neither a reused pid nor
another machine's pid can be mistaken for it. SQLite does the locking, because it
does it alike on every system.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from uuid import uuid4

__all__ = ["Owner", "is_alive", "remove_marker"]


class Owner:
    """This process's mark on an outbox file, held until `release` or the end of the process."""

    def __init__(self, outbox: str) -> None:
        self.id = uuid4().hex
        self._marker: sqlite3.Connection | None = None
        self._outbox = outbox
        if outbox != ":memory:":
            self._marker = _open_marker(_marker_path(outbox, self.id))

    def release(self) -> None:
        """Let go: whatever rows are left belong to the next process that looks."""
        if self._marker is not None:
            self._marker.close()
            self._marker = None
            remove_marker(self._outbox, self.id)


def is_alive(outbox: str, owner_id: str) -> bool:
    """Whether the process that owns the mark still runs."""
    path = _marker_path(outbox, owner_id)
    if not path.exists():
        return False
    try:
        _open_marker(path).close()
    except sqlite3.OperationalError:
        return True
    return False


def remove_marker(outbox: str, owner_id: str) -> None:
    """Delete what a dead owner left; harmless when another process did it first."""
    path = _marker_path(outbox, owner_id)
    for leftover in (path, path.with_name(path.name + "-journal")):
        with contextlib.suppress(FileNotFoundError):
            leftover.unlink()


def _marker_path(outbox: str, owner_id: str) -> Path:
    return Path(f"{outbox}.{owner_id}.alive")


def _open_marker(path: Path) -> sqlite3.Connection:
    # The marker stays an empty file: an exclusive transaction that writes nothing.
    marker = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        marker.execute("PRAGMA journal_mode = MEMORY")
        marker.execute("BEGIN EXCLUSIVE")
    except BaseException:
        marker.close()
        raise
    return marker
