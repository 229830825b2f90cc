"""`python -m tests.fuzz --requests 1000000`: random requests until something breaks, or until enough."""

# ruff: noqa: T201 -- a command talks
from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.drive import Report, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="the same requests again")
    options = parser.parse_args()
    start = time.monotonic()

    def tell(report: Report) -> None:
        rate = report.requests / (time.monotonic() - start)
        print(f"{report.requests:>9,} requests, {rate:,.0f}/s, {dict(sorted(report.statuses.items()))}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(Path(folder), requests=options.requests, seed=options.seed, tell=tell)
    for problem in report.problems:
        print(f"seed {options.seed}, request {report.requests}: {problem[:2000]}")
    if not report.problems:
        print(
            f"seed {options.seed}: {report.requests:,} requests, no server error,"
            f" {len(report.commits):,} ratings that add up"
        )
    return bool(report.problems)


sys.exit(main())
