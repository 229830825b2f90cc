"""4. How many requests a run is for the gate."""

from __future__ import annotations

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table

__all__ = ["measure"]


def measure(bench: Bench) -> Table:
    """Count what a stub serves under load, for one busy customer and for a thousand."""
    table = Table(
        4,
        "Requests per run under load",
        ("customers", "at once", "runs", "requests per run", "single commits", "batches", "runs per batch"),
    )
    for customers, at_once in ((1, 1), (1, 20), (1, 100), (1000, 100)):
        with bench.stub(0.01) as url:
            options = {"who": "gated", "url": url, "fast": True, "principals": customers, "tasks": at_once}
            case = Case("benchmarks.cases:async_runs", {"runs": bench.size(4000 if at_once > 1 else 500), **options})
            bench.measure({"load": case}, rounds=1)
            served = bench.served(url)
        table.rows.append(_row(customers, at_once, served))
        if customers == 1 and at_once > 1:
            table.aims.append(Aim(f"one customer, {at_once} at once, requests per run", _per_run(served), 1.1))
    return table


def _per_run(served: Result) -> float:
    return sum(count for verb, count in served.items() if verb != "items") / served["authorize"]


def _row(customers: int, at_once: int, served: Result) -> tuple[float, ...]:
    batches, items = served.get("batch", 0), served.get("items", 0)
    runs, singles = served["authorize"], served.get("commit", 0)
    return customers, at_once, runs, _per_run(served), singles, batches, items / batches if batches else 0.0
