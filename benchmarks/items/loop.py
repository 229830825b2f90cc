"""6. How long the event loop stands still while a thousand runs start, wait for the gate, and end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table
from benchmarks.subjects import Bare, Gated, IdleHandler

__all__ = ["measure", "stalls"]

_WAIT = 0.3
_TICK = 0.001
_AROUND = 0.2
"""Seconds of quiet before and after the burst that are part of the look."""


def measure(bench: Bench) -> Table:
    """Measure how late a ticker is called, gated and ungated; the model of both takes as long as the gate."""
    table = Table(
        6,
        "Stalls of the event loop, 1,000 concurrent runs, a gate that answers in 300 ms, a ticker of 1 ms",
        ("runs", "p50 ms", "p99 ms", "p99.9 ms", "longest ms", "seconds in all"),
    )
    runs = bench.size(1000)
    with bench.stub(_WAIT) as url:
        gated = {"who": "gated", "runs": runs, "url": url}
        cases = {
            "ungated": Case(f"{__name__}:stalls", {"who": "bare", "runs": runs}),
            "a handler that does nothing": Case(f"{__name__}:stalls", {"who": "idle", "runs": runs}),
            "gated": Case(f"{__name__}:stalls", gated),
            "gated [fast]": Case(f"{__name__}:stalls", {**gated, "fast": True}),
        }
        found = bench.measure(cases, rounds=4 * bench.rounds)
    for name, result in found.items():
        late = [result[figure] * 1e3 for figure in ("p50", "p99", "p999", "longest")]
        table.rows.append((name, *late, result["seconds"]))
        if name.startswith("gated"):
            added = result["p999"] - found["ungated"]["p999"]
            table.aims.append(Aim(f"{name}, added p99.9 in ms", added * 1e3, 5))
    return table


def stalls(who: str, runs: int, url: str | None = None, *, fast: bool = False) -> Iterator[Result]:
    """Play rounds of `runs` runs that all start at once."""
    handlers = [IdleHandler()] if who == "idle" else []
    measured = Gated(url, fast=fast, delay=_WAIT) if who == "gated" else Bare(*handlers, delay=_WAIT)
    with asyncio.Runner() as runner:
        try:
            runner.run(measured.arun())
            while True:
                yield runner.run(_burst(measured, runs))
        finally:
            runner.run(measured.aclose())
            measured.close()


async def _burst(measured: Bare, runs: int) -> Result:
    lateness: list[float] = []
    ticker = asyncio.create_task(_tick(lateness))
    await asyncio.sleep(_AROUND)
    begun = time.perf_counter()
    await asyncio.gather(*(measured.arun() for _ in range(runs)))
    seconds = time.perf_counter() - begun
    await asyncio.sleep(_AROUND)
    ticker.cancel()
    await asyncio.to_thread(measured.settle)
    lateness.sort()
    count = len(lateness)
    return {
        "p50": lateness[count // 2],
        "p99": lateness[count * 99 // 100],
        "p999": lateness[count * 999 // 1000],
        "longest": lateness[-1],
        "seconds": seconds,
    }


async def _tick(lateness: list[float]) -> None:
    while True:
        due = time.perf_counter() + _TICK
        await asyncio.sleep(_TICK)
        lateness.append(max(0.0, time.perf_counter() - due))
