"""What a worker does until it is killed: real LangChain runs over an outbox file, and a journal of the truth."""

from __future__ import annotations

import asyncio
import json
import os
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.prompts import ChatPromptTemplate

from langchain_vluna import Gate, RetryPolicy, VlunaCallbackHandler
from langchain_vluna._io.relay import RelayTimes
from langchain_vluna.testing.models import ScriptedChatModel
from tests.crash.points import Killer, KillingGate, watch_statements

__all__ = ["FEATURE", "PRINCIPALS", "Plan", "recover", "work"]

FEATURE = "scripted.scripted-1"
PRINCIPALS = ("ada", "bob")
_LINGER = 0.02
_BATCHING = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """One worker: where it lives, and where it dies."""

    folder: Path
    point: str
    seed: int
    durable: bool = True

    @property
    def outbox(self) -> str:
        return str(self.folder / "chaos.outbox") if self.durable else ":memory:"

    @property
    def ledger(self) -> str:
        return str(self.folder / "ledger.db")

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"


class _Journal:
    """Says what happened, one line at a time; what `os.write` returned from survives the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, **what: Any) -> None:
        os.write(self._file, (json.dumps(what) + "\n").encode())


class _MortalModel(ScriptedChatModel):
    """A scripted model in whose stream and after whose answer the process may die."""

    killer: Any = None

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        result = super()._generate(messages, *args, **kwargs)
        self.killer.reached("after_provider_answer")
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in super()._stream(messages, stop, run_manager, **kwargs):
            yield chunk
            self.killer.reached("mid_stream")
            if isinstance(chunk.message, AIMessageChunk) and chunk.message.usage_metadata:
                self.killer.reached("after_provider_answer")


def work(plan: Plan) -> int:
    """Run models in every mode until the end or the kill, telling the journal what each really used."""
    dice = random.Random(plan.seed)
    killer = Killer(plan.point, 1 if plan.point in {"mid_batch", "mid_migration"} else dice.randint(1, 5))
    watch_statements(killer)
    journal = _Journal(plan.journal)
    model = _MortalModel(responses=[f"{'word ' * dice.randint(1, 9)}." for _ in range(8)], killer=killer)
    with _gate(plan, killer, dice.random() * 0.004) as gate:
        handler = VlunaCallbackHandler(gate)
        chain = ChatPromptTemplate.from_template("{question}") | model
        for number in range(12):
            run_id, principal = str(uuid.uuid4()), dice.choice(PRINCIPALS)
            config = {"callbacks": [handler], "run_id": run_id, "metadata": {"vluna_principal_id": principal}}
            journal.say(event="start", run=run_id, principal=principal)
            answer = _in_mode(number % 4, chain, "why? " * dice.randint(1, 9), config)
            journal.say(event="end", run=run_id, principal=principal, tokens=answer.usage_metadata["total_tokens"])
            if plan.point == "after_usage_row":
                killer.reached("after_usage_row")
    return 0


def recover(plan: Plan) -> int:
    """Settle what a dead worker left, as the next process would; returns the rows still unsettled."""
    killer = Killer(plan.point if plan.point == "during_take_over" else "", 1)
    watch_statements(killer)
    with _gate(plan, killer, 0.0) as gate:
        return gate.flush(30)


def _gate(plan: Plan, killer: Killer, batch_delay: float) -> Gate:
    return Gate(
        KillingGate(plan.ledger, killer, batch_delay),
        outbox=plan.outbox,
        relay=RelayTimes(linger=_BATCHING if plan.point == "mid_batch" else _LINGER, first_retry=0.02, take_over=0.2),
        retry=RetryPolicy(attempts=3, initial=0.01, maximum=0.1),
    )


def _in_mode(mode: int, chain: Any, question: str, config: Any) -> Any:
    def joined(chunks: list[Any]) -> Any:
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        return total

    async def collect() -> list[Any]:
        return [chunk async for chunk in chain.astream({"question": question}, config)]

    match mode:
        case 0:
            return chain.invoke({"question": question}, config)
        case 1:
            return joined(list(chain.stream({"question": question}, config)))
        case 2:
            return asyncio.run(chain.ainvoke({"question": question}, config))
        case _:
            return joined(asyncio.run(collect()))
