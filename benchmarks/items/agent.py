"""10. A whole agent: twenty model runs and forty tool runs, gated over ungated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Table
from benchmarks.subjects import Gated
from langchain_vluna.testing.models import ScriptedChatModel

__all__ = ["agents", "measure"]

_CALLS = [2] * 17 + [3] * 2 + [0]
"""Tools called by each of the twenty model runs: forty in all."""


def measure(bench: Bench) -> Table:
    """Measure an agent of LangChain on LangGraph, blocking and async, with a gate at once and one of 10 ms."""
    table = Table(
        10,
        "Agent with 20 model and 40 tool runs, gated over ungated",
        (
            "agent",
            "gate",
            "ungated ms",
            "gated ms",
            "wall ÷",
            "ungated CPU ms",
            "gated CPU ms",
            "CPU ÷",
            "added ms a run",
        ),
    )
    for wait in (0, 10):
        with bench.stub(wait / 1000) as url:
            cases = {
                f"{call} {who}": Case(f"{__name__}:agents", {"call": call, "url": url if who == "gated" else None})
                for call in ("invoke", "ainvoke")
                for who in ("ungated", "gated")
            }
            found = bench.measure(cases)
        for call in ("invoke", "ainvoke"):
            bare, gated = found[f"{call} ungated"], found[f"{call} gated"]
            added = (gated["wall"] - bare["wall"]) / 60
            table.rows.append(
                (call, f"{wait} ms", *_compared(bare, gated, "wall"), *_compared(bare, gated, "cpu"), added * 1e3)
            )
    return table


def _compared(bare: Result, gated: Result, figure: str) -> tuple[float, float, float]:
    return bare[figure] * 1e3, gated[figure] * 1e3, gated[figure] / bare[figure]


def agents(call: str, url: str | None) -> Iterator[Result]:
    """Run one agent a round, after one to warm up."""
    gated = Gated(url, fast=True) if url else None
    config: Any = {"callbacks": [gated.handler] if gated else [], "recursion_limit": 100}
    agent: Any = _agent()
    question = {"messages": [("user", "go on")]}
    with asyncio.Runner() as runner:
        try:
            for number in range(1_000_000):
                begun, spent = time.perf_counter(), time.process_time()
                if call == "invoke":
                    agent.invoke(question, config)
                else:
                    runner.run(agent.ainvoke(question, config))
                wall = time.perf_counter() - begun
                if gated:
                    gated.settle()
                if number:
                    yield {"wall": wall, "cpu": time.process_time() - spent}
        finally:
            if gated:
                runner.run(gated.aclose())
                gated.close()


def _agent() -> Any:
    from langchain.agents import create_agent

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    return create_agent(ScriptedChatModel(responses=[_turn(turn, count) for turn, count in enumerate(_CALLS)]), [add])


def _turn(turn: int, count: int) -> AIMessage:
    calls = [{"name": "add", "args": {"a": turn, "b": n}, "id": f"call_{turn}_{n}"} for n in range(count)]
    return AIMessage("" if calls else "done", tool_calls=calls)
