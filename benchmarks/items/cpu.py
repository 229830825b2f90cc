"""2. What gating costs in CPU, over the official SDK by hand and over Cycles' middleware."""

from __future__ import annotations

from benchmarks.harness import Bench, Case
from benchmarks.report import Aim, Table

__all__ = ["measure"]

_BLOCKING, _ASYNC = "benchmarks.cases:blocking_runs", "benchmarks.cases:async_runs"
_AT_ONCE = (1, 20)


def measure(bench: Bench) -> Table:
    """Measure CPU of the whole process per run: relay, outbox on disk and final flush included."""
    table = Table(
        2,
        "CPU per gated run, outbox on disk, over the SDK and Cycles",
        ("runs", "at once", "gated - ungated µs", "vlunaai µs", "Cycles µs", "÷ vlunaai", "÷ Cycles"),
    )
    with bench.stub() as url:
        for at_once in _AT_ONCE:
            found = bench.measure(_cases(url, bench.size(250), at_once), rounds=4 * bench.rounds)
            micro = {name: result["cpu"] * 1e6 for name, result in found.items()}
            for how, gated, bare, cycles in (
                ("invoke", "gated", "bare", "cycles"),
                ("invoke [fast]", "fast", "bare", "cycles"),
                ("ainvoke", "agated", "abare", "acycles"),
                ("ainvoke [fast]", "afast", "abare", "acycles"),
            ):
                own = micro[gated] - micro[bare]
                over_sdk, over_cycles = own / micro["sdk"], own / micro[cycles]
                table.rows.append((how, at_once, own, micro["sdk"], micro[cycles], over_sdk, over_cycles))
                table.aims.append(Aim(f"{how}, {at_once} at once, ÷ vlunaai", over_sdk, 0.35))
                table.aims.append(Aim(f"{how}, {at_once} at once, ÷ Cycles", over_cycles, 0.5))
    return table


def _cases(url: str, runs: int, at_once: int) -> dict[str, Case]:
    blocking = {"runs": runs, "threads": at_once}
    concurrent = {"runs": runs, "tasks": at_once}
    return {
        "bare": Case(_BLOCKING, {"who": "bare", **blocking}),
        "gated": Case(_BLOCKING, {"who": "gated", "url": url, **blocking}),
        "fast": Case(_BLOCKING, {"who": "gated", "url": url, "fast": True, **blocking}),
        "cycles": Case(_BLOCKING, {"who": "cycles", "url": url, **blocking}),
        "abare": Case(_ASYNC, {"who": "bare", **concurrent}),
        "agated": Case(_ASYNC, {"who": "gated", "url": url, **concurrent}),
        "afast": Case(_ASYNC, {"who": "gated", "url": url, "fast": True, **concurrent}),
        "acycles": Case(_ASYNC, {"who": "cycles", "url": url, **concurrent}),
        "sdk": Case(_ASYNC, {"who": "sdk", "url": url, **concurrent}),
    }
