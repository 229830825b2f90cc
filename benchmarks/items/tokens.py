"""5. What each token of a stream costs more, over a handler that does nothing with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from statistics import median

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table
from benchmarks.subjects import Bare, Gated, IdleHandler

__all__ = ["astreams", "measure", "streams"]

_TIMED = 950
"""Tokens after the first: neither the start nor the end of a stream counts."""


def measure(bench: Bench) -> Table:
    """Measure streams without handler, with an idle one, and gated, in turns in one process: machines change speed."""
    table = Table(
        5,
        "CPU per token, in a stream of 1,000",
        ("stream", "no handler µs", "idle handler µs", "gated µs", "gated - idle µs"),
    )
    for how in ("stream", "astream"):
        case = Case(f"{__name__}:{how}s", {"count": bench.size(100)})
        micro = {name: seconds * 1e6 for name, seconds in bench.measure({how: case})[how].items()}
        table.rows.append((how, micro["none"], micro["idle"], micro["gated"], micro["added"]))
        table.aims.append(Aim(f"{how}, µs per token over an idle handler", micro["added"], 1.0))
    return table


def streams(count: int) -> Iterator[Result]:
    """Read `count` streams of each kind a round."""
    with _subjects() as measured:
        while True:
            yield _medians([{who: _read(one) for who, one in measured.items()} for _ in range(count)])


def astreams(count: int) -> Iterator[Result]:
    """Read `count` async streams of each kind a round."""
    with _subjects() as measured, asyncio.Runner() as runner:
        while True:
            yield _medians([{who: runner.run(_aread(one)) for who, one in measured.items()} for _ in range(count)])


def _medians(spent: list[Result]) -> Result:
    """Return the median of each kind, and of what the gated stream added to the idle one beside it."""
    added = median(one["gated"] - one["idle"] for one in spent)
    return {who: median(one[who] for one in spent) for who in spent[0]} | {"added": added}


def _read(measured: Bare) -> float:
    stream = measured.tokens()
    next(stream)
    begun = time.process_time()
    for _ in islice(stream, _TIMED):
        pass
    spent = time.process_time() - begun
    for _ in stream:
        pass
    measured.settle()
    return spent / _TIMED


async def _aread(measured: Bare) -> float:
    stream = measured.atokens()
    await anext(stream)
    begun = time.process_time()
    for _ in range(_TIMED):
        await anext(stream)
    spent = time.process_time() - begun
    async for _ in stream:
        pass
    measured.settle()
    return spent / _TIMED


@contextmanager
def _subjects() -> Iterator[dict[str, Bare]]:
    measured = {"none": Bare(), "idle": Bare(IdleHandler()), "gated": Gated(outbox=":memory:")}
    try:
        yield measured
    finally:
        measured["gated"].close()
