"""Whether the outbox is healthy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from langchain_vluna._core.errors import VlunaError
from langchain_vluna._core.run import UNSETTLED, State
from langchain_vluna._io.outbox import Outbox, rows
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
        found = outbox.apply(lambda db: rows.select(db, "1"))
    except VlunaError as error:
        return failed("outbox", error.message, "the message says what to mend")
    finally:
        outbox.close()
    return _judge(file, mode, found, now())


def _judge(file: Path, mode: int, found: list[rows.Row], now: float) -> Finding:
    states = Counter(row.state for row in found)
    waiting = [row for row in found if row.state in UNSETTLED]
    detail = f"{file}: {len(waiting)} rows wait, {states[State.DEAD]} are refused for good"
    if states[State.DEAD]:
        fix = "langchain-vluna outbox list --state dead, mend what the reasons say, then outbox retry ID"
        return failed("outbox", detail, fix)
    if not os.access(file, os.W_OK):
        return failed("outbox", f"{file} cannot be written", "make the file and its folder writable")
    late = [row.created for row in waiting if now - row.created > _LATE]
    if late:
        return warned("outbox", f"{detail}, the oldest since {ago(min(late), now)}", "langchain-vluna outbox flush")
    if mode & _OTHERS:
        return warned("outbox", f"{file} can be read by others, and holds leases", f"chmod 600 {file}")
    return fine("outbox", detail)


def _absent(file: Path) -> Finding:
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return fine("outbox", f"none yet; the first run makes {file}")
    return failed("outbox", f"{file} cannot be made: {folder} is not writable", "set VLUNA_OUTBOX to a writable path")
