"""LangChain's LLM cache: what it answers costs nothing, and is not charged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import Till
from tests.surfaces.shapes import SHAPES, perform
from tests.surfaces.waiting import settled_sync


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["model", "chain", "sync_node"])
def test_a_cached_answer_is_free(till: Till, name: str, colour: str) -> None:
    """A second call that the cache answers is asked for, as nobody knows before, and cancelled, not charged."""
    shape = SHAPES[name]
    model = shape.model(cache=InMemoryCache())
    runnable: Any = shape.build(model)
    answers = [perform(runnable, shape.ask("q"), colour, till.config()) for _ in range(3)]
    assert 1 == model.calls
    assert str(getattr(answers[0], "content", answers[0])) == str(getattr(answers[2], "content", answers[2]))
    ratings = till.ratings()
    assert 1 == len(ratings)
    till.unpaid = 2
    assert sorted(["closed", "canceled", "canceled"]) == sorted(view.state for view in till.ledger.leases())


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_cached_answer_of_a_plain_llm_is_not_even_asked_for(till: Till, colour: str) -> None:
    """A plain LLM fires no events for a cache hit, so the gate never hears of it."""
    llm = FakeListLLM(responses=["one", "two"], cache=InMemoryCache())
    handler = till.handler(features={"FakeListLLM": "scripted.scripted-1"})
    answers = [perform(llm, "q", colour, till.unwitnessed(handler)) for _ in range(2)]
    assert ["one", "one"] == answers
    ratings = settled_sync(till)
    assert (1, ["estimated"]) == (till.asked, [rating.labels["usage_source"] for rating in ratings])


@pytest.mark.parametrize("mode", ["stream", "invoke"])
def test_a_provider_that_reports_no_cost_at_all_is_no_cache(till: Till, mode: str) -> None:
    """A free answer is only one that LangChain marks as cached; a first answer is charged."""
    model = ScriptedChatModel(cache=InMemoryCache())
    for _ in range(2):
        if mode == "stream":
            list(model.stream("q", till.config()))
        else:
            model.invoke("q", till.config())
    till.unpaid = 0 if mode == "stream" else 1
    assert (2 if mode == "stream" else 1) == model.calls == len(till.ratings())


def test_a_stream_that_a_provider_gives_away_is_charged(till: Till) -> None:
    """A provider's own cost of 0 at the end of a stream is no mark of the cache, which delivers nothing in pieces."""
    usage: Any = {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13, "total_cost": 0}
    list(ScriptedChatModel(usage=usage).stream("q", till.config()))
    till.assert_exact()


class Nameless(ScriptedChatModel):
    """Tells nothing beside its answer, as ChatOllama and ChatBedrockConverse do."""

    def _whole(self, message: AIMessage) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=message)])


async def test_a_hit_that_overtakes_its_answer_s_end_makes_it_not_free(till: Till) -> None:
    """A cache in memory marks the stored answer itself, maybe before the run that made it is told to have ended."""
    model = Nameless(cache=InMemoryCache())

    async def ask(late: int) -> None:
        for _ in range(late):
            await asyncio.sleep(0)
        await model.ainvoke("q", till.unwitnessed())

    await asyncio.gather(*(ask(late) for late in range(30)))
    assert 30 > model.calls
    assert model.calls == len(await asyncio.to_thread(settled_sync, till))
