"""What must be done around a fork: locks and connections of the parent are of no use in its child, or of harm.

SQLite takes a file that its parent had open for open in the child too, and then neither
sees the other's locks: what the child writes may be lost. So outboxes are closed before
a fork and opened again, on use, on both sides of it.
"""

from __future__ import annotations

import os
import threading
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["PATIENCE", "Forking", "Lock", "hold", "track"]

PATIENCE: Final = 5.0
"""Seconds that a fork waits for whoever is at work on what it must not catch half done."""


class Forking(Protocol):
    """Knows how to get through a fork."""

    def before_fork(self) -> None:
        """Let go of what must not be carried over, and hold it off until the fork is done."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on in the parent, or begin anew in the child, where no other thread is left."""


class _Tracked:
    """All that is alive and wants to know; the operating system's hooks can be set, but never taken back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: WeakSet[Forking] = WeakSet()
        self._forking: list[Forking] = []

    def add(self, one: Forking) -> None:
        with self._lock:
            self._known.add(one)

    def before(self) -> None:
        self._lock.acquire()
        self._forking = list(self._known)
        for one in self._forking:
            one.before_fork()

    def after(self, *, in_child: bool) -> None:
        forked, self._forking = self._forking, []
        for one in reversed(forked):
            one.after_fork(in_child=in_child)
        self._lock.release()


_TRACKED = _Tracked()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_TRACKED.before,
        after_in_parent=lambda: _TRACKED.after(in_child=False),
        after_in_child=lambda: _TRACKED.after(in_child=True),
    )


def track(one: Forking) -> None:
    """Call `one` around each fork for as long as somebody holds it."""
    _TRACKED.add(one)


def hold(*locks: threading.Lock) -> list[threading.Lock]:
    """Close locks until a fork is done; returns those that could be had in time, to be opened again."""
    return [lock for lock in locks if lock.acquire(timeout=PATIENCE)]


class Lock:
    """A lock that a child process always finds open: whoever held it in the parent is not there to open it.

    For short changes of memory alone, of which a child can bear to see half.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        track(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Nothing has to be let go of."""

    def after_fork(self, *, in_child: bool) -> None:
        """Open it for the child."""
        if in_child:
            self._lock = threading.Lock()
