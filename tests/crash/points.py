"""Where a worker is killed: named points, reached from outside the product.

The transport is wrapped, the model is ours, and the outbox's statements are watched by
a connection class of our own, so that nothing in the package knows of being tested.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from langchain_vluna import LocalGate
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.outbox import schema

__all__ = ["POINTS", "Killer", "KillingGate", "watch_statements"]

POINTS = (
    "after_intent",
    "after_authorize_answer",
    "after_lease",
    "mid_stream",
    "after_provider_answer",
    "after_usage_row",
    "after_commit_sent",
    "after_commit_answer",
    "mid_batch",
    "mid_migration",
    "during_take_over",
)

_STATEMENTS = {
    "mid_migration": "INSERT INTO migration",
    "during_take_over": "UPDATE run SET owner",
    "after_lease": "UPDATE run SET handle",
}
_BY_VERB = {"/gate/commits": "commit", "/gate/commits/batch": "commit", "/gate/authorize": "authorize"}


class Killer:
    """Kills this process when its point is reached for the n-th time."""

    def __init__(self, point: str, countdown: int) -> None:
        self.point = point
        self._countdown = countdown
        self._lock = threading.Lock()

    def reached(self, point: str) -> None:
        """Say that the process is at a point; does not return from its own."""
        if point != self.point:
            return
        with self._lock:
            self._countdown -= 1
            if self._countdown <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class KillingGate(LocalGate):
    """A local gate, on the way to which and back the process may die."""

    def __init__(self, path: str, killer: Killer, batch_delay: float) -> None:
        super().__init__(path)
        self._killer = killer
        self._batch_delay = batch_delay

    def send(self, request: HttpRequest) -> HttpResponse:
        verb = self._before(request)
        response = super().send(request)
        self._killer.reached(f"after_{verb}_answer")
        return response

    async def asend(self, request: HttpRequest) -> HttpResponse:
        verb = self._before(request)
        response = await super().asend(request)
        self._killer.reached(f"after_{verb}_answer")
        return response

    def _before(self, request: HttpRequest) -> str | None:
        path = request.target.removeprefix("/mgt/v1")
        verb = _BY_VERB.get(path)
        if verb == "authorize":
            self._killer.reached("after_intent")
        elif verb == "commit":
            self._killer.reached("after_commit_sent")
        if path.endswith("/batch") and self._killer.point == "mid_batch":
            # Somewhere between the request, the ledger's transaction and the settling of the rows.
            threading.Timer(self._batch_delay, self._killer.reached, ("mid_batch",)).start()
        return verb


def watch_statements(killer: Killer) -> None:
    """Let the outbox's connections of this process report the statements that a point is named after."""
    if killer.point not in _STATEMENTS:
        return
    pattern = _STATEMENTS[killer.point]

    class Watched(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            cursor = super().execute(statement, *values)
            if pattern in statement:
                killer.reached(killer.point)
            return cursor

    plain: Callable[..., sqlite3.Connection] = sqlite3.connect

    class Sqlite:
        """The module as the outbox sees it, with another default for `factory`."""

        def __getattr__(self, name: str) -> Any:
            return getattr(sqlite3, name)

        @staticmethod
        def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            return plain(*args, factory=Watched, **kwargs)

    schema.sqlite3 = Sqlite()  # type: ignore[attr-defined, assignment]
