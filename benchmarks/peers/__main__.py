"""`python -m benchmarks.peers`: the scenarios over this package and its peers, as the table of this folder's README.

What is not installed is left out: `pip install -r benchmarks/peers/requirements.txt`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from typing import Any

from benchmarks.peers.subjects import PEERS
from benchmarks.scoreboard.board import ORDER, Row, play
from benchmarks.scoreboard.ours import Ours


def main() -> None:
    """Print a markdown table: tokens charged of tokens spent, and what is wrong beside them."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    columns = dict(_columns())
    print(f"Tokens charged / tokens spent, {date.today():%Y-%m-%d}.\n")  # noqa: DTZ011 -- the reader's day
    print("| |" + "".join(f" {name} |" for name in columns))
    print("| --- |" + " ---: |" * len(columns))
    for name in ORDER:
        print(f"| {name} |" + "".join(f" {_cell(rows[name])} |" for rows in columns.values()))
    right = (sum(_right(row) for row in rows.values()) for rows in columns.values())
    print("| **right** |" + "".join(f" **{count} of {len(ORDER)}** |" for count in right))


def _columns() -> Iterator[tuple[str, dict[str, Row]]]:
    makes: tuple[Callable[[], Any], ...] = (Ours, *PEERS)
    for make in makes:
        said = StringIO()
        try:
            with redirect_stdout(said):
                rows = {row.scenario.name: row for row in play(make)}
                subject = make()
                subject.close()
        except ImportError as error:
            print(f"{make.__name__} is left out: {error}\n")
            continue
        yield f"{subject.name} {subject.version}", rows


def _cell(row: Row) -> str:
    spent, charged = sum(row.spent.values()), sum(row.charged.values())
    notes = []
    if not row.counted and spent == charged:
        notes.append("wrong customers")
    if row.calls > row.scenario.calls:
        notes.append("not denied")
    if row.open_leases:
        notes.append(f"{row.open_leases} open")
    if row.error:
        notes.append("error")
    figures = f"{charged}/{spent}"
    return f"{figures} ✓" if _right(row) else f"**{' '.join([figures, *notes])}**"


def _right(row: Row) -> bool:
    """Whether a handler got right what it sets out to do: without a gate there are no calls of it to count."""
    return row.counted and not row.error and row.calls == row.scenario.calls and not row.open_leases


if __name__ == "__main__":
    main()
