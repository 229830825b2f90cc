"""What settling costs and how long it takes: `python -m tests.chaos.measure`. The figures of docs/settlement.md."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sys
import tempfile
import threading
import time
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from langchain_vluna import Gate, GateDenied, LocalGate, VlunaCallbackHandler
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import HttpRequest, HttpResponse, Identity
from langchain_vluna._io.client.drivers import drive
from langchain_vluna._io.outbox import Outbox, Row, rows
from langchain_vluna.testing.models import ScriptedChatModel
from tests.chaos.memory import PromptGate

__all__ = ["cost", "end_to_settled", "overspend", "writes"]

FEATURE = "scripted.scripted-1"
AUTHORIZE, COMMIT, ITEM = 0.010, 0.026, 0.020
"""Seconds that a real gate takes to authorize, to commit, and for each item of a batch."""
_RUN_ID = re.compile(rb'"run_id": ?"([^"]+)"')


class Distant:
    """A local gate as far away as a real one; `settle` is what it takes to settle, where that is not as usual."""

    def __init__(self, gate: LocalGate, *, near: bool = False, settle: float | None = None) -> None:
        self._gate = gate
        self._near = near
        self._settle = settle
        self.settings = gate.settings
        self.settled: dict[str, float] = {}
        """When the gate had charged each run, by run id."""

    def send(self, request: HttpRequest) -> HttpResponse:
        threading.Event().wait(self._seconds(request))
        answer = self._gate.send(request)
        self._note(request)
        return answer

    async def asend(self, request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(self._seconds(request))
        answer = await self._gate.asend(request)
        self._note(request)
        return answer

    def close(self) -> None:
        self._gate.close()

    async def aclose(self) -> None:
        self._gate.close()

    def _seconds(self, request: HttpRequest) -> float:
        if request.target.endswith("/authorize"):
            return 0.0 if self._near else AUTHORIZE
        if self._settle is not None:
            return self._settle
        if request.target.endswith("/batch"):
            return 0.0 if self._near else ITEM * len(_RUN_ID.findall(request.content))
        return 0.0 if self._near else COMMIT

    def _note(self, request: HttpRequest) -> None:
        if "/commits" in request.target:
            now = time.monotonic()
            self.settled.update((run_id.decode(), now) for run_id in _RUN_ID.findall(request.content))


class Ends(BaseCallbackHandler):
    """Comes after the package's handler, and notes when each run had ended for its caller."""

    run_inline = True

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def on_llm_end(self, response: Any, **told: Any) -> None:
        self.at[str(told["run_id"])] = time.monotonic()


def _ledger(path: str, grant: int = 10**12) -> LocalGate:
    ledger = LocalGate(path)
    for side in ("input", "output"):
        ledger.price(FEATURE, f"{FEATURE}.tokens.{side}", 1)
    ledger.grant("customer", grant)
    return ledger


def end_to_settled(*, runs: int, every: float, distant: bool) -> list[float]:
    """Return, sorted, the seconds from the end of a run until the gate has charged it, at a steady rate of runs."""
    with tempfile.TemporaryDirectory() as folder:
        line, ends = Distant(_ledger(":memory:"), near=not distant), Ends()
        gate = Gate(line, outbox=f"{folder}/vluna.outbox", wire="tutorial", deny_memo=0)
        config: Any = {"callbacks": [VlunaCallbackHandler(gate, principal_id="customer"), ends]}

        async def load() -> None:
            model, tasks = ScriptedChatModel(), []
            for _ in range(runs):
                tasks.append(asyncio.create_task(model.ainvoke("hello", config)))
                await asyncio.sleep(every)
            await asyncio.gather(*tasks)

        asyncio.run(load())
        left = gate.flush(30)
        gate.close()
    if left or len(ends.at) != runs:
        message = f"{left} of {runs} runs were not settled, {len(ends.at)} ended"
        raise RuntimeError(message)
    return sorted(max(0.0, line.settled[run] - at) for run, at in ends.at.items())


def overspend(*, max_unsettled: int, at_once: int, settle: float) -> int:
    """Return how many runs a customer gets who has money for less than one, where settling takes so many seconds."""
    ledger = _ledger(":memory:", grant=1)
    line = Distant(ledger, settle=settle)
    gate = Gate(line, wire="tutorial", max_unsettled=max_unsettled, deny_memo=0, timeout=10 * settle + 10)
    handler = VlunaCallbackHandler(gate, principal_id="customer")
    model = ScriptedChatModel()

    async def spend() -> None:
        while True:
            await model.ainvoke("hello", {"callbacks": [handler]})

    async def agents() -> list[Any]:
        return await asyncio.gather(*(spend() for _ in range(at_once)), return_exceptions=True)

    strange = [error for error in asyncio.run(agents()) if not isinstance(error, GateDenied)]
    left = gate.flush(60)
    runs = len(ledger.ratings())
    gate.close()
    if left or strange:
        message = f"{left} rows are left; {strange}"
        raise RuntimeError(message)
    return runs


def cost(*, outbox: str | None, durability: Any, runs: int) -> float:
    """Return the seconds of CPU per run, 50 at a time, with a gate that answers at once."""
    gate = Gate(PromptGate(), wire="tutorial", outbox=outbox or ":memory:", durability=durability, max_unsettled=10**6)
    handler = VlunaCallbackHandler(gate, principal_id="customer")
    model = ScriptedChatModel()

    async def some(count: int) -> None:
        for _ in range(count):
            await model.ainvoke("hello", {"callbacks": [handler]})

    async def load(count: int) -> None:
        await asyncio.gather(*(some(count // 50) for _ in range(50)))

    asyncio.run(load(250))
    used = time.process_time()
    asyncio.run(load(runs))
    gate.flush(30)
    seconds = time.process_time() - used
    gate.close()
    return seconds / runs


def writes(path: str, durability: Any, *, runs: int) -> list[float]:
    """Return, sorted, the seconds that each of the three writes takes for which a run waits."""
    outbox = Outbox(path, durability=durability)
    took: list[float] = []

    def write(operation: Any) -> None:
        began = time.perf_counter()
        drive(outbox.record(operation), PromptGate(), time.sleep)
        took.append(time.perf_counter() - began)

    for number in range(runs):
        attempt, ask = f"{number:032}", {"feature_code": FEATURE}
        row = Row(attempt, Identity("customer"), attempt, attempt, ask, owner=outbox.owner_id, due=outbox.clock())
        usage = {"usage": {"feature_code": FEATURE, "quantity_minor": "17"}}
        write(lambda db, row=row: rows.begin(db, row))
        write(lambda db, at=attempt: rows.advance(db, at, Event.ADMITTED, {"handle": "lease"}, State.ASKING))
        write(lambda db, at=attempt, usage=usage: rows.advance(db, at, Event.USED, usage, State.OPEN))
        outbox.apply(lambda db, at=attempt: rows.advance(db, at, Event.COMMITTED, {}, State.COMMITTING))  # type: ignore[misc]
    outbox.close()
    return sorted(took)


def main() -> int:
    logging.disable()
    say("from the end of a run to its settlement, 50 runs a second, in ms:")
    for distant in (False, True):
        times = end_to_settled(runs=400, every=0.02, distant=distant)
        where = "a gate with the latency of a real one" if distant else "the local gate in process"
        say(f"  {where}: p50 {_ms(times, 0.5)}, p99 {_ms(times, 0.99)}, at most {_ms(times, 1.0)}")
    say("runs of a customer who has money for less than one, max_unsettled 1, 10, 100:")
    for settle, where in ((COMMIT, "a gate that settles in 26 ms"), (6.0, "a gate that settles in 6 s")):
        for at_once in (1, 10):
            counts = [overspend(max_unsettled=most, at_once=at_once, settle=settle) for most in (1, 10, 100)]
            say(f"  {where}, {at_once} at a time: {counts}")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        say("each of the three writes that a run waits for, in microseconds:")
        for durability in ("process", "power"):
            took = writes(f"{folder}/{durability}.writes", durability, runs=500)
            p50, p99 = (1e6 * took[int(len(took) * quantile)] for quantile in (0.5, 0.99))
            say(f"  {durability:8}: p50 {p50:.0f}, p99 {p99:.0f}")
        say("one run with its settlement, 50 at a time, in microseconds of CPU:")
        for name in (":memory:", "process", "power"):
            path = None if name == ":memory:" else f"{folder}/{name}.outbox"
            durability = "power" if name == "power" else "process"
            say(f"  {name:8}: {1e6 * min(cost(outbox=path, durability=durability, runs=500) for _ in range(4)):.0f}")
    return 0


def _ms(times: list[float], quantile: float) -> int:
    return math.ceil(1000 * times[min(len(times) - 1, int(len(times) * quantile))])


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
