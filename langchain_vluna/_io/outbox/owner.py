"""Which processes are alive: each holds a lock on a small file of its own.

The lock goes with the process, however it dies, and neither a reused pid nor
another machine's pid can be mistaken for it. SQLite does the locking, because it
does it alike on every system.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

__all__ = ["Owner", "is_alive", "remove_marker", "sweep_markers"]

_CREATION = 3600.0
"""Seconds after which a marker is certainly locked, if anybody is going to."""
_LOCK_WAIT = 1.0


class Owner:
    """This process's mark on an outbox file, held until `release` or the end of the process."""

    inherited: ClassVar[set[str]] = set()
    """Ids of owners in processes that this one was forked from: SQLite believes that their locks are its own."""

    def __init__(self, outbox: str) -> None:
        self.id = uuid4().hex
        self._marker: sqlite3.Connection | None = None
        self._outbox = outbox
        if outbox != ":memory:":
            path = _marker_path(outbox, self.id)
            path.touch(mode=0o600)
            self._marker = _locked(path, _LOCK_WAIT)

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
    if owner_id in Owner.inherited:
        return _locked_by_parent(path)
    try:
        _locked(path, 0.0).close()
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        # Somebody wrote into the file. Its lock can still be seen, but nothing says who has it.
        return _locked_by_parent(path)
    return False


def remove_marker(outbox: str, owner_id: str) -> None:
    """Delete what a dead owner left; harmless when another process did it first."""
    path = _marker_path(outbox, owner_id)
    for leftover in (path, path.with_name(path.name + "-journal")):
        with contextlib.suppress(FileNotFoundError):
            leftover.unlink()


def sweep_markers(outbox: str, me: str, now: float) -> None:
    """Delete the markers of processes that died without leaving rows."""
    file = Path(outbox)
    for marker in file.parent.glob(f"{file.name}.*.alive"):
        owner_id = marker.name.removeprefix(f"{file.name}.").removesuffix(".alive")
        with contextlib.suppress(FileNotFoundError):
            if owner_id != me and now - marker.stat().st_mtime > _CREATION and not is_alive(outbox, owner_id):
                remove_marker(outbox, owner_id)


def _marker_path(outbox: str, owner_id: str) -> Path:
    return Path(f"{outbox}.{owner_id}.alive")


def _locked(path: Path, wait: float) -> sqlite3.Connection:
    # The marker stays an empty file: an exclusive transaction that writes nothing.
    marker = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    try:
        marker.execute("PRAGMA journal_mode = MEMORY")
        marker.execute("BEGIN EXCLUSIVE")
    except BaseException:
        marker.close()
        raise
    return marker


def _locked_by_parent(path: Path) -> bool:
    import fcntl

    with path.open("r+b") as marker:
        try:
            fcntl.lockf(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
