"""Processes that share one outbox file and one ledger, while some are killed: `python -m tests.faults.processes`.

Ends with 1 where a run was lost, charged twice or differently, or where a lease stayed open. It forks, so it runs in a
process of its own, and kills only what it forked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from langchain_vluna import Gate, LocalGate
from langchain_vluna._io.outbox.owner import is_alive
from langchain_vluna._io.relay import RelayTimes
from tests.faults.load import PRICES, Load, prepare
from tests.support.conservation import audit, rows_of
from tests.support.journal import Journal

__all__ = ["Place", "Tally", "trial"]

TIMES = RelayTimes(linger=0.02, first_retry=0.02, last_retry=0.5, take_over=0.3)
_PATIENCE = 20.0
"""Seconds for the first run to show up."""
_STREAK = 10
"""Runs between two looks at whether to stop."""


@dataclass(frozen=True, slots=True)
class Place:
    """The files that all share."""

    folder: Path
    durable: bool = True

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def outbox(self) -> str:
        return str(self.folder / "outbox") if self.durable else ":memory:"

    @property
    def notes(self) -> Path:
        """What workers that came to their end have to say."""
        return self.folder / "notes"

    @property
    def stop(self) -> Path:
        """Tells workers to stop by being there."""
        return self.folder / "stop"

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[LocalGate, Gate]]:
        """Open ledger and gate."""
        ledger = LocalGate(self.folder / "ledger", generation="tutorial")
        gate = Gate(ledger, wire="tutorial", outbox=self.outbox, relay=TIMES, deny_memo=0)
        try:
            yield ledger, gate
        finally:
            gate.close(30.0)
            ledger.close()


@dataclass
class Tally:
    """What happened."""

    started: int = 0
    killed: int = 0
    broken: int = 0
    """Workers that ended in another way than by their end or by a kill."""
    outcomes: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    stranded: int = 0
    """Rows that killed processes left to the others."""
    runs: int = 0
    left: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def work(place: Place, number: int, parent: int) -> None:
    """Make runs until told to stop."""
    with place.open() as (_, gate):
        journal = Journal(place.journal)
        load = Load(gate, journal, mark=f"worker {number}", ends=True, delay=0.001)
        # A worker whose parent is gone must not go on for ever.
        while not place.stop.exists() and os.getppid() == parent:
            load.spread(_STREAK, threads=2, tasks=3)
    note = json.dumps({"outcomes": load.outcomes, "strange": [repr(error) for error in load.strange]})
    with place.notes.open("a", encoding="utf-8") as notes:
        notes.write(f"{note}\n")


def fork(place: Place, number: int) -> int:
    """Start a worker; returns its process id."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        work(place, number, parent)
        status = 0
    except BaseException:  # noqa: BLE001 -- border of a process: what happened is told by its exit status
        traceback.print_exc()
    finally:
        os._exit(status)


def trial(place: Place, *, workers: int, kills: int, seed: int) -> Tally:
    """Keep `workers` processes at work, kill one after another, and audit what they left."""
    random, tally = Random(seed), Tally()
    with place.open() as (ledger, _):
        prepare(ledger)
    place.journal.touch()
    place.notes.touch()
    living = []
    for _ in range(workers):
        tally.started += 1
        living.append(fork(place, tally.started))
    try:
        deadline = time.monotonic() + _PATIENCE
        while not place.journal.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(kills):
            time.sleep(random.uniform(0.1, 0.5))
            victim = living.pop(random.randrange(len(living)))
            os.kill(victim, signal.SIGKILL)
            tally.killed += os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
            tally.stranded += _stranded(place)
            tally.started += 1
            living.append(fork(place, tally.started))
        time.sleep(1.0)
    finally:
        place.stop.touch()
        tally.broken = sum(os.waitpid(pid, 0)[1] != 0 for pid in living)
    _settle(place, tally)
    return tally


def _stranded(place: Place) -> int:
    """Count rows whose process is gone."""
    if not place.durable:
        return 0
    with contextlib.closing(sqlite3.connect(place.outbox, timeout=10.0)) as db:
        owned = db.execute("SELECT owner, count(*) FROM run GROUP BY owner").fetchall()
    return sum(count for owner, count in owned if not is_alive(place.outbox, owner))


def _settle(place: Place, tally: Tally) -> None:
    for line in place.notes.read_text(encoding="utf-8").splitlines():
        note: dict[str, Any] = json.loads(line)
        tally.outcomes.update(note["outcomes"])
        tally.strange += note["strange"]
    with place.open() as (ledger, gate):
        tally.left = gate.flush(30.0)
        books = audit(Journal.read(place.journal), ledger, rows_of(gate), prices=PRICES, survived=False)
    tally.runs, tally.counts, tally.problems = books.runs, books.counts(), books.problems()
    if tally.left:
        tally.problems.append(f"{tally.left} rows unsettled: {'; '.join(books.unsettled[:5])}")
    if tally.broken:
        tally.problems.append(f"{tally.broken} workers broke down")
    tally.problems += [f"a run raised {error}" for error in tally.strange[:5]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.processes", description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-outbox", action="store_true", help="show that losses would be seen")
    chosen = parser.parse_args(arguments)
    for name in ("langchain_vluna", "langchain_core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), durable=not chosen.without_outbox)
        tally = trial(place, workers=chosen.workers, kills=chosen.kills, seed=chosen.seed)
    for name, value in vars(tally).items():
        if name != "problems":
            sys.stdout.write(f"{name:<12} {dict(value) if isinstance(value, dict) else value}\n")
    sys.stdout.writelines(f"WRONG: {problem}\n" for problem in tally.problems)
    return int(bool(tally.problems))


if __name__ == "__main__":
    sys.exit(main())
