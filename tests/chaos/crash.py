"""The crash matrix: `python -m tests.chaos.crash --runs 500 --seed 1`.

Each run is a chain of processes on one outbox file and one ledger file. Each is killed with SIGKILL at a named point,
the last one flushes, and the ledger is held against the side journal of what the models reported. With `--no-outbox`
the same is done over an outbox in memory, which must show losses: the harness can fail.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tests.chaos.points import POINTS
from tests.chaos.worker import Episode, audited, flush, prepare, work
from tests.support.conservation import Books

__all__ = ["Report", "crash"]

_TIMEOUT = 60.0


@dataclass(frozen=True)
class Found:
    """What an audit found, as one process tells another."""

    counts: dict[str, int]
    problems: list[str]


@dataclass
class Report:
    """What came of all runs."""

    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    """Workers killed, by the point they died at."""
    wrong: Counter[str] = field(default_factory=Counter)
    """What did not add up, by kind."""
    left: int = 0
    """Rows that a flush after the last death did not settle."""
    examples: list[str] = field(default_factory=list)

    def add(self, chain: list[Episode], killed: list[str], found: Found, left: int) -> None:
        """Take in one run."""
        self.runs += 1
        self.kills.update(killed)
        self.wrong.update(found.counts)
        self.left += left
        if (found.problems or left) and len(self.examples) < 10:
            self.examples.append(f"{chain}: {'; '.join(found.problems)}; {left} rows left")

    @property
    def exact(self) -> bool:
        """Whether everything adds up."""
        return not self.wrong.total() and not self.left


def crash(
    *, runs: int, seed: int, in_memory: bool = False, progress: Callable[[Report], object] | None = None
) -> Report:
    """Do the runs; each is repeatable from the seed and its number."""
    report = Report()
    for planned in itertools.islice(_chains(seed, in_memory=in_memory), runs):
        folder = tempfile.mkdtemp(prefix="vluna-crash-")
        chain = [replace(episode, folder=folder) for episode in planned]
        try:
            _one(chain, report)
        finally:
            shutil.rmtree(folder)
        if progress is not None:
            progress(report)
    return report


def _one(chain: list[Episode], report: Report) -> None:
    last = chain[-1]
    _in_process(partial(prepare, chain[0]))
    killed = [str(episode.point) for episode in chain if _in_process(partial(work, episode)) == -signal.SIGKILL]
    left = _in_process(partial(flush, last))
    report.add(chain, killed, _told(partial(audited, last)), left)


def _chains(seed: int, *, in_memory: bool) -> Iterator[list[Episode]]:
    """Yield chains of episodes: every point in turn, everything else by the dice."""
    for number in itertools.count():
        dice = random.Random(f"{seed}-{number}")
        point = POINTS[number % len(POINTS)]
        first = Episode(
            folder="",
            seed=dice.randrange(10**6),
            point=point,
            nth=_nth(point, dice),
            colour=dice.choice(("sync", "async")),
            mode="stream" if point == "mid-stream" else dice.choice(("invoke", "stream", "chain")),
            runs=dice.randint(3, 8),
            rule=dice.choice(("cancel", "cancel", "bill_estimate")),
            durability=dice.choice(("process", "process", "process", "power")),
            in_memory=in_memory,
        )
        if point == "mid-batch":
            # Batches are made of what waits together.
            first = replace(first, colour="async", runs=8)
        chain = [first]
        if point == "during take-over":
            # Somebody has to leave something to take over.
            chain.insert(0, first.then(point=dice.choice(("after usage row", "mid-stream", "after authorize answer"))))
        while dice.random() < 0.3 and len(chain) < 4:
            next_point = dice.choice(POINTS)
            chain.append(chain[-1].then(point=next_point, nth=_nth(next_point, dice)))
        yield chain


def _nth(point: str, dice: random.Random) -> int:
    most = {
        "mid-migration": 30,
        "during take-over": 3,
        "mid-batch": 2,
        "after commit sent": 2,
        "after commit answer": 2,
    }
    return dice.randint(1, most.get(point, 3))


def _in_process(do: Callable[[], object]) -> int:
    """Do something in a process of its own; returns its exit status, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            logging.disable()
            signal.alarm(int(_TIMEOUT))
            status = int(do() or 0)  # type: ignore[call-overload]
        except BaseException:  # noqa: BLE001 -- border of a process: its status tells
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _told(do: Callable[[], Books]) -> Found:
    with tempfile.NamedTemporaryFile("r") as file:

        def tell() -> None:
            books = do()
            found = Found(books.counts(), books.problems())
            Path(file.name).write_text(json.dumps(vars(found)), encoding="utf-8")

        status = _in_process(tell)
        if status:
            message = f"the audit ended with {status}"
            raise RuntimeError(message)
        return Found(**json.loads(Path(file.name).read_text(encoding="utf-8")))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-outbox", action="store_true", help="an outbox in memory, which must show losses")
    options = parser.parse_args()
    began = time.monotonic()

    def show(report: Report) -> None:
        if report.runs % 50 == 0:
            say(f"{report.runs} runs, {report.kills.total()} kills, {dict(report.wrong)}")

    report = crash(runs=options.runs, seed=options.seed, in_memory=options.no_outbox, progress=show)
    say(f"{report.runs} runs in {time.monotonic() - began:.0f} s, {report.kills.total()} processes killed:")
    for point in POINTS:
        say(f"  {report.kills[point]:5} {point}")
    wrong = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.wrong.items())
    say(f"{wrong}, {report.left} left")
    for example in report.examples:
        say(f"  {example}")
    return int(report.exact if options.no_outbox else not report.exact)


if __name__ == "__main__":
    sys.exit(main())
