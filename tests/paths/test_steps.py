"""`idempotency="step"`: a LangGraph step that is retried or resumed is charged once; `"run"` charges each attempt."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from langchain_vluna import Gate, GateDenied, LocalGate, VlunaCallbackHandler, VlunaMiddleware
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, GRANT, MODEL, Till, price_all

BOTH = pytest.mark.parametrize("idempotency", ["step", "run"])


class State(TypedDict):
    """Texts add up over nodes."""

    texts: Annotated[list[str], operator.add]


class Once:
    """Raises the first time it is passed."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def __call__(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


def model(**options: Any) -> ScriptedChatModel:
    return ScriptedChatModel(**options)


def graph(node: Callable[[State], Any], *, retry: bool = False, saver: Any = None) -> Any:
    """Return a graph of one node, retried without waiting where asked for."""
    policy = RetryPolicy(initial_interval=0.0, jitter=False, max_attempts=3, retry_on=ConnectionError)
    builder: Any = StateGraph(State)
    builder.add_node("node", node, retry_policy=policy if retry else None)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver or InMemorySaver())


def config(till: Till, idempotency: str, thread: str = "thread_1", **options: Any) -> dict[str, Any]:
    handler = till.handler(idempotency=idempotency, **options)
    return {"callbacks": [handler], "configurable": {"thread_id": thread}}


def charged(till: Till) -> list[str]:
    """Return the features charged, and hold every lease to be settled."""
    features = sorted(rating.feature_code for rating in till.ratings())
    assert [] == till.open_leases()
    return features


@BOTH
def test_a_node_that_is_retried(till: Till, idempotency: str):
    """A retry policy repeats a node's model call: one charge per step, or one per attempt."""
    asked, fails = model(), Once(ConnectionError("network"))

    def node(state: State) -> Any:
        text = asked.invoke("question").text
        fails()
        return {"texts": [text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, idempotency))
    assert 2 == asked.calls == till.asked
    assert [MODEL] * (1 if idempotency == "step" else 2) == charged(till)


@BOTH
def test_a_node_with_several_calls_that_is_retried(till: Till, idempotency: str):
    """Each of a node's calls is a step: those done before the failure are not charged again, the others are once."""
    asked, fails = model(), Once(ConnectionError("network"))

    def node(state: State) -> Any:
        first, second = asked.invoke("one").text, asked.invoke("two").text
        fails()
        return {"texts": [first, second, asked.invoke("three").text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, idempotency))
    assert [MODEL] * (3 if idempotency == "step" else 5) == charged(till)


@BOTH
def test_a_call_that_is_retried_inside_of_a_node_that_is_retried(till: Till, idempotency: str):
    """A provider's failure does not shift the steps that come after it."""
    asked = model(responses=[ConnectionError("provider"), "one", "two", "one", "two"])
    fails = Once(ConnectionError("network"))
    chain = ChatPromptTemplate.from_template("{text}") | asked.with_retry(
        retry_if_exception_type=(ConnectionError,), stop_after_attempt=2, wait_exponential_jitter=False
    )

    def node(state: State) -> Any:
        first, second = chain.invoke({"text": "one"}), chain.invoke({"text": "two"})
        fails()
        return {"texts": [first.text, second.text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, idempotency))
    assert 5 == asked.calls
    assert [MODEL] * (2 if idempotency == "step" else 4) == charged(till)


@BOTH
async def test_an_async_node_that_is_retried(till: Till, idempotency: str):
    """The same holds for async nodes and streams."""
    asked, fails = model(), Once(ConnectionError("network"))

    async def node(state: State) -> Any:
        text = "".join([chunk.text async for chunk in asked.astream("question")])
        fails()
        return {"texts": [text]}

    await graph(node, retry=True).ainvoke({"texts": []}, config(till, idempotency))
    await till.gate.aflush(5.0)
    assert (1 if idempotency == "step" else 2) == len(till.ledger.ratings())


@BOTH
def test_an_interrupted_node_that_is_resumed(till: Till, idempotency: str):
    """A node that asked a model before its interrupt asks it again when resumed."""
    asked = model()

    def node(state: State) -> Any:
        text = asked.invoke("question").text
        return {"texts": [text, interrupt("well?")]}

    app, settings = graph(node), config(till, idempotency)
    app.invoke({"texts": []}, settings)
    assert ["This is a scripted answer.", "yes"] == app.invoke(Command(resume="yes"), settings)["texts"]
    assert 2 == asked.calls
    assert [MODEL] * (1 if idempotency == "step" else 2) == charged(till)


@BOTH
def test_an_interrupted_tool_that_is_resumed(till: Till, idempotency: str):
    """A tool that interrupts is charged once, when it ends; the models it asked before are as configured."""
    helper = model()

    @tool
    def ask(question: str) -> str:
        """Ask two models and a person."""
        helper.invoke(question)
        helper.invoke(question)
        return str(interrupt(question))

    call = AIMessage("", tool_calls=[{"name": "ask", "args": {"question": "?"}, "id": "call_1"}])
    agent: Any = create_agent(model(responses=[call, "Done."]), [ask], checkpointer=InMemorySaver())
    settings = config(till, idempotency)
    agent.invoke({"messages": [("user", "?")]}, settings)
    assert "Done." == agent.invoke(Command(resume="yes"), settings)["messages"][-1].text
    assert 4 == helper.calls
    helped = 2 if idempotency == "step" else 4
    assert [MODEL] * (2 + helped) + ["tool.ask"] == charged(till)


@BOTH
def test_parallel_tools_of_which_one_is_retried(till: Till, idempotency: str):
    """Two tool calls of one message are two steps, told apart by their ids, though one runs twice."""
    fails = Once(ConnectionError("network"))

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @tool
    def search(text: str) -> str:
        """Search, then fail once."""
        helper.invoke(text)
        fails()
        return text

    helper = model()
    calls = [
        {"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1"},
        {"name": "add", "args": {"a": 1, "b": 2}, "id": "call_2"},
        {"name": "search", "args": {"text": "x"}, "id": "call_3"},
    ]
    retry = ToolRetryMiddleware(max_retries=1, initial_delay=0.0)
    first = AIMessage("", tool_calls=calls)
    agent: Any = create_agent(
        model(responses=[first, "Done."]), [add, search], checkpointer=InMemorySaver(), middleware=[retry]
    )
    agent.invoke({"messages": [("user", "?")]}, config(till, idempotency))
    assert 2 == helper.calls
    models = 3 if idempotency == "step" else 4
    assert [MODEL] * models + ["tool.add", "tool.add", "tool.search"] == charged(till)


@BOTH
def test_a_crash_between_two_steps(tmp_path: Path, idempotency: str):
    """A process that dies in a node, after its model was charged, resumes from its checkpoint with another gate."""
    path, saver = str(tmp_path / "vluna.db"), InMemorySaver()
    asked, dies = model(), Once(SystemExit("killed"))

    def node(state: State) -> Any:
        text = asked.invoke("question").text
        dies()
        return {"texts": [text]}

    app, thread = graph(node, saver=saver), {"thread_id": "1"}

    def run(value: Any) -> None:
        with Gate.local(path) as gate:
            handler = VlunaCallbackHandler(gate, principal_id=CUSTOMER, idempotency=idempotency)  # type: ignore[arg-type]
            app.invoke(value, {"callbacks": [handler], "configurable": thread})

    with closing(LocalGate(path)) as ledger:
        price_all(ledger)
        ledger.grant(CUSTOMER, GRANT)
        with pytest.raises(SystemExit):
            run({"texts": []})
        run(None)
        assert 2 == asked.calls
        assert (1 if idempotency == "step" else 2) == len(ledger.ratings())
        assert [] == [lease for lease in ledger.leases("active") if not lease.commits]


def test_turns_of_a_conversation_are_steps_of_their_own(till: Till):
    """The same node in the next turn of a thread, and in another thread, is charged again."""
    app = graph(lambda _: {"texts": [model().invoke("question").text]})
    for thread in ("a", "a", "b"):
        app.invoke({"texts": []}, config(till, "step", thread))
    assert [MODEL] * 3 == charged(till)


def test_the_same_step_of_another_customer_is_charged(till: Till):
    """Threads of two customers that share a name are told apart."""
    till.ledger.grant("customer_2", GRANT)
    for customer in (CUSTOMER, "customer_2"):
        graph(lambda _: {"texts": [model().invoke("question").text]}).invoke(
            {"texts": []}, config(till, "step", principal_id=customer)
        )
    assert {CUSTOMER, "customer_2"} == {rating.principal_id for rating in till.ratings()}


def test_branches_are_steps_of_their_own(till: Till):
    """`Send` runs one node several times at once, and each is charged."""
    builder = StateGraph(State)
    builder.add_node("work", lambda _: {"texts": [model().invoke("question").text]})
    builder.add_conditional_edges(START, lambda _: [Send("work", {"texts": []}) for _ in range(4)], ["work"])
    app: Any = builder.compile(checkpointer=InMemorySaver())
    app.invoke({"texts": []}, config(till, "step"))
    assert [MODEL] * 4 == charged(till)


def test_calls_side_by_side_in_a_node_are_steps_of_their_own(till: Till):
    """A batch in a node is as many steps as it has prompts."""
    app = graph(lambda _: {"texts": [answer.text for answer in model().batch(["a", "b", "c"])]})
    app.invoke({"texts": []}, config(till, "step"))
    assert [MODEL] * 3 == charged(till)


@pytest.mark.parametrize("own_saver", [True, False])
def test_a_subgraph_that_is_invoked_anew_is_charged_anew(till: Till, *, own_saver: bool):
    """LangGraph gives its steps new names each time, and a step without a known name is never taken for another."""
    asked, fails = model(), Once(ConnectionError("network"))
    builder = StateGraph(State)
    builder.add_node("inner", lambda _: {"texts": [asked.invoke("question").text]})
    builder.add_edge(START, "inner")
    inner: Any = builder.compile(checkpointer=InMemorySaver() if own_saver else None)

    def node(state: State) -> Any:
        texts = inner.invoke({"texts": []})["texts"]
        fails()
        return {"texts": texts}

    graph(node, retry=True).invoke({"texts": []}, config(till, "step"))
    assert [MODEL] * 2 == charged(till)


@BOTH
def test_an_interrupted_subgraph_that_is_resumed(till: Till, idempotency: str):
    """A subgraph goes on where it was: what its nodes asked before the interrupted one is charged once anyway."""
    asked = model()

    def ask(state: State) -> Any:
        text = asked.invoke("question").text
        return {"texts": [text, interrupt("well?")]}

    builder = StateGraph(State)
    builder.add_node("before", lambda _: {"texts": [asked.invoke("before").text]})
    builder.add_node("ask", ask)
    builder.add_edge(START, "before")
    builder.add_edge("before", "ask")
    app, settings = graph(builder.compile()), config(till, idempotency)  # type: ignore[arg-type]
    app.invoke({"texts": []}, settings)
    app.invoke(Command(resume="yes"), settings)
    assert 3 == asked.calls
    assert [MODEL] * (2 if idempotency == "step" else 3) == charged(till)


def test_without_a_thread_every_attempt_is_charged(till: Till):
    """Where nothing names the step, `step` is `run`."""
    handler = till.handler(idempotency="step")
    for _ in range(2):
        model().invoke("question", {"callbacks": [handler]})
    assert [MODEL] * 2 == charged(till)


@BOTH
def test_a_second_handler_that_comes_and_goes(till: Till, idempotency: str):
    """Two handlers of one gate count each step once, also when the node is retried with one of them gone."""
    asked, fails = model(callbacks=[till.handler(idempotency=idempotency)]), Once(ConnectionError("network"))

    def node(state: State) -> Any:
        first, second = asked.invoke("one"), asked.invoke("two")
        asked.callbacks = None
        fails()
        return {"texts": [first.text, second.text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, idempotency))
    assert [MODEL] * (2 if idempotency == "step" else 4) == charged(till)


@BOTH
def test_a_call_that_was_denied_before(till: Till, idempotency: str):
    """A call that was denied in the first attempt takes the place of no other in the second."""
    asked, fails = model(), Once(ConnectionError("network"))
    till.ledger.entitle(MODEL)

    def node(state: State) -> Any:
        if fails.error:
            with suppress(GateDenied):
                asked.invoke("denied")
            till.ledger.entitle(MODEL, CUSTOMER)
        first, second = asked.invoke("one"), asked.invoke("two")
        fails()
        return {"texts": [first.text, second.text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, idempotency))
    assert [MODEL] * (2 if idempotency == "step" else 4) == charged(till)


@BOTH
def test_the_middleware_knows_steps_as_well(till: Till, idempotency: str):
    """With the middleware alone, which sees no nodes, an interrupted tool's two models are two steps."""
    helper = model()

    @tool
    def ask(question: str) -> str:
        """Ask two models and a person."""
        helper.invoke(question)
        helper.invoke(question)
        return str(interrupt(question))

    call = AIMessage("", tool_calls=[{"name": "ask", "args": {"question": "?"}, "id": "call_1"}])
    gate = VlunaMiddleware(till.gate, principal_id=CUSTOMER, idempotency=idempotency)  # type: ignore[arg-type]
    agent: Any = create_agent(model(responses=[call, "Done."]), [ask], checkpointer=InMemorySaver(), middleware=[gate])
    settings = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "?")]}, settings)
    agent.invoke(Command(resume="yes"), settings)
    assert [MODEL] * (4 if idempotency == "step" else 6) + ["tool.ask"] == charged(till)


def test_a_second_attempt_is_asked_for_and_let_go(till: Till):
    """Each attempt has a lease of its own; that of a step which was charged before is cancelled."""
    fails = Once(ConnectionError("network"))

    def node(state: State) -> Any:
        text = model().invoke("question").text
        fails()
        return {"texts": [text]}

    graph(node, retry=True).invoke({"texts": []}, config(till, "step"))
    charged(till)
    assert (1, 1) == (len(till.ratings()), len(till.ledger.leases("canceled")))
    bill = till.gate.bill(thread_id="thread_1")
    assert (2, 0, GRANT - till.balance()) == (bill.runs, bill.pending, bill.amount_xusd)
