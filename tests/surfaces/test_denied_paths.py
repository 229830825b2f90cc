"""One no blocks wherever LangChain could swallow, repeat or rephrase it; and the gate is asked for it once."""

from __future__ import annotations

import asyncio
import gc
import operator
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware, ToolRetryMiddleware
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.context import register_configure_hook
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy, Send
from pydantic import BaseModel

from langchain_vluna import GateDenied
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES, add, calling, perform

INNER = "scripted.inner"
FALLBACK = "scripted.fallback"


class Answer(BaseModel):
    """An answer in fields."""

    total: int


class Fan(TypedDict):
    results: Annotated[list[str], operator.add]


def message(text: str = "What is 2 + 3?") -> Any:
    return {"messages": [("user", text)]}


# --- a model is denied: each builds a runnable and its input from a model -------------------------------------------


def subgraph(model: ScriptedChatModel) -> tuple[Any, Any]:
    inner = SHAPES["sync_node"].build(model)
    graph: Any = StateGraph(dict)
    graph.add_node("inner", lambda _: inner.invoke({"question": "q"}))
    graph.add_edge(START, "inner")
    return graph.compile(), {"question": "q"}


def send(model: ScriptedChatModel) -> tuple[Any, Any]:
    def work(_: Any) -> Any:
        return {"results": [str(model.invoke("q").content)]}

    graph: Any = StateGraph(Fan)
    graph.add_node("work", work)
    graph.add_conditional_edges(START, lambda _: [Send("work", {"n": n}) for n in range(3)], ["work"])
    return graph.compile(), {"results": []}


def functional(model: ScriptedChatModel) -> tuple[Any, Any]:
    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, retry_on=lambda _: True)

    def think(question: str) -> str:
        return str(model.invoke(question).content)

    make_task: Any = task(retry_policy=policy)
    think_task = make_task(think)

    @entrypoint()
    def flow(question: str) -> str:
        return str(think_task(question).result())

    return flow, "q"


def node_with_retry_policy(model: ScriptedChatModel) -> tuple[Any, Any]:
    graph = StateGraph(MessagesState)
    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, retry_on=lambda _: True)
    graph.add_node("think", lambda state: {"messages": [model.invoke(state["messages"])]}, retry_policy=policy)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile(), message()


def with_retry(model: ScriptedChatModel) -> tuple[Any, Any]:
    return model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False), "q"


def with_fallbacks_of_the_same_feature(model: ScriptedChatModel) -> tuple[Any, Any]:
    return model.with_fallbacks([model, model]), "q"


def with_structured_output(model: ScriptedChatModel) -> tuple[Any, Any]:
    return model.with_structured_output(Answer), "q"


def agent_with_response_format(model: ScriptedChatModel) -> tuple[Any, Any]:
    return create_agent(model, [add], response_format=Answer), message()


def agent_with_retry_middleware(model: ScriptedChatModel) -> tuple[Any, Any]:
    middleware: Any = [ModelRetryMiddleware(max_retries=3, initial_delay=0.0), ToolRetryMiddleware(initial_delay=0.0)]
    return create_agent(model, [add], middleware=middleware), message()


def agent_with_fallback_to_the_same_feature(model: ScriptedChatModel) -> tuple[Any, Any]:
    return create_agent(model, [add], middleware=[ModelFallbackMiddleware(model)]), message()


def executor_that_handles_parsing_errors(model: ScriptedChatModel) -> tuple[Any, Any]:
    prompt = ChatPromptTemplate.from_messages([("user", "{question}"), ("placeholder", "{agent_scratchpad}")])
    agent = create_tool_calling_agent(model, [add], prompt)
    return AgentExecutor(agent=agent, tools=[add], handle_parsing_errors=True), {"question": "q"}


def lambda_in_a_chain(model: ScriptedChatModel) -> tuple[Any, Any]:
    return RunnableLambda(lambda text: text) | RunnableLambda(model.invoke), "q"


MODEL_PATHS: list[Callable[[ScriptedChatModel], tuple[Any, Any]]] = [
    subgraph,
    send,
    functional,
    node_with_retry_policy,
    with_retry,
    with_fallbacks_of_the_same_feature,
    with_structured_output,
    agent_with_response_format,
    agent_with_retry_middleware,
    agent_with_fallback_to_the_same_feature,
    executor_that_handles_parsing_errors,
    lambda_in_a_chain,
]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("build", MODEL_PATHS)
def test_a_denied_model_stops_every_path(make_till: MakeTill, build: Any, colour: str) -> None:
    """A denied model reaches the caller as GateDenied, unswallowed, with no provider call and one question."""
    till = make_till(grant=0)
    model = ScriptedChatModel(responses=[calling])
    runnable, asked = build(model)
    with pytest.raises(GateDenied):
        perform(runnable, asked, colour, till.unwitnessed())
    assert 0 == model.calls
    assert 1 == till.asked
    till.assert_nothing_charged()


# --- a tool is denied -----------------------------------------------------------------------------------------------


def denied_tool() -> tuple[Any, list[int]]:
    calls: list[int] = []

    @tool
    def search(a: int, b: int) -> int:
        """Search."""
        calls.append(a + b)
        return a + b

    return search, calls


def calls_search(messages: list[Any]) -> AIMessage:
    answer = calling(messages)
    for call in answer.tool_calls:
        call["name"] = "search"
    return answer


def node_that_handles_errors(model: ScriptedChatModel, search: Any) -> Any:
    def think(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([search], handle_tool_errors=True))
    graph.add_edge(START, "think")
    graph.add_edge("think", "tools")
    return graph.compile()


def agent_with_tool_retry(model: ScriptedChatModel, search: Any) -> Any:
    return create_agent(model, [search], middleware=[ToolRetryMiddleware(max_retries=3, initial_delay=0.0)])


def agent_whose_tool_handles_errors(model: ScriptedChatModel, search: Any) -> Any:
    search.handle_tool_error = True
    search.handle_validation_error = True
    return create_agent(model, [search])


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("build", [node_that_handles_errors, agent_with_tool_retry, agent_whose_tool_handles_errors])
def test_a_denied_tool_is_no_tool_message(make_till: MakeTill, build: Any, colour: str) -> None:
    """A denied tool reaches the caller as GateDenied and never runs, whoever handles tool errors."""
    till = make_till()
    till.ledger.feature("tool.search", entitlement_required=True)
    search, calls = denied_tool()
    model = ScriptedChatModel(responses=[calls_search])
    with pytest.raises(GateDenied):
        perform(build(model, search), message(), colour, till.config())
    assert [] == calls
    assert 1 == model.calls
    till.assert_exact(asked=2)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("handling", [True, False])
def test_a_denied_agent_within_a_tool_stops_the_outer_agent(make_till: MakeTill, colour: str, handling: bool) -> None:
    """A model denied in an agent that is a tool of another agent stops both."""
    till = make_till()
    till.ledger.feature(INNER, entitlement_required=True)
    inner_model = ScriptedChatModel(model="inner")
    inner = create_agent(inner_model, [])

    @tool
    def search(a: int, b: int) -> str:
        """Search."""
        return str(inner.invoke(message(f"{a} and {b}"))["messages"][-1].content)

    model = ScriptedChatModel(responses=[calls_search])
    outer: Any = node_that_handles_errors(model, search) if handling else create_agent(model, [search])
    with pytest.raises(GateDenied, match="inner"):
        perform(outer, message(), colour, till.unwitnessed())
    assert (1, 0) == (model.calls, inner_model.calls)
    assert [1] == [rating.labels.get("model") == "scripted-1" for rating in till.ratings()]
    assert [] == till.open_leases()


# --- fallbacks of another feature -----------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("how", ["with_fallbacks", "middleware"])
def test_a_fallback_is_asked_for_by_itself(make_till: MakeTill, how: str, colour: str) -> None:
    """A fallback to another model runs where that model is admitted; in an agent a denial never falls back."""
    till = make_till()
    till.ledger.price(FALLBACK, f"{FALLBACK}.tokens.input", 3)
    till.ledger.price(FALLBACK, f"{FALLBACK}.tokens.output", 15)
    till.ledger.feature("scripted.scripted-1", entitlement_required=True)
    model, fallback = ScriptedChatModel(), ScriptedChatModel(model="fallback")
    if how == "with_fallbacks":
        perform(model.with_fallbacks([fallback]), "q", colour, till.unwitnessed())
        assert [FALLBACK] == [rating.feature_code for rating in till.ratings()]
        assert (0, 1, 2) == (model.calls, fallback.calls, till.asked)
        return
    agent = create_agent(model, [], middleware=[ModelFallbackMiddleware(fallback)])
    with pytest.raises(GateDenied):
        perform(agent, message(), colour, till.unwitnessed())
    assert (0, 0, 1) == (model.calls, fallback.calls, till.asked)


# --- event streams of version 3, and handlers nobody passed ----------------------------------------------------------


@pytest.fixture
def calls_left_behind() -> Iterator[None]:
    """Collect what langchain-core leaves un-awaited before another test is blamed for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine 'ahandle_event' was never awaited", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*(in beta|experimental)", DeprecationWarning)
        yield
        gc.collect()


async def read(stream: Any) -> None:
    async for _ in await stream:
        pass


EVENT_STREAMS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sync": lambda runnable, asked, config: list(runnable.stream_events(asked, config, version="v3")),
    "async": lambda runnable, asked, config: asyncio.run(read(runnable.astream_events(asked, config, version="v3"))),
}


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("colour", EVENT_STREAMS)
@pytest.mark.parametrize("name", ["model", "sync_node", "create_agent"])
def test_a_denied_model_stops_an_event_stream_of_version_3(make_till: MakeTill, name: str, colour: str) -> None:
    """A denial reaches whoever reads a v3 event stream, of a model or of a graph."""
    till, shape = make_till(grant=0), SHAPES[name]
    model = shape.model()
    with pytest.raises(GateDenied):
        EVENT_STREAMS[colour](shape.build(model), shape.ask("q"), till.unwitnessed())
    assert (0, 1) == (model.calls, till.asked)


EVERYWHERE: ContextVar[BaseCallbackHandler | None] = ContextVar("test_handler_for_everything", default=None)
register_configure_hook(EVERYWHERE, inheritable=True)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["model", "chain", "sync_node", "create_agent"])
def test_a_handler_nobody_passed_blocks_as_well(make_till: MakeTill, name: str, colour: str) -> None:
    """A handler that a configure hook attaches denies like one that was passed."""
    till, shape = make_till(grant=0), SHAPES[name]
    model = shape.model()
    token = EVERYWHERE.set(till.handler())
    try:
        with pytest.raises(GateDenied):
            perform(shape.build(model), shape.ask("q"), colour, None)
    finally:
        EVERYWHERE.reset(token)
    assert (0, 1) == (model.calls, till.asked)


class TestNotebook:
    """Sync calls inside a running loop, as notebooks make them: they block it, and they are gated."""

    @pytest.fixture(autouse=True)
    def nothing_blocks_an_event_loop(self) -> None:
        """Blocking the loop is what a sync call in it does."""

    @pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.colours == "both"])
    async def test_a_sync_call_in_a_running_loop_is_denied(self, make_till: MakeTill, name: str) -> None:
        """A sync call in a running loop is denied before the provider is called."""
        till, shape = make_till(grant=0), SHAPES[name]
        model = shape.model()
        with pytest.raises(GateDenied):
            shape.build(model).invoke(shape.ask("q"), till.unwitnessed())
        assert (0, 1) == (model.calls, till.asked)
        till.assert_nothing_charged()

    @pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.colours == "both"])
    async def test_a_sync_call_in_a_running_loop_is_charged(self, till: Till, name: str) -> None:
        """A sync call in a running loop is charged what it reported."""
        shape = SHAPES[name]
        shape.build(shape.model()).invoke(shape.ask("q"), till.config())
        till.assert_exact()
