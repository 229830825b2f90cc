"""`python -m benchmarks.scoreboard`: every scenario over this package; fails unless every row is exact."""

from __future__ import annotations

import logging
import sys

from benchmarks.scoreboard.board import play, table
from benchmarks.scoreboard.ours import Ours


def main() -> int:
    """Print the table; returns the exit code."""
    logging.disable(logging.WARNING)  # denials are part of the play
    rows = list(play(Ours))
    print(f"{Ours.name} {Ours.version}\n")
    print(table(rows))
    inexact = [row for row in rows if not row.exact]
    print(f"\n{len(rows) - len(inexact)} of {len(rows)} rows exact")
    return 1 if inexact else 0


if __name__ == "__main__":
    sys.exit(main())
