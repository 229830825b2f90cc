"""7. Whether a run costs the same after a million, and among ten thousand open ones."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from langchain_core.messages import HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table
from benchmarks.subjects import CheapModel, Gated

__all__ = ["many", "measure", "open_at_once"]

_LIMIT = 1.25


def measure(bench: Bench) -> Table:
    """Measure windows of one long life, then windows with ever more runs open. The gate is in the process."""
    table = Table(
        7,
        "Scale: cost of a run as runs add up, and as they stay open",
        ("runs", "CPU µs per run", "memory MB", "outbox MB", "bytes per open run"),
    )
    sizes = [10, 1_000, 10_000] if bench.quick else [10, 1_000, 10_000, 100_000, 1_000_000]
    with_many = Case(f"{__name__}:many", {"sizes": sizes})
    windows = bench.measure({"many": with_many}, rounds=1)["many"]
    for size in sizes:
        row = [windows[f"{figure}{size}"] for figure in ("cpu", "memory", "file")]
        table.rows.append((f"{size:,} done", row[0] * 1e6, row[1] / 1e6, row[2] / 1e6, ""))
    table.aims.append(Aim("last 1,000 over first 1,000 runs, CPU", windows["last"] / windows["first"], _LIMIT))
    table.aims.append(Aim("memory gained after the first 10,000 runs, MB", windows["gained"] / 1e6, 20))
    opened = [10, 500] if bench.quick else [10, 100, 1_000, 10_000]
    at_once = {str(count): Case(f"{__name__}:open_at_once", {"count": count}) for count in opened}
    found = bench.measure(at_once, rounds=bench.rounds + 2)
    for count, result in found.items():
        table.rows.append((f"{int(count):,} open", result["cpu"] * 1e6, "", "", result["bytes"]))
    most, least = found[str(opened[-1])]["cpu"], found[str(opened[1])]["cpu"]
    table.aims.append(Aim(f"{opened[-1]:,} over {opened[1]:,} open, CPU", most / least, _LIMIT))
    return table


def many(sizes: list[int]) -> Iterator[Result]:
    """Do the largest number of runs; look at the last of them whenever one of `sizes` is reached."""
    measured = Gated()
    done, result = 0, {"first": 0.0}
    try:
        measured.run()
        for size in sizes:
            window = min(size - done, 1_000)
            while done < size - window:
                measured.run()
                done += 1
            begun = time.process_time()
            for _ in range(window):
                measured.run()
            measured.settle()
            result[f"cpu{size}"] = (time.process_time() - begun) / window
            done = size
            result[f"memory{size}"] = _memory()
            result[f"file{size}"] = float(sum(f.stat().st_size for f in Path(measured.outbox).parent.iterdir()))
        first, settled = sizes[1], sizes[2]
        result |= {
            "first": result[f"cpu{first}"],
            "last": result[f"cpu{sizes[-1]}"],
            "gained": result[f"memory{sizes[-1]}"] - result[f"memory{settled}"],
        }
        yield result
    finally:
        measured.close()


def open_at_once(count: int) -> Iterator[Result]:
    """Keep `count` runs open while a thousand others come and go. Later rounds reuse the memory of the first."""
    measured = Gated()
    answer = LLMResult(generations=[[ChatGeneration(message=CheapModel()._generate().generations[0].message)]])  # noqa: SLF001 -- our own
    try:
        measured.run()
        first: float | None = None
        while True:
            gc.collect()
            before, ids = _memory(), [uuid4() for _ in range(count)]
            for run_id in ids:
                measured.handler.on_chat_model_start(
                    {"name": "CheapModel"},
                    [[HumanMessage("hello")]],
                    run_id=run_id,
                    metadata={"ls_provider": "bench", "ls_model_name": "cheap-1"},
                )
            first = (_memory() - before) / count if first is None else first
            begun = time.process_time()
            for _ in range(1_000):
                measured.run()
            measured.settle()
            spent = (time.process_time() - begun) / 1_000
            for run_id in ids:
                measured.handler.on_llm_end(answer, run_id=run_id)
            measured.settle()
            yield {"cpu": spent, "bytes": first}
    finally:
        measured.close()


def _memory() -> float:
    """Return the resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return float(pages * 4096)
