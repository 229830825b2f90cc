"""Who is charged, with which labels, what the gate is told to expect, and what it is never told."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES, add, calling, perform, run

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


def sent(till: Till, path: str) -> list[dict[str, Any]]:
    """Return the bodies of what was sent to an endpoint."""
    return [json.loads(request.content) for request, _ in till.ledger.exchanges if request.target.endswith(path)]


# --- labels ---------------------------------------------------------------------------------------------------------


@COLOURS
@pytest.mark.parametrize(
    "labels", [{"tier": "gold"}, lambda info: {"tier": "gold", "run_id": "mine", "kind": info.kind}]
)
def test_labels_of_the_user_come_with_every_charge(till: Till, labels: Any, colour: str) -> None:
    """The user's labels are on models and tools alike, and never in the place of the package's own."""
    shape = SHAPES["create_agent"]
    config = till.config(till.handler(labels=labels), metadata={"vluna_labels": {"tier": "platinum", "team": "x"}})
    perform(shape.build(shape.model()), shape.ask("q"), colour, config)
    for run_id, rating in till.by_run().items():
        own = {"tier": "platinum", "team": "x"}
        if callable(labels):
            own["kind"] = till.witness.runs[run_id].kind
        assert {**till.expected_labels(run_id), **own} == dict(rating.labels)


@COLOURS
def test_a_thread_is_a_label(till: Till, colour: str) -> None:
    """A LangGraph thread's id is on each of its charges, over several turns."""
    agent = create_agent(ScriptedChatModel(responses=[calling]), [add], checkpointer=InMemorySaver())
    config = till.config(configurable={"thread_id": 7})
    for _ in range(2):
        perform(agent, {"messages": [("user", "q")]}, colour, config)
    till.assert_exact()
    assert {"7"} == {rating.labels["thread_id"] for rating in till.ratings()}


def test_roots_are_those_of_the_whole_call(till: Till) -> None:
    """Everything that one call runs, nested agents and all, carries the id of that call's root run."""
    inner, outer = SHAPES["create_agent"], ScriptedChatModel(responses=[calling])
    nested = inner.build(inner.model())

    def think(state: MessagesState) -> Any:
        nested.invoke(inner.ask("q"))
        return {"messages": [outer.invoke(state["messages"])]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    graph.compile().invoke({"messages": [("user", "q")]}, till.config())
    till.assert_exact()
    assert (4, 1) == (len(till.ratings()), len({rating.labels["root_run_id"] for rating in till.ratings()}))


# --- what the gate is told to expect --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "max_tokens", "expected"),
    [
        ("auto", None, 4 + 5),
        ("auto", 50, 4 + 5 + 50),
        (None, 50, None),
        (77, 50, 77),
        (lambda info: info.prompt_tokens * 2, 50, (4 + 5) * 2),
    ],
)
def test_the_estimate_is_the_prompt_and_the_runs_own_limit(
    till: Till, estimate: Any, max_tokens: int | None, expected: int | None
) -> None:
    """Authorize says the approximate prompt plus the limit the run set, or what the user says instead."""
    model = ScriptedChatModel(max_tokens=max_tokens)
    model.invoke("Twenty characters ok", till.config(till.handler(estimate=estimate)))
    [body] = sent(till, "/authorize")
    assert (None if expected is None else str(expected)) == body.get("estimated_quantity_minor")


def test_families_and_budgets_are_passed_on(make_till: MakeTill) -> None:
    """A feature family and a budget, of the handler or of the call, reach the gate."""
    till = make_till()
    budget = till.ledger.budget(CUSTOMER, 10**6, user_id=till.user)
    handler = till.handler(feature_family_code="chat.models", budget=budget)
    ScriptedChatModel().invoke("q", till.config(handler))
    ScriptedChatModel().invoke("q", till.config(metadata={"vluna_budget": budget, "vluna_feature_family_code": "own"}))
    bodies = sent(till, "/authorize")
    assert ["chat.models", "own"] == [body["feature_family_code"] for body in bodies]
    assert [budget, budget] == [body["budget_id"] for body in bodies]


# --- who pays -------------------------------------------------------------------------------------------------------


@dataclass
class Context:
    vluna_principal_id: str
    vluna_labels: Any = None


@COLOURS
@pytest.mark.parametrize("source", ["metadata", "identity", "context", "callable", "value"])
def test_the_first_source_that_says_so_decides_who_pays(till: Till, source: str, colour: str) -> None:
    """Metadata comes before `gate.identity`, that before LangGraph's context, and the handler's own comes last."""
    order = ["metadata", "identity", "context", "callable", "value"]
    given = order[order.index(source) :]
    till.ledger.grant(source, 10**6, till.user)
    agent = create_agent(ScriptedChatModel(), [], context_schema=Context)
    own: Any = (lambda _info: "callable") if source == "callable" else "value"
    config = till.unwitnessed(till.handler(principal_id=own))
    if "metadata" in given:
        config["metadata"] = {"vluna_principal_id": "metadata"}
    context: Any = {"context": Context("context")} if "context" in given else {}
    asked = {"messages": [("user", "q")]}
    with till.gate.identity(principal_id="identity" if "identity" in given else None):
        if colour == "sync":
            agent.invoke(asked, config, **context)  # type: ignore[call-overload]
        else:
            asyncio.run(agent.ainvoke(asked, config, **context))  # type: ignore[call-overload]
    assert [source] == [rating.principal_id for rating in till.ratings()]


MANY = 50


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_fifty_customers_at_once_are_charged_their_own(make_till: MakeTill, colour: str) -> None:
    """Fifty customers through one handler at once are charged each their own tokens, and nothing of another's."""
    till = make_till(replays=False)
    for customer in range(MANY):
        till.ledger.grant(f"customer_{customer}", 10**6, till.user)

    def answer(messages: list[Any]) -> Any:
        message = calling(messages)
        size = len(messages[0].content)
        message.usage_metadata = {"input_tokens": size * 100, "output_tokens": size, "total_tokens": size * 101}
        return message

    handler = till.handler(principal_id=None)
    work: Any = RunnableParallel(
        said=ScriptedChatModel(responses=[answer]), added=RunnableLambda(lambda _: {"a": 1, "b": 2}) | add
    )
    calls = [
        (
            [HumanMessage("x" * (customer + 1))],
            {"callbacks": [handler], "metadata": {"vluna_principal_id": f"customer_{customer}"}},
        )
        for customer in range(MANY)
    ]
    if colour == "threads":
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda call: work.invoke(*call), calls))
    else:

        async def ask_all() -> None:
            await asyncio.gather(*(work.ainvoke(*call) for call in calls))

        asyncio.run(ask_all())
    totals: Counter[tuple[str, str]] = Counter()
    for rating in till.ratings():
        assert "applied" == rating.status
        totals[rating.principal_id, rating.feature_code] += rating.quantity
    expected = {(f"customer_{n}", MODEL): (n + 1) * 101 for n in range(MANY)}
    expected |= {(f"customer_{n}", "tool.add"): 1 for n in range(MANY)}
    assert expected == totals
    assert [] == till.open_leases()


# --- what the gate is never told, and what nobody is shown ----------------------------------------------------------


def test_no_text_is_sent_or_stored(make_till: MakeTill, tmp_path: Path) -> None:
    """Neither prompts nor answers nor what goes in and out of tools reaches the gate or the outbox's file."""
    outbox = tmp_path / "outbox.db"
    till, shape = make_till(options={"outbox": outbox}), SHAPES["create_agent"]
    run(shape, shape.build(shape.model()), "stream", till.config())
    till.assert_exact()
    seen = b"".join(request.content for request, _ in till.ledger.exchanges)
    seen += b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for text in (b"What is 2", b"The sum is", b'"a"', b"add two numbers"):
        assert text.lower() not in seen.lower()
    secret = till.ledger.settings.service_key_secret.get_secret_value()
    assert secret.encode() not in seen


def test_representations_show_no_secret(till: Till) -> None:
    """What other tracers may print of a handler holds neither the key's secret nor a lease."""
    handler = till.handler()
    stream = ScriptedChatModel().stream("q", till.unwitnessed(handler))
    next(stream)
    shown = repr(handler) + repr(till.gate) + repr(till.gate.engine.book.open_runs())
    handles = [json.loads(answer.content)["data"]["lease_token"] for _, answer in till.ledger.exchanges]
    assert handles
    for secret in (till.ledger.settings.service_key_secret.get_secret_value(), *handles):
        assert secret not in shown
    list(stream)


def test_a_model_that_is_copied_deeply_keeps_its_gate(till: Till) -> None:
    """A deep copy of a model with our handler on it is gated by the same gate."""
    model = ScriptedChatModel(callbacks=[till.handler()])
    copied = model.model_copy(deep=True)
    copied.invoke("q", {"callbacks": [till.witness]})
    copy.deepcopy(model).invoke("q", {"callbacks": [till.witness]})
    till.assert_exact()


# --- the newest wire ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "sync_node", "create_agent"])
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
def test_the_newest_wire_is_charged_the_same(name: str, mode: str) -> None:
    """On wire generation `lease` each run is charged what it reported, once."""
    till, shape = Till("lease"), SHAPES[name]
    run(shape, shape.build(shape.model()), mode, till.config())
    till.assert_exact()
    till.assert_replays()
    till.close()


def test_settling_inline_is_done_when_the_call_returns(make_till: MakeTill) -> None:
    """With `settle="inline"` the ledger is complete when the call returns, with no flush."""
    till, shape = make_till(options={"settle": "inline"}), SHAPES["create_agent"]
    run(shape, shape.build(shape.model()), "invoke", till.config())
    assert 3 == len(till.ledger.ratings())
    till.assert_exact()


async def test_settling_inline_on_a_loop(make_till: MakeTill) -> None:
    """With `settle="inline"` an async call is settled when it returns, and blocks nothing."""
    till, shape = make_till(options={"settle": "inline"}), SHAPES["create_agent"]
    await shape.build(shape.model()).ainvoke(shape.ask("q"), till.config())
    assert 3 == len(till.ledger.ratings())
    await asyncio.to_thread(till.assert_exact)
