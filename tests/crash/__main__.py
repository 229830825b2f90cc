"""The long form: `python -m tests.crash --runs 500`."""

from __future__ import annotations

import argparse
import sys

from tests.crash.matrix import run_matrix


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="workers to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-outbox", action="store_true", help="show that the harness sees losses")
    chosen = parser.parse_args()
    verdict = run_matrix(chosen.runs, chosen.seed, durable=not chosen.without_outbox)
    sys.stdout.write(f"{verdict}\n")
    return int(not verdict.clean)


if __name__ == "__main__":
    sys.exit(main())
