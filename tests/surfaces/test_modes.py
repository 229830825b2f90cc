"""Every shape in every mode: what the ledger charges is what the model reported, run by run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManager
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from tests.support.billing import Till, tokens_of
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import QUESTIONS, SHAPES, perform, run

CASES = [pytest.param(name, mode, id=f"{name}-{mode}") for name, shape in SHAPES.items() for mode in shape.modes()]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_each_run_is_charged_what_it_reported(till: Till, name: str, mode: str) -> None:
    """Each model run is charged its reported tokens once, each tool run one call, and no lease stays open."""
    shape = SHAPES[name]
    model = shape.model()
    asked = run(shape, shape.build(model), mode, till.config())
    till.assert_exact()
    assert shape.models * asked == model.calls == len(till.witness.finished("model"))
    assert shape.tools * asked == len(till.witness.finished("tool"))


GRAPHS = ("sync_node", "react_agent", "create_agent")


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("stream_mode", ["values", "updates", "messages", "custom", "debug", ["updates", "messages"]])
@pytest.mark.parametrize("name", GRAPHS)
def test_whatever_a_graph_streams_it_is_charged_the_same(till: Till, name: str, stream_mode: Any, colour: str) -> None:
    """Each stream mode of a graph is charged what its models reported."""
    shape = SHAPES[name]
    graph = shape.build(shape.model())
    if colour == "sync":
        list(graph.stream(shape.ask("q"), till.config(), stream_mode=stream_mode))
    else:
        asyncio.run(read(graph.astream(shape.ask("q"), till.config(), stream_mode=stream_mode)))
    till.assert_exact()
    assert shape.models == len(till.witness.finished("model"))


async def read(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["model", "chain", "create_agent"])
def test_batches_as_they_complete_are_charged_each(till: Till, name: str, colour: str) -> None:
    """A batch whose results are taken as they come is charged as any other."""
    shape = SHAPES[name]
    runnable = shape.build(shape.model())
    asked = [shape.ask(question) for question in QUESTIONS]
    if colour == "sync":
        assert len(asked) == len(list(runnable.batch_as_completed(asked, till.config())))
    else:
        asyncio.run(read(runnable.abatch_as_completed(asked, till.config())))
    till.assert_exact()
    assert shape.models * len(asked) == len(till.witness.finished("model"))


class Shelf(BaseRetriever):
    """Finds the same document for everybody."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document("The answer is five.")]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(("retrievers", "expected"), [(None, []), ("all", [1]), ({"Shelf": "bytes"}, None)])
def test_retrievers_are_gated_where_the_user_says(till: Till, retrievers: Any, expected: Any, colour: str) -> None:
    """A retriever is asked for and charged only where `retrievers=` names it."""
    till.ledger.price("retriever.shelf", "retriever.shelf", 1, unit="call")
    perform(Shelf(), "q", colour, till.unwitnessed(till.handler(retrievers=retrievers)))
    charged = [rating.quantity for rating in till.ratings() if rating.feature_code == "retriever.shelf"]
    if expected is None:
        assert charged[0] >= len("The answer is five.")
    else:
        assert expected == charged
    assert len(charged) == till.asked
    assert [] == till.open_leases()


@pytest.mark.parametrize("usage", [{"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, None])
def test_a_decision_model_is_charged_though_it_looks_like_a_chain(till: Till, usage: Any) -> None:
    """A run that comes as a chain and says it is a model's is asked for and charged by its outputs' usage."""
    metadata = {"ls_provider": "scripted", "ls_model_name": "scripted-1"}
    manager = CallbackManager.configure([till.handler()], inheritable_metadata=metadata)
    run = manager.on_chain_start({"name": "Judge"}, {"question": "Is it good?"}, run_type="llm")
    run.on_chain_end({"decision": "yes", "usage": usage})
    [rating] = till.ratings()
    assert ("reported" if usage else "estimated") == rating.labels["usage_source"]
    assert (10 == rating.quantity) if usage else rating.quantity > 0
    assert [] == till.open_leases()


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_real_decision_model_is_gated(make_till: MakeTill, fails: bool, colour: str) -> None:
    """Where langchain-core has decision models, one that answers is charged, and one that fails is cancelled."""
    decisions = pytest.importorskip("langchain_core.decisions", reason="langchain-core 1.8 brings decision models")

    class Judge(decisions.BaseDecisionModel):  # type: ignore[misc,name-defined]
        @property
        def _provider(self) -> str:
            return "scripted"

        def _classify(self, state: Any, questions: Any) -> Any:
            if fails:
                msg = "too much"
                raise OverflowError(msg)
            usage = {"input_tokens": 12, "output_tokens": 3}
            return decisions.ClassifierResponse(model="judge-1-0", answers={}, usage=usage)

    till = make_till()
    request = {"state": "some text", "questions": {"q": decisions.Noul(instructions="Is it good?")}}
    if fails:
        with pytest.raises(OverflowError, match="too much"):
            perform(Judge(model="scripted-1"), request, colour, till.unwitnessed())
        till.assert_nothing_charged()
    else:
        perform(Judge(model="scripted-1"), request, colour, till.unwitnessed())
        assert [(12, 3)] == [tokens_of(rating) for rating in till.ratings()]
    assert (1, []) == (till.asked, till.open_leases())
