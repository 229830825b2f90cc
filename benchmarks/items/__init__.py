"""The items, by number: what is measured, against what, and which figure is aimed at."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import Bench
from benchmarks.items import agent, cpu, imports, latency, loop, outbox, requests, scale, throughput, tokens
from benchmarks.report import Table

__all__ = ["ALL"]

ALL: dict[int, Callable[[Bench], Table]] = {
    1: latency.measure,
    2: cpu.measure,
    3: throughput.measure,
    4: requests.measure,
    5: tokens.measure,
    6: loop.measure,
    7: scale.measure,
    8: outbox.measure,
    9: imports.measure,
    10: agent.measure,
}
