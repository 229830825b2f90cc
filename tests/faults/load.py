"""Runs of models, streams, agents and tools that keep a journal of what they used, in threads and in tasks."""

from __future__ import annotations

import asyncio
import itertools
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID, uuid4

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from langchain_vluna import Gate, GateDenied, GateProtocolError, GateUnavailable, LocalGate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.journal import Entry, Journal

__all__ = ["CUSTOMERS", "GRANT", "PRICES", "SHAPES", "Load", "prepare"]

MODEL: Final = "scripted.scripted-1"
TOOL: Final = "tool.add"
INPUT, OUTPUT = f"{MODEL}.tokens.input", f"{MODEL}.tokens.output"
PRICES: Final[Mapping[str, int]] = {INPUT: 3, OUTPUT: 15, TOOL: 1000}
CUSTOMERS: Final = tuple(f"customer_{number}" for number in range(6))
USER: Final = "user_1"
GRANT: Final = 10**12
SHAPES: Final = ("invoke", "stream", "failing", "batch", "agent")
"""What a run may be; each is done in both colours."""


class Failure(Exception):
    """Of a model's provider."""


def prepare(ledger: LocalGate) -> None:
    """Set prices and grants: of customers where the generation has no users, else of their users."""
    ledger.price(MODEL, INPUT, PRICES[INPUT])
    ledger.price(MODEL, OUTPUT, PRICES[OUTPUT])
    ledger.price(TOOL, TOOL, PRICES[TOOL], unit="call")
    for customer in CUSTOMERS:
        ledger.grant(customer, GRANT, None if ledger.generation == "tutorial" else USER)


def answer(messages: list[BaseMessage]) -> AIMessage:
    """Answer as the prompt asks, with tokens that differ from run to run."""
    prompt = str(messages[0].content)
    if prompt.startswith("failing"):
        raise Failure
    number = zlib.crc32(prompt.encode())
    used = number % 997 + len(messages), number % 89 + 1
    usage = UsageMetadata(input_tokens=used[0], output_tokens=used[1], total_tokens=sum(used))
    if prompt.startswith("agent") and not isinstance(messages[-1], ToolMessage):
        call = {"name": "add", "args": {"a": number % 7, "b": 3}, "id": "call_1"}
        return AIMessage("", tool_calls=[call], usage_metadata=usage)
    return AIMessage("That depends.", usage_metadata=usage)


class JournalingModel(ScriptedChatModel):
    """Says what it used to the journal first. A stream has to be told its run id: langchain-core keeps it back."""

    customer: str
    journal: Any

    def _note(self, run_id: UUID, usage: UsageMetadata) -> None:
        meters = {INPUT: usage["input_tokens"], OUTPUT: usage["output_tokens"]}
        self.journal.report(Entry(self.customer, str(run_id), meters))

    def _noted(self, run_id: UUID, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        usage = getattr(chunk.message, "usage_metadata", None)
        if usage:
            self._note(run_id, usage)
        return chunk

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        result = super()._generate(messages, stop, run_manager, **kwargs)
        self._note(run_manager.run_id, getattr(result.generations[0].message, "usage_metadata"))  # noqa: B009 -- AIMessage's own
        return result

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        result = await super()._agenerate(messages, stop, run_manager, **kwargs)
        self._note(run_manager.run_id, getattr(result.generations[0].message, "usage_metadata"))  # noqa: B009 -- AIMessage's own
        return result

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in super()._stream(messages, stop, run_manager, **kwargs):
            yield self._noted(kwargs["told_run_id"], chunk)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield self._noted(kwargs["told_run_id"], chunk)


class Addends(BaseModel):
    a: int
    b: int


class JournalingTool(BaseTool):
    """Adds, and says so to the journal first."""

    name: str = "add"
    description: str = "Add two numbers."
    args_schema: Any = Addends
    customer: str
    journal: Any

    def _run(self, a: int, b: int, run_manager: Any = None) -> int:
        self.journal.report(Entry(self.customer, str(run_manager.run_id), {TOOL: 1}))
        return a + b

    async def _arun(self, a: int, b: int, run_manager: Any = None) -> int:
        return self._run(a, b, run_manager)


class Ends(BaseCallbackHandler):
    """Comes after this package's handler: what it hears of has been recorded."""

    run_inline = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def on_llm_end(self, response: Any, **told: Any) -> None:
        self._journal.end(str(told["run_id"]))

    def on_tool_end(self, output: Any, **told: Any) -> None:
        self._journal.end(str(told["run_id"]))


class Load:
    """Runs against a gate."""

    def __init__(self, gate: Gate, journal: Journal, *, mark: str = "", ends: bool = False, delay: float = 0.0) -> None:
        """`mark` tells the prompts of several loads apart; `ends` notes in the journal which runs were recorded."""
        self.outcomes: Counter[str] = Counter()
        self.strange: list[BaseException] = []
        """Errors that nobody should see."""
        self._mark = mark
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._desks = []
        for customer in CUSTOMERS:
            handler = VlunaCallbackHandler(gate, principal_id=customer, user_id=USER)
            model = JournalingModel(responses=[answer], customer=customer, journal=journal, delay=delay)
            agent = create_agent(model, [JournalingTool(customer=customer, journal=journal)])
            callbacks: list[BaseCallbackHandler] = [handler, Ends(journal)] if ends else [handler]
            self._desks.append((model, agent, {"callbacks": callbacks}))

    def next(self, shapes: tuple[str, ...]) -> tuple[str, str, Any]:
        """Return shape and prompt of the next run, and where to make it."""
        number = next(self._numbers)
        shape = shapes[number % len(shapes)]
        return shape, f"{shape} {self._mark} {number}", self._desks[number // len(shapes) % len(self._desks)]

    def run(self, shapes: tuple[str, ...] = SHAPES) -> None:
        """Make one run, blocking."""
        shape, prompt, (model, agent, config) = self.next(shapes)
        with self._judged():
            match shape:
                case "agent":
                    agent.invoke({"messages": [("user", prompt)]}, config)
                case "stream":
                    run_id = uuid4()
                    list(model.stream(prompt, {**config, "run_id": run_id}, told_run_id=run_id))
                case "batch":
                    model.batch([prompt, f"{prompt}, second"], config)
                case _:
                    model.invoke(prompt, config)

    async def arun(self, shapes: tuple[str, ...] = SHAPES) -> None:
        """Make one run without blocking."""
        shape, prompt, (model, agent, config) = self.next(shapes)
        with self._judged():
            match shape:
                case "agent":
                    await agent.ainvoke({"messages": [("user", prompt)]}, config)
                case "stream":
                    run_id = uuid4()
                    chunks = model.astream(prompt, {**config, "run_id": run_id}, told_run_id=run_id)
                    _ = [chunk async for chunk in chunks]
                case "batch":
                    await model.abatch([prompt, f"{prompt}, second"], config)
                case _:
                    await model.ainvoke(prompt, config)

    def _judged(self) -> _Judged:
        return _Judged(self._judge)

    def _judge(self, error: BaseException | None) -> None:
        match error:
            case None:
                name = "finished"
            case Failure():
                name = "failed"
            case GateUnavailable() | GateProtocolError():
                name = "unavailable"
            case GateDenied():
                name = "denied"
            case _:
                name = "strange"
                self.strange.append(error)
        with self._lock:
            self.outcomes[name] += 1

    def spread(self, runs: int, *, threads: int = 4, tasks: int = 8) -> None:
        """Make `runs` runs, half of them in threads and half in tasks of one event loop."""
        blocking, others = _Share(runs - runs // 2), _Share(runs // 2)

        def work() -> None:
            while blocking.take():
                self.run()

        async def awork() -> None:
            while others.take():
                await self.arun()

        async def loop() -> None:
            await asyncio.gather(*(awork() for _ in range(tasks)))

        workers = [threading.Thread(target=work) for _ in range(threads)]
        workers.append(threading.Thread(target=lambda: asyncio.run(loop())))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


class _Share:
    """So many are left to do."""

    def __init__(self, number: int) -> None:
        self._lock = threading.Lock()
        self._left = number

    def take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


class _Judged:
    """Hands how its block ended to a judge, and goes on."""

    def __init__(self, judge: Callable[[BaseException | None], None]) -> None:
        self._judge = judge

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._judge(error)
        return error is None or isinstance(error, Exception)
