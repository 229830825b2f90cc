"""What people build on LangChain and LangGraph: each runs gated, and totals are exact."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

from langchain_vluna import GateDenied, VlunaMiddleware
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CALL_XUSD, CUSTOMER, MODEL, Till
from tests.support.llm_stub import Answer, LLMStub
from tests.surfaces.shapes import add, calling

ASK: Any = {"messages": [("user", "2 + 3?")]}
BOTH = pytest.mark.parametrize("mode", ["invoke", "ainvoke"])


def price(till: Till, *names: str) -> None:
    for name in names:
        till.ledger.price(f"tool.{name}", f"tool.{name}", CALL_XUSD, unit="call")


def call(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])


ADDING = [call("add", a=2, b=3), "It is 5."]


def run(app: Any, mode: str, value: Any, config: Any) -> Any:
    return asyncio.run(app.ainvoke(value, config)) if mode == "ainvoke" else app.invoke(value, config)


def need(name: str) -> Any:
    """Import a package that may not be there, with the warnings it gives about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


@BOTH
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_deepagents(till: Till, mode: str):
    """A deep agent with a subagent: its files and its subagent's work are charged once each."""
    deepagents = need("deepagents")
    price(till, "task", "write_file")
    helper = ScriptedChatModel(responses=[calling])
    subagent = {
        "name": "helper",
        "description": "Adds.",
        "system_prompt": "Add.",
        "tools": [add],
        "model": helper,
    }
    chief = ScriptedChatModel(
        responses=[
            call("task", description="What is 2 + 3?", subagent_type="helper"),
            call("write_file", file_path="/answer.txt", content="5"),
            "It is 5.",
        ]
    )
    app = deepagents.create_deep_agent(chief, subagents=[subagent])
    assert "It is 5." == run(app, mode, ASK, till.config())["messages"][-1].text
    assert (3, 2) == (chief.calls, helper.calls)
    assert {"task", "write_file", "add"} == {s.name for s in till.witness.finished("tool").values()}
    till.assert_exact()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_deepagents_with_the_middleware(till: Till):
    """The middleware on the deep agent covers its subagents, beside a handler and alone."""
    deepagents = need("deepagents")
    price(till, "task")
    subagent = {
        "name": "helper",
        "description": "Adds.",
        "system_prompt": "Add.",
        "tools": [add],
        "model": ScriptedChatModel(responses=[calling]),
    }
    chief = ScriptedChatModel(responses=[call("task", description="2 + 3?", subagent_type="helper"), "It is 5."])
    app = deepagents.create_deep_agent(
        chief, subagents=[subagent], middleware=[VlunaMiddleware(till.gate, principal_id=CUSTOMER)]
    )
    app.invoke(ASK, {"callbacks": [till.witness]})
    assert len(till.by_run()) == len(till.witness.finished("model")) + len(till.witness.finished("tool")) == 6
    assert (6, []) == (till.asked, till.open_leases())
    app.invoke(ASK, till.config())
    assert (12, 12) == (len(till.by_run()), till.asked)


@BOTH
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_langgraph_supervisor(till: Till, mode: str):
    """A supervisor that hands over to a worker and gets the work back."""
    supervisor = need("langgraph_supervisor")
    price(till, "transfer_to_worker")
    worker = create_agent(ScriptedChatModel(responses=ADDING), [add], name="worker")
    chief = ScriptedChatModel(responses=[call("transfer_to_worker"), "It is 5."])
    app = supervisor.create_supervisor([worker], model=chief).compile()
    assert "It is 5." == run(app, mode, ASK, till.config())["messages"][-1].text
    assert {"add", "transfer_to_worker"} == {s.name for s in till.witness.finished("tool").values()}
    assert 4 == len(till.witness.finished("model"))
    till.assert_exact()


@BOTH
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_langgraph_swarm(till: Till, mode: str):
    """Two agents of which one hands over to the other, over two turns of a thread."""
    swarm = need("langgraph_swarm")
    price(till, "transfer_to_bob")
    alice = create_agent(
        ScriptedChatModel(responses=[call("transfer_to_bob")]),
        [swarm.create_handoff_tool(agent_name="bob")],
        name="alice",
    )
    bob = create_agent(ScriptedChatModel(responses=ADDING), [add], name="bob")
    app = swarm.create_swarm([alice, bob], default_active_agent="alice").compile(checkpointer=InMemorySaver())
    config = till.config(configurable={"thread_id": "1"})
    run(app, mode, ASK, config)
    assert "It is 5." == run(app, mode, ASK, config)["messages"][-1].text
    assert 5 == len(till.witness.finished("model"))
    till.assert_exact()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_mcp_tools(till: Till):
    """Tools of an MCP server are tools as any other: charged per call, and denied before the server is called."""
    adapters, memory, server = (
        need("langchain_mcp_adapters.tools"),
        need("mcp.shared.memory"),
        need("mcp.server.fastmcp"),
    )
    fast = server.FastMCP("sums")
    calls: list[int] = []

    @fast.tool()  # type: ignore[untyped-decorator, unused-ignore]
    def multiply(a: int, b: int) -> int:
        """Multiply two numbers."""
        calls.append(a * b)
        return a * b

    price(till, "multiply")
    async with memory.create_connected_server_and_client_session(fast._mcp_server) as session:
        tools = await adapters.load_mcp_tools(session)
        model = ScriptedChatModel(responses=[call("multiply", a=2, b=3), "It is 6."])
        agent = create_agent(model, tools)
        answer = await agent.ainvoke(ASK, till.config())
        assert "It is 6." == answer["messages"][-1].text
        await asyncio.to_thread(till.assert_exact)
        till.ledger.entitle("tool.multiply")
        with pytest.raises(GateDenied):
            await tools[0].ainvoke({"a": 2, "b": 3}, till.unwitnessed())
    assert [6] == calls


@BOTH
def test_init_chat_model(till: Till, mode: str):
    """A model by name is charged as its provider's, also where the name comes with the call."""
    with LLMStub(Answer(), Answer()) as stub:
        fixed = init_chat_model("openai:gpt-4o-mini", base_url=stub.openai_base_url, api_key="made-up")
        chosen: Any = init_chat_model(
            model_provider="openai",
            configurable_fields=("model",),
            base_url=stub.openai_base_url,
            api_key="made-up",
        )
        for name in ("openai.gpt-4o-mini", "openai.gpt-4o"):
            for side in ("input", "output"):
                till.ledger.price(name, f"{name}.tokens.{side}", 1)
        first = run(fixed, mode, "question", till.config())
        second = run(chosen, mode, "question", till.config(configurable={"model": "gpt-4o"}))
    charged = {rating.feature_code: rating.quantity for rating in till.ratings()}
    assert {
        "openai.gpt-4o-mini": first.usage_metadata["total_tokens"],
        "openai.gpt-4o": second.usage_metadata["total_tokens"],
    } == charged


@BOTH
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_runnable_with_message_history(till: Till, mode: str):
    """A conversation over two turns: each turn's model call is charged with the history it sends."""
    histories: dict[str, InMemoryChatMessageHistory] = {}
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("user", "{question}")])
    chat = RunnableWithMessageHistory(
        prompt | ScriptedChatModel(),
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="question",
        history_messages_key="history",
    )
    for question in ("one", "two"):
        run(chat, mode, {"question": question}, till.config(configurable={"session_id": "1"}))
    assert 4 == len(histories["1"].messages)
    till.assert_exact()
    first, second = till.witness.finished("model").values()
    assert first.tokens is not None
    assert second.tokens is not None
    assert second.tokens[0] > first.tokens[0]


@BOTH
def test_the_functional_api(till: Till, mode: str):
    """Tasks of an entrypoint are charged once each, and not again when the entrypoint is resumed."""
    model = ScriptedChatModel()

    @task
    def think(text: str) -> str:
        return model.invoke(text).text

    @entrypoint(checkpointer=InMemorySaver())
    def work(texts: list[str]) -> list[str]:
        thoughts = [future.result() for future in [think(text) for text in texts]]
        return [*thoughts, interrupt("well?")]

    config = till.config(configurable={"thread_id": "1"})
    run(work, mode, ["one", "two", "three"], config)
    assert 4 == len(run(work, mode, Command(resume="yes"), config))
    assert 3 == model.calls
    till.assert_exact()


async def test_the_functional_api_async(till: Till):
    """Async tasks side by side are charged once each."""
    model = ScriptedChatModel()

    @task
    async def think(text: str) -> str:
        return (await model.ainvoke(text)).text

    @entrypoint()
    async def work(texts: list[str]) -> list[str]:
        return list(await asyncio.gather(*(think(text) for text in texts)))

    await work.ainvoke(["one", "two", "three"], till.config())
    await asyncio.to_thread(till.assert_exact)
    assert 3 == model.calls


def test_a_conversation_that_calls_a_tool_twice(till: Till):
    """Over turns of one thread each tool call is charged by itself."""

    def act(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage("Done.") if isinstance(messages[-1], ToolMessage) else calling(messages)

    agent: Any = create_agent(ScriptedChatModel(responses=[act]), [add], checkpointer=InMemorySaver())
    for _ in range(3):
        agent.invoke({"messages": [HumanMessage("2 + 3?")]}, till.config(configurable={"thread_id": "1"}))
    till.assert_exact()
    assert {MODEL: 6, "tool.add": 3} == {
        code: sum(rating.feature_code == code for rating in till.ratings()) for code in (MODEL, "tool.add")
    }
