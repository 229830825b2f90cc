"""One process of the crash matrix: real LangChain runs over an outbox file and a ledger file, until it is killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate

from langchain_vluna import Gate, LocalGate, VlunaCallbackHandler
from langchain_vluna._io.outbox import Outbox, Row, rows
from langchain_vluna.testing.models import ScriptedChatModel
from tests.chaos.points import Death, Tapped, tap
from tests.support.conservation import Books, Rule, audit
from tests.support.journal import Entry, Journal

__all__ = ["CUSTOMERS", "Episode", "audited", "flush", "prepare", "work"]

CUSTOMERS = ("ada", "bob")
FEATURE = "scripted.scripted-1"
INPUT, OUTPUT = f"{FEATURE}.tokens.input", f"{FEATURE}.tokens.output"
PRICES = {INPUT: 2, OUTPUT: 3}
_MID_STREAM = 2


@dataclass(frozen=True)
class Episode:
    """What a worker does, and where it dies."""

    folder: str
    seed: int
    point: str | None = None
    nth: int = 1
    colour: Literal["sync", "async"] = "sync"
    mode: Literal["invoke", "stream", "chain"] = "invoke"
    runs: int = 6
    rule: Rule = "cancel"
    durability: Literal["process", "power"] = "process"
    in_memory: bool = False
    """Without an outbox file: what the harness must show to be lossy."""

    @property
    def ledger(self) -> str:
        return f"{self.folder}/ledger.db"

    @property
    def outbox(self) -> str:
        return ":memory:" if self.in_memory else f"{self.folder}/vluna.outbox"

    @property
    def journal(self) -> Path:
        return Path(self.folder, "journal")

    def options(self) -> dict[str, Any]:
        return {"outbox": self.outbox, "on_orphan": self.rule, "durability": self.durability, "wire": "tutorial"}

    def then(self, **changes: Any) -> Episode:
        return replace(self, seed=self.seed + 1, **changes)


class JournalledModel(ScriptedChatModel):
    """Writes down what it reports, as a provider's own books would."""

    journal: Any
    death: Any
    customer: str
    run: Any = None
    """The `_Witness` of the one run that it serves at a time."""

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        result = super()._generate(messages, stop, run_manager, **kw)
        self._reported(result.generations[0].message)
        return result

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        result = await super()._agenerate(messages, stop, run_manager, **kw)
        self._reported(result.generations[0].message)
        return result

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> Iterator[ChatGenerationChunk]:
        for index, chunk in enumerate(super()._stream(messages, stop, run_manager, **kw)):
            self._streamed(index, chunk)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        index = 0
        async for chunk in super()._astream(messages, stop, run_manager, **kw):
            self._streamed(index, chunk)
            index += 1
            yield chunk

    def _streamed(self, index: int, chunk: ChatGenerationChunk) -> None:
        if index == _MID_STREAM:
            self.death.passes("mid-stream")
        self._reported(chunk.message)

    def _reported(self, message: Any) -> None:
        usage = message.usage_metadata
        if usage is not None:
            meters = {INPUT: usage["input_tokens"], OUTPUT: usage["output_tokens"]}
            self.journal.report(Entry(self.customer, str(self.run.run_id), meters))
            self.death.passes("after provider answer")


class _Witness(BaseCallbackHandler):
    """Comes after the package's handler: writes down that a run was let in, and knows its id for the model."""

    run_inline = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.run_id: object = None

    def on_chat_model_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.run_id = run_id
        self._journal.admit(str(run_id))


def prepare(episode: Episode) -> None:
    """Set up the ledger: prices and money."""
    Path(episode.folder).mkdir(parents=True, exist_ok=True)
    ledger = LocalGate(episode.ledger)
    for meter, price in PRICES.items():
        ledger.price(FEATURE, meter, price)
    for customer in CUSTOMERS:
        ledger.grant(customer, 10**9)
    ledger.close()
    episode.journal.touch()


def work(episode: Episode) -> None:
    """Do the episode's runs. Returns only if its point was never reached."""
    death, journal = Death(episode.point, episode.nth), Journal(episode.journal)
    tap(death, journal.end)
    gate = Gate(Tapped(LocalGate(episode.ledger), death), **episode.options())
    dice = random.Random(episode.seed)
    calls = [_call(gate, death, journal, dice, episode.mode) for _ in range(episode.runs)]
    if episode.colour == "async":
        asyncio.run(_together([call.arun() for call in calls]))
    else:
        for call in calls:
            call.run()
    gate.flush(10)
    gate.close()


@dataclass
class _Call:
    runnable: Any
    config: dict[str, Any]
    stream: bool

    def run(self) -> None:
        if self.stream:
            list(self.runnable.stream({"text": "hello"}, self.config))
        else:
            self.runnable.invoke({"text": "hello"}, self.config)

    async def arun(self) -> None:
        if self.stream:
            async for _ in self.runnable.astream({"text": "hello"}, self.config):
                pass
        else:
            await self.runnable.ainvoke({"text": "hello"}, self.config)


def _call(gate: Gate, death: Death, journal: Journal, dice: random.Random, mode: str) -> _Call:
    customer = dice.choice(CUSTOMERS)
    tokens = dice.randint(1, 500), dice.randint(1, 500)
    usage = UsageMetadata(input_tokens=tokens[0], output_tokens=tokens[1], total_tokens=sum(tokens))
    answer = AIMessage("one two three four five six", usage_metadata=usage)
    witness = _Witness(journal)
    model = JournalledModel(responses=[answer], journal=journal, death=death, customer=customer, run=witness)
    handler = VlunaCallbackHandler(gate, principal_id=customer)
    runnable = ChatPromptTemplate.from_template("Say {text}") | model
    return _Call(runnable, {"callbacks": [handler, witness]}, mode == "stream")


async def _together(calls: list[Any]) -> None:
    await asyncio.gather(*calls)


def flush(episode: Episode) -> int:
    """Be the next process: take over what is left and settle it; returns how many rows could not be."""
    gate = Gate(LocalGate(episode.ledger), **episode.options())
    try:
        return gate.flush(30)
    finally:
        gate.close()


def audited(episode: Episode) -> Books:
    """Hold the episode's ledger and outbox against its journal."""
    ledger = LocalGate(episode.ledger)
    left: list[Row] = []
    if not episode.in_memory:
        outbox = Outbox(episode.outbox)
        left = outbox.query(lambda db: rows.select(db, "1"))
        outbox.close()
    journal = Journal.read(episode.journal)
    books = audit(journal, ledger, left, prices=PRICES, survived=False, rule=episode.rule)
    ledger.close()
    return books
