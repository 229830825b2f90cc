"""1. What a caller waits for the gate, over one bare authorize round trip."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table

__all__ = ["measure"]

_WAITS = (0, 10, 50)
_COMPARED = 10
"""Milliseconds of the gate at which the aim is set."""
_BLOCKING, _ASYNC = "benchmarks.cases:blocking_runs", "benchmarks.cases:async_runs"


def measure(bench: Bench) -> Table:
    """Measure gated minus ungated runs, one at a time."""
    table = Table(
        1,
        "Latency added to a call, over one bare authorize round trip",
        ("gate", "call", "added p50 ms", "added p99 ms", "bare round trip p50 ms", "by", "added / bare p50", "p99"),
    )
    for wait in _WAITS:
        with ExitStack() as stack:
            url = stack.enter_context(bench.stub(wait / 1000))
            found = bench.measure(_cases(url, bench.size(400 if wait < _COMPARED else 200)))
        for call, gated in (("invoke", "gated"), ("ainvoke", "agated"), ("ainvoke [fast]", "afast")):
            by, trip = _fastest(
                found, ("raw_socket", "http_client") if call == "invoke" else ("araw_socket", "aiohttp")
            )
            ungated = found["bare" if call == "invoke" else "abare"]
            added = {figure: found[gated][figure] - ungated[figure] for figure in ("p50", "p99")}
            ratios = {figure: added[figure] / trip[figure] for figure in added}
            table.rows.append(
                (f"{wait} ms", call, added["p50"] * 1e3, added["p99"] * 1e3, trip["p50"] * 1e3, by, *ratios.values())
            )
            if wait == _COMPARED:
                table.aims.append(Aim(f"{call}, gate of {wait} ms, p50", ratios["p50"], 1.3))
    return table


def _cases(url: str, runs: int) -> dict[str, Case]:
    return {
        "bare": Case(_BLOCKING, {"who": "bare", "runs": runs}),
        "gated": Case(_BLOCKING, {"who": "gated", "runs": runs, "url": url}),
        "raw_socket": Case(_BLOCKING, {"who": "raw_socket", "runs": runs, "url": url}),
        "http_client": Case(_BLOCKING, {"who": "http_client", "runs": runs, "url": url}),
        "abare": Case(_ASYNC, {"who": "bare", "runs": runs}),
        "agated": Case(_ASYNC, {"who": "gated", "runs": runs, "url": url}),
        "afast": Case(_ASYNC, {"who": "gated", "runs": runs, "url": url, "fast": True}),
        "araw_socket": Case(_ASYNC, {"who": "raw_socket", "runs": runs, "url": url}),
        "aiohttp": Case(_ASYNC, {"who": "aiohttp", "runs": runs, "url": url}),
    }


def _fastest(found: dict[str, Result], names: tuple[str, ...]) -> tuple[str, Result]:
    best = min(names, key=lambda name: found[name]["p50"])
    return best.removeprefix("a" if best.startswith("araw") else "").replace("_", " "), found[best]
