"""The scoreboard: every scenario exact for this package, and a board that sees when one is not."""

from __future__ import annotations

import pytest

from benchmarks.scoreboard.board import COLUMNS, ORDER, Row, play, table
from benchmarks.scoreboard.ours import Ours
from benchmarks.scoreboard.scenarios import BASIC


@pytest.mark.parametrize("name", ORDER)
def test_every_scenario_is_exact(name: str):
    """What the model spent is what was charged, nothing was called in vain, asked twice or left open."""
    (row,) = play(Ours, [name])
    assert row.spent == row.charged, row
    assert ("", row.scenario.calls, row.scenario.gate_calls, 0) == (
        row.error,
        row.calls,
        row.gate_calls,
        row.open_leases,
    )
    assert row.exact


@pytest.mark.parametrize(
    "wrong",
    [
        {"charged": {"a": 2, "b": 2}},
        {"charged": {"a": 2, "b": 1}},
        {"charged": {}},
        {"calls": 2},
        {"gate_calls": 4},
        {"gate_calls": None},
        {"open_leases": 1},
        {"error": "KeyError: 'usage'"},
    ],
)
def test_a_row_that_is_wrong_in_anything_is_not_exact(wrong: dict[str, object]):
    """Two customers' tokens mixed up, a lost charge, a call or a lease too many, an error: each shows."""
    right = {"spent": {"a": 1, "b": 2, "c": 0}, "charged": {"a": 1, "b": 2}, "calls": 1, "gate_calls": 2}
    right |= {"open_leases": 0, "scenario": BASIC[0]}
    assert Row(**right).exact  # type: ignore[arg-type]
    row = Row(**{**right, **wrong})  # type: ignore[arg-type]
    assert not row.exact
    assert "NOT EXACT" in table([row])


def test_the_table_has_the_promised_columns():
    """Tokens spent and charged, provider calls, gate calls, open leases."""
    (row,) = play(Ours, ["invoke"])
    head, line = table([row]).splitlines()
    assert list(COLUMNS) == [column for column in COLUMNS if column in head]
    assert ["invoke", "13", "13", "1", "2", "0", "exact"] == line.split()
