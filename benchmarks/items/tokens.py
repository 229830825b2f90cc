"""5. What each token of a stream costs more, over a handler that does nothing with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from benchmarks.harness import Bench, Case, Result
from benchmarks.report import Aim, Table
from benchmarks.subjects import Bare, Gated

__all__ = ["astreams", "measure", "streams"]

_TIMED = 950
"""Tokens after the first: neither the start nor the end of a stream counts."""


def measure(bench: Bench) -> Table:
    """Measure streams without handler, with an idle one, and gated."""
    table = Table(
        5,
        "CPU per token, in a stream of 1,000",
        ("stream", "no handler µs", "idle handler µs", "gated µs", "gated - idle µs"),
    )
    for how in ("stream", "astream"):
        rounds = f"{__name__}:{'streams' if how == 'stream' else 'astreams'}"
        cases = {who: Case(rounds, {"who": who, "count": bench.size(60)}) for who in ("none", "idle", "gated")}
        micro = {who: result["token"] * 1e6 for who, result in bench.measure(cases, rounds=2 * bench.rounds).items()}
        added = micro["gated"] - micro["idle"]
        table.rows.append((how, micro["none"], micro["idle"], micro["gated"], added))
        table.aims.append(Aim(f"{how}, µs per token over an idle handler", added, 1.0))
    return table


def streams(who: str, count: int) -> Iterator[Result]:
    """Read `count` streams a round."""
    measured = _subject(who)
    try:
        while True:
            spent = 0.0
            for _ in range(count):
                stream = measured.tokens()
                next(stream)
                begun = time.process_time()
                for _ in islice(stream, _TIMED):
                    pass
                spent += time.process_time() - begun
                for _ in stream:
                    pass
                measured.settle()
            yield {"token": spent / count / _TIMED}
    finally:
        measured.close()


def astreams(who: str, count: int) -> Iterator[Result]:
    """Read `count` async streams a round."""
    measured = _subject(who)
    try:
        with asyncio.Runner() as runner:
            while True:
                yield {"token": runner.run(_read(measured, count)) / count / _TIMED}
    finally:
        measured.close()


async def _read(measured: Bare, count: int) -> float:
    spent = 0.0
    for _ in range(count):
        stream = measured.atokens()
        await anext(stream)
        begun = time.process_time()
        for _ in range(_TIMED):
            await anext(stream)
        spent += time.process_time() - begun
        async for _ in stream:
            pass
        measured.settle()
    return spent


class _Idle(BaseCallbackHandler):
    """Takes every token and does nothing."""

    run_inline = True
    raise_error = True

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        return


def _subject(who: str) -> Bare:
    if who == "none":
        return Bare()
    return Bare(_Idle()) if who == "idle" else Gated(outbox=":memory:")
