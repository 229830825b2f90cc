"""What goes wrong with an outbox, and what to do about it."""

from __future__ import annotations

import sqlite3
from typing import Self

from langchain_vluna._core.errors import VlunaError
from langchain_vluna._io.outbox.schema import is_locked

__all__ = ["MappedErrors", "OutboxError"]

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable, or choose another path with outbox=",
    sqlite3.SQLITE_CANTOPEN: "make its folder writable, or choose another path with outbox=",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and keep it, since it may hold runs that were not charged",
    sqlite3.SQLITE_NOTADB: "it is no outbox: choose another path with outbox=, or move it away",
}


class OutboxError(VlunaError):
    """The outbox cannot be read or written."""

    busy: bool = False
    """Whether another process was at it, so that waiting helps."""

    @classmethod
    def of(cls, path: str, cause: Exception) -> Self:
        """Say what happened to the file and what helps."""
        code = getattr(cause, "sqlite_errorcode", None)
        remedy = _REMEDIES.get(code & 0xFF) if code is not None else None
        error = cls(
            f"outbox {path!r}: {cause}; {remedy or 'free space, mend permissions, or give outbox= another path'}"
        )
        error.busy = is_locked(cause)
        return error


class MappedErrors:
    """A block in which what SQLite and the file system raise becomes an `OutboxError`; entered any number of times."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            raise OutboxError.of(self._path, error) from error
