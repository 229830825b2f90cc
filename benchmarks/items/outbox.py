"""8. What it costs to write down each run, by durability and by the number of processes at one file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Bench, Case
from benchmarks.report import Table

__all__ = ["measure"]


def measure(bench: Bench) -> Table:
    """Measure gated runs whose gate is in the process, so that the outbox is what differs."""
    table = Table(
        8,
        "Outbox: cost per run by durability, threads and processes at one file",
        ("outbox", "processes", "threads each", "CPU µs per run", "runs per second in all", "p99 ms"),
    )
    kinds = {"no file (:memory:)": (":memory:", "process"), "process": ("disk", "process"), "power": ("disk", "power")}
    for threads in (1, 32):
        cases = {
            name: _case(bench.size(1000), threads, outbox=outbox, durability=durability)
            for name, (outbox, durability) in kinds.items()
        }
        for name, result in bench.measure(cases).items():
            table.rows.append((name, 1, threads, result["cpu"] * 1e6, result["per_second"], result["p99"] * 1e3))
    for durability in ("process", "power"):
        for processes in (4, 8):
            table.rows.append(_shared(bench, durability, processes))
    return table


def _case(runs: int, threads: int, **options: Any) -> Case:
    return Case("benchmarks.cases:blocking_runs", {"who": "gated", "runs": runs, "threads": threads, **options})


def _shared(bench: Bench, durability: str, processes: int) -> tuple[str | float, ...]:
    with tempfile.TemporaryDirectory(prefix="vluna-bench-") as folder:
        case = _case(bench.size(1000), 4, outbox=str(Path(folder) / "outbox"), durability=durability)
        found = bench.together([case] * processes)
    cpu = sum(result["cpu"] for result in found) / processes
    rate = sum(result["per_second"] for result in found)
    return durability, processes, 4, cpu * 1e6, rate, max(result["p99"] for result in found) * 1e3
