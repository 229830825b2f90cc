"""Playing the scenarios, and the table of what came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks.scoreboard.agents import AGENTS
from benchmarks.scoreboard.desk import Desk, Subject
from benchmarks.scoreboard.scenarios import BASIC, Scenario

__all__ = ["COLUMNS", "ORDER", "Row", "play", "table"]

ORDER = (
    "invoke",
    "second call from cache",
    "stream",
    "aborted stream",
    "cancelled ainvoke",
    "timed-out agent",
    "batch of 10",
    "parallel branches",
    "n = 3",
    "retries",
    "fallback",
    "tool error",
    "interrupt + resume",
    "nested agents",
    "50 customers",
    "handler attached twice",
    "another handler aborting after ours",
    "one of two prompts denied",
    "a graph's stream broken",
    "handler + middleware",
    "structured output",
    "embeddings",
)
COLUMNS = ("tokens spent", "tokens charged", "provider calls", "gate calls", "open leases")


@dataclass(frozen=True)
class Row:
    """What came of one scenario."""

    scenario: Scenario
    spent: dict[str, int]
    charged: dict[str, int]
    calls: int
    gate_calls: int | None
    open_leases: int | None
    error: str = ""

    @property
    def counted(self) -> bool:
        """Whether each customer was charged what the model spent for it."""
        return _without_zeros(self.spent) == _without_zeros(self.charged)

    @property
    def exact(self) -> bool:
        """Whether all else is as it should be, too: nothing called in vain, nothing asked twice, nothing left open."""
        return (
            self.counted
            and not self.error
            and self.calls == self.scenario.calls
            and self.gate_calls == self.scenario.gate_calls
            and self.open_leases == 0
        )

    def cells(self) -> tuple[str, ...]:
        figures = (sum(self.spent.values()), sum(self.charged.values()), self.calls, self.gate_calls, self.open_leases)
        return tuple("-" if figure is None else str(figure) for figure in figures)


def play(make: Callable[[], Subject], names: Iterable[str] = ORDER) -> Iterator[Row]:
    """Play scenarios in order, each with a subject of its own."""
    known = {scenario.name: scenario for scenario in (*BASIC, *AGENTS)}
    for name in names:
        subject = make()
        try:
            yield _row(known[name], Desk(subject))
        finally:
            subject.close()


def table(rows: Iterable[Row]) -> str:
    """Return a table for a terminal."""
    lines: list[tuple[str, ...]] = [("", *COLUMNS, "")]
    lines += [(row.scenario.name, *row.cells(), "exact" if row.exact else f"NOT EXACT {row.error}") for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in {0, len(line) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _row(scenario: Scenario, desk: Desk) -> Row:
    error = ""
    try:
        scenario.play(desk)
    except Exception as failure:  # noqa: BLE001 -- a handler that breaks the call it meters is a finding
        error = f"{type(failure).__name__}: {failure}"[:80]
    desk.subject.settle()
    return Row(
        scenario,
        dict(desk.truth.tokens),
        desk.subject.charged(),
        desk.truth.calls,
        desk.subject.gate_calls(),
        desk.subject.open_leases(),
        error,
    )


def _without_zeros(tokens: dict[str, int]) -> dict[str, int]:
    return {customer: count for customer, count in tokens.items() if count}
