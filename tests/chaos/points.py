"""The points at which a worker dies: hung into a gate from outside, nothing of the package is changed."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import HttpRequest, HttpResponse, Transport
from langchain_vluna._io.outbox import Transition, rows, upkeep
from langchain_vluna.gate.records import Records
from langchain_vluna.gate.spec import OpenRun

__all__ = ["POINTS", "Death", "Tapped", "tap"]

POINTS = (
    "after intent",
    "after authorize answer",
    "mid-stream",
    "after provider answer",
    "after usage row",
    "after commit sent",
    "after commit answer",
    "mid-batch",
    "mid-migration",
    "during take-over",
)


class Death:
    """Kills its process when a point is passed for the nth time."""

    def __init__(self, point: str | None, nth: int) -> None:
        self._point = point
        self._left = nth
        self._lock = threading.Lock()

    def passes(self, point: str) -> None:
        """Say that the process is at this point."""
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()


class Tapped:
    """A transport that passes everything on, and points on the way there and back."""

    def __init__(self, gate: Transport, death: Death) -> None:
        self._gate = gate
        self._death = death
        self.settings = gate.settings  # type: ignore[attr-defined]

    def send(self, request: HttpRequest) -> HttpResponse:
        self._before(request)
        answer = self._gate.send(request)
        self._after(request)
        return answer

    async def asend(self, request: HttpRequest) -> HttpResponse:
        self._before(request)
        answer = await self._gate.asend(request)
        self._after(request)
        return answer

    def close(self) -> None:
        self._gate.close()

    async def aclose(self) -> None:
        await self._gate.aclose()

    def _before(self, request: HttpRequest) -> None:
        if request.target.endswith("/authorize"):
            self._death.passes("after intent")
        elif "/commits" in request.target:
            self._death.passes("after commit sent")

    def _after(self, request: HttpRequest) -> None:
        if request.target.endswith("/authorize"):
            self._death.passes("after authorize answer")
        elif "/commits" in request.target:
            self._death.passes("after commit answer")


def tap(death: Death, ended: Callable[[str], None]) -> None:
    """Hang the points that lie in the outbox into this process; `ended` is told each run whose usage is on disk."""
    write_end = Records._write_end

    def tapped(self: Records, run: OpenRun, event: Event, *rest: Any, **how: Any) -> Any:
        target = yield from write_end(self, run, event, *rest, **how)
        if event is Event.USED and target is State.COMMITTING:
            ended(str(run.spec.run_id))
            death.passes("after usage row")
        return target

    Records._write_end = tapped  # type: ignore[method-assign]
    _die_in_batches(death)
    _die_in_migrations(death)
    _die_in_take_overs(death)


def _die_in_batches(death: Death) -> None:
    advance = rows.advance

    def tapped(db: sqlite3.Connection, attempt: str, event: Event, *args: Any) -> Transition:
        moved = advance(db, attempt, event, *args)
        if event is Event.COMMITTED and db.in_transaction:
            death.passes("mid-batch")
        return moved

    rows.__dict__["advance"] = tapped


def _die_in_migrations(death: Death) -> None:
    class Fatal(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            death.passes("mid-migration")
            return super().execute(*args)

    connect = sqlite3.connect

    def tapped(path: str, *args: Any, **options: Any) -> sqlite3.Connection:
        if str(path).endswith(".outbox"):
            options["factory"] = Fatal
        connection: sqlite3.Connection = connect(path, *args, **options)
        return connection

    sqlite3.__dict__["connect"] = tapped


def _die_in_take_overs(death: Death) -> None:
    adopt, give_up = upkeep._adopt, upkeep._give_up

    def tapped_adopt(db: sqlite3.Connection, **who: Any) -> int:
        death.passes("during take-over")
        taken = adopt(db, **who)
        death.passes("during take-over")
        return taken

    def tapped_give_up(*args: Any) -> None:
        give_up(*args)
        death.passes("during take-over")

    upkeep.__dict__.update(_adopt=tapped_adopt, _give_up=tapped_give_up)
