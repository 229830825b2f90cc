"""The fault matrix at length: `python -m tests.faults --runs 10000 --seed 1`.

Ends with 1 where anything does not add up.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.matrix import CASES, Trial, attempt

__all__ = ["main"]

_PART = 500
"""Runs of one trial; each has a gate, a ledger, a proxy and an outbox of its own."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.3, help="share of requests that are hit")
    chosen = parser.parse_args(arguments)
    for name in ("langchain_vluna", "langchain_core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    began = time.monotonic()
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-(-chosen.runs // _PART)):
            runs = min(_PART, chosen.runs - number * _PART)
            trial = attempt(
                CASES[number % len(CASES)], Path(folder), runs=runs, seed=chosen.seed * 1000 + number, rate=chosen.rate
            )
            trials.append(trial)
            say(f"trial {number}: {runs} runs ({trial.case}) in {trial.seconds:.1f} s")
            for problem in trial.problems():
                say(f"    WRONG: {problem}")
    say(table(trials))
    say(f"\nseed {chosen.seed}, {time.monotonic() - began:.0f} s")
    return int(any(trial.problems() for trial in trials))


def table(trials: list[Trial]) -> str:
    """Return what happened over all trials."""
    outcomes, injected, wrong = Counter[str](), Counter[str](), Counter[str]()
    units = Counter[str]()
    for trial in trials:
        outcomes.update(trial.outcomes)
        injected.update(trial.injected)
        wrong.update(trial.books.counts())
        for sums in trial.books.sums.values():
            units.update({name: getattr(sums, name) for name in ("reported", "applied", "alarmed", "pending")})
    parts = [
        ("runs asked for", outcomes, ("finished", "failed", "unavailable", "denied", "strange")),
        (f"faults in {sum(trial.requests for trial in trials)} requests", injected, tuple(sorted(injected))),
        ("units", units, ("reported", "applied", "alarmed", "pending")),
        (
            f"of {sum(trial.books.runs for trial in trials)} model and tool runs",
            wrong,
            ("lost", "double", "divergent", "phantom", "open_leases", "money", "unbalanced", "unsettled"),
        ),
    ]
    lines = []
    for title, numbers, names in parts:
        lines.append(f"\n{title}: {sum(numbers[name] for name in names) if numbers is not units else ''}".rstrip(": "))
        lines += [f"    {name:<16} {numbers[name]:>10,}" for name in names]
    return "\n".join(lines)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
