"""3. Runs per second of one process, all settled, over the official SDK and Cycles' middleware."""

from __future__ import annotations

from benchmarks.harness import Bench, Case
from benchmarks.report import Aim, Table

__all__ = ["measure"]

_BLOCKING, _ASYNC = "benchmarks.cases:blocking_runs", "benchmarks.cases:async_runs"
_AIMS = {20: (2, 3), 100: (4, 10)}
"""By runs at once: how many times the SDK's rate the core install and `[fast]` should reach."""

_MOST_FOR_CYCLES = 100
"""At 500 at once its requests time out while they wait for a connection."""


def measure(bench: Bench) -> Table:
    """Measure tasks against the SDK, and threads against Cycles, because the SDK is async only."""
    table = Table(
        3,
        "Throughput, runs per second, all settled",
        ("at once", "ungated", "gated", "gated [fast]", "vlunaai", "Cycles", "÷ vlunaai", "[fast] ÷ vlunaai"),
    )
    with bench.stub() as url:
        for tasks in (1, 20, 100, 500):
            found = bench.measure(_tasks(url, bench.size(max(600, 2 * tasks)), tasks), rounds=bench.rounds + 2)
            rate = {name: result["per_second"] for name, result in found.items()}
            core, fast = rate["gated"] / rate["sdk"], rate["fast"] / rate["sdk"]
            shown = (rate.get(who, "fails") for who in ("bare", "gated", "fast", "sdk", "cycles"))
            table.rows.append((f"{tasks} tasks", *shown, core, fast))
            if tasks in _AIMS:
                table.aims.append(Aim(f"core install at {tasks}, ÷ vlunaai", core, _AIMS[tasks][0], at_least=True))
                table.aims.append(Aim(f"[fast] at {tasks}, ÷ vlunaai", fast, _AIMS[tasks][1], at_least=True))
        for threads in (8, 64):
            found = bench.measure(_threads(url, bench.size(600), threads))
            rate = {name: result["per_second"] for name, result in found.items()}
            table.rows.append(
                (f"{threads} threads", rate["bare"], rate["gated"], rate["fast"], "", rate["cycles"], "", "")
            )
    return table


def _tasks(url: str, runs: int, tasks: int) -> dict[str, Case]:
    load = {"runs": runs, "tasks": tasks}
    cases = {
        "bare": Case(_ASYNC, {"who": "bare", **load}),
        "gated": Case(_ASYNC, {"who": "gated", "url": url, **load}),
        "fast": Case(_ASYNC, {"who": "gated", "url": url, "fast": True, **load}),
        "sdk": Case(_ASYNC, {"who": "sdk", "url": url, **load}),
    }
    if tasks <= _MOST_FOR_CYCLES:
        cases["cycles"] = Case(_ASYNC, {"who": "cycles", "url": url, **load})
    return cases


def _threads(url: str, runs: int, threads: int) -> dict[str, Case]:
    load = {"runs": runs, "threads": threads}
    return {
        "bare": Case(_BLOCKING, {"who": "bare", **load}),
        "gated": Case(_BLOCKING, {"who": "gated", "url": url, **load}),
        "fast": Case(_BLOCKING, {"who": "gated", "url": url, "fast": True, **load}),
        "cycles": Case(_BLOCKING, {"who": "cycles", "url": url, **load}),
    }
