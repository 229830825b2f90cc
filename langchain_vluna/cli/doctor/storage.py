"""Whether the outbox is healthy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from langchain_vluna._core.errors import VlunaError
from langchain_vluna._core.run import UNSETTLED, State
from langchain_vluna._io.outbox import Outbox
from langchain_vluna._io.outbox.desk import Desk
from langchain_vluna.cli.doctor.findings import Finding, failed, fine, warned
from langchain_vluna.cli.values import ago

__all__ = ["examine_outbox"]

_LATE = 600.0
_OTHERS = 0o077


def examine_outbox(path: str, now: Callable[[], float]) -> Finding:
    """Look whether the outbox can be written, is private, and is being emptied."""
    file = Path(path)
    if not file.exists():
        return _absent(file)
    outbox = Outbox(path)
    try:
        mode = file.stat().st_mode
        desk = Desk(outbox)
        counts = desk.counts()
        oldest = min((row.created for row in desk.rows(states=tuple(UNSETTLED))), default=None)
    except VlunaError as error:
        return failed("outbox", error.message, "the message says what to mend")
    finally:
        outbox.close()
    return _judge(file, mode, counts, None if oldest is None else now() - oldest)


def _judge(file: Path, mode: int, counts: Mapping[State, int], age: float | None) -> Finding:
    waiting, dead = sum(counts.get(state, 0) for state in UNSETTLED), counts.get(State.DEAD, 0)
    detail = f"{file}: {waiting} rows wait, {dead} are refused for good"
    if dead:
        fix = "langchain-vluna outbox list --state dead, mend what the reasons say, then outbox retry ID"
        return failed("outbox", detail, fix)
    if not os.access(file, os.W_OK):
        return failed("outbox", f"{file} cannot be written", "make the file and its folder writable")
    if age is not None and age > _LATE:
        return warned("outbox", f"{detail}, the oldest for {ago(0, age)}", "langchain-vluna outbox flush")
    if mode & _OTHERS:
        return warned("outbox", f"{file} can be read by others, and holds leases", f"chmod 600 {file}")
    return fine("outbox", detail)


def _absent(file: Path) -> Finding:
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return fine("outbox", f"none yet; the first run makes {file}")
    return failed("outbox", f"{file} cannot be made: {folder} is not writable", "set VLUNA_OUTBOX to a writable path")
