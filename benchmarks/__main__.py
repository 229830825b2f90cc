"""`python -m benchmarks`: everything side by side in one run, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import items
from benchmarks.harness import Bench
from benchmarks.report import Table, as_json, as_markdown, machine

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns 0 whether or not aims are met, because a noisy machine is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="1,2", help="items to measure, by number")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case; medians are shown")
    parser.add_argument("--quick", action="store_true", help="small rounds, to see that everything runs")
    parser.add_argument("--json", type=Path, help="file for the results as JSON")
    parser.add_argument("--markdown", type=Path, help="file for the results as a table")
    given = parser.parse_args(arguments)
    about = machine() | {"rounds": given.rounds, "quick": given.quick}
    bench = Bench(given.rounds, given.quick)
    chosen = {int(number) for number in given.only.split(",")} if given.only else set(items.ALL)
    tables: list[Table] = []
    for number, measure in items.ALL.items():
        if number in chosen:
            begun = time.monotonic()
            tables.append(measure(bench))
            print(tables[-1], flush=True)
            print(f"({time.monotonic() - begun:.0f} s)\n", file=sys.stderr, flush=True)
            _write(given, tables, about)
    return 0


def _write(given: argparse.Namespace, tables: list[Table], about: dict[str, object]) -> None:
    if given.json:
        given.json.write_text(json.dumps(as_json(tables, about), indent=1), encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(as_markdown(tables, about), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
