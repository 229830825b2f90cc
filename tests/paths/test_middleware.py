"""The agent middleware: one gate however often it is stacked, and what callbacks cannot do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    ToolRetryMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_vluna import ConfigurationError, GateDenied, VlunaMiddleware, gated
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, GRANT, MODEL, Till
from tests.surfaces.shapes import add, calling

ASK: Any = {"messages": [("user", "2 + 3?")]}
CHEAP = "scripted.cheap"
MODES = ["invoke", "ainvoke", "stream", "astream"]


class Answer(BaseModel):
    """What the agent is to answer with."""

    value: int


def middleware(till: Till, **options: Any) -> VlunaMiddleware:
    return VlunaMiddleware(till.gate, **{"principal_id": CUSTOMER, **options})


def run(agent: Any, mode: str, config: Any = None, ask: Any = ASK) -> list[BaseMessage]:
    """Drive an agent and return its messages."""

    async def arun() -> Any:
        if mode == "ainvoke":
            return await agent.ainvoke(ask, config)
        return [state async for state in agent.astream(ask, config, stream_mode="values")][-1]

    if mode.startswith("a"):
        return asyncio.run(arun())["messages"]  # type: ignore[no-any-return]
    if mode == "invoke":
        return agent.invoke(ask, config)["messages"]  # type: ignore[no-any-return]
    return list(agent.stream(ask, config, stream_mode="values"))[-1]["messages"]  # type: ignore[no-any-return]


def price_cheap(till: Till) -> None:
    for side in ("input", "output"):
        till.ledger.price(CHEAP, f"{CHEAP}.tokens.{side}", 1)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_is_gated_by_its_middleware_alone(till: Till, mode: str):
    """Model and tool runs of an agent are charged as reported, with no handler in sight."""
    agent = create_agent(ScriptedChatModel(responses=[calling]), [add], middleware=[middleware(till)])
    assert "The sum is 5." == run(agent, mode, {"callbacks": [till.witness]})[-1].content
    ratings = till.by_run()
    assert {MODEL: 2, "tool.add": 1} == {
        code: sum(r.feature_code == code for r in ratings.values()) for code in (MODEL, "tool.add")
    }
    assert {run_id: seen.tokens for run_id, seen in till.witness.finished("model").items()} == {
        run_id: (r.meters[f"{MODEL}.tokens.input"], r.meters[f"{MODEL}.tokens.output"])
        for run_id, r in ratings.items()
        if r.feature_code == MODEL
    }
    assert (3, []) == (till.asked, till.open_leases())


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("stack", ["config", "model", "with_config", "gated", "two", "all"])
def test_stacked_with_the_handler_each_call_is_charged_once(till: Till, mode: str, stack: str):
    """Beside a handler in the config, on the model, around the agent, or another middleware: one charge per call."""
    handler = till.handler()
    model = ScriptedChatModel(responses=[calling])
    stacked: list[Any] = [middleware(till)]
    config: dict[str, Any] = {"callbacks": [till.witness]}
    if stack in {"model", "all"}:
        model.callbacks = [handler]
    if stack in {"two", "all"}:
        stacked.append(type("Second", (VlunaMiddleware,), {})(till.gate, principal_id=CUSTOMER))
    if stack in {"config", "all"}:
        config["callbacks"].append(handler)
    agent: Any = create_agent(model, [add], middleware=stacked)
    if stack in {"with_config", "all"}:
        agent = agent.with_config({"callbacks": [till.handler()]})
    if stack in {"gated", "all"}:
        with gated(till.handler()):
            run(agent, mode, config)
    else:
        run(agent, mode, config)
    assert (3, 3, []) == (len(till.by_run()), till.asked, till.open_leases())


def test_agents_inside_tools_are_gated_once(till: Till):
    """A middleware on an agent and on the agent in its tool, with a handler in the config, charge each call once."""
    inner = create_agent(ScriptedChatModel(responses=[calling]), [add], middleware=[middleware(till)])

    @tool
    def ask(question: str) -> str:
        """Ask the other agent."""
        return str(cast("Any", inner).invoke({"messages": [("user", question)]})["messages"][-1].content)

    call = AIMessage("", tool_calls=[{"name": "ask", "args": {"question": "2 + 3?"}, "id": "outer"}])
    outer = create_agent(ScriptedChatModel(responses=[call, "Done."]), [ask], middleware=[middleware(till)])
    outer.invoke(ASK, till.config())
    till.assert_exact()
    assert 6 == till.asked


def test_models_inside_tools_are_gated(till: Till):
    """A model that a tool calls on its own is charged, though the middleware is on the agent alone."""
    helper = ScriptedChatModel()

    @tool
    def ask(question: str) -> str:
        """Ask a model."""
        return str(helper.invoke(question, {"callbacks": []}).content)

    call = AIMessage("", tool_calls=[{"name": "ask", "args": {"question": "?"}, "id": "1"}])
    agent = create_agent(ScriptedChatModel(responses=[call, "Done."]), [ask], middleware=[middleware(till)])
    agent.invoke(ASK)
    assert [MODEL, MODEL, MODEL, "tool.ask"] == sorted(rating.feature_code for rating in till.ratings())


@pytest.mark.parametrize("mode", MODES)
def test_a_denial_is_an_error_by_default(make_till, mode: str):
    """The caller gets `GateDenied`, and the model is not called."""
    till = make_till(grant=0)
    model = ScriptedChatModel()
    agent = create_agent(model, [add], middleware=[middleware(till)])
    with pytest.raises(GateDenied) as denial:
        run(agent, mode)
    assert ("funding", 0, 1) == (denial.value.reason, model.calls, till.asked)


FORMATS = {"none": None, "schema": Answer, "tool": ToolStrategy(Answer), "provider": ProviderStrategy(Answer)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tools", [[], [add]], ids=["no_tools", "tools"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_an_agent_can_end_in_words(make_till, mode: str, tools: list[Any], format_name: str):
    """With `end` a denied agent answers with a readable last message, at once, whatever its response format."""
    till = make_till(grant=0)
    model = ScriptedChatModel()
    agent = create_agent(
        model, tools, middleware=[middleware(till, exit_behavior="end")], response_format=FORMATS[format_name]
    )
    last = run(agent, mode)[-1]
    assert isinstance(last, AIMessage)
    assert "I cannot go on: the balance is used up." == last.content
    assert (0, 1) == (model.calls, till.asked)


def test_an_ended_thread_goes_on_after_a_top_up(make_till):
    """The next question of the same thread is answered once there is money."""
    till = make_till(grant=0)
    agent = create_agent(
        ScriptedChatModel(responses=["Yes."]),
        [],
        middleware=[middleware(till, exit_behavior="end")],
        checkpointer=InMemorySaver(),
        response_format=None,
    )
    config = {"configurable": {"thread_id": "1"}}
    assert "I cannot go on" in run(agent, "invoke", config)[-1].text
    till.ledger.grant(CUSTOMER, GRANT)
    assert "Yes." == run(agent, "invoke", config)[-1].content


class After(AgentMiddleware[Any, Any, Any]):
    """Has a node after the model."""

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Change the state."""
        return {"messages": []}


class Back(AgentMiddleware[Any, Any, Any]):
    """Is never content with an answer."""

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Ask again."""
        return {"jump_to": "model"}


def test_an_agent_with_nodes_after_its_model_can_end_too(make_till):
    """The jump to the end survives other middlewares' `after_model`, though nothing but it would end the agent."""
    till = make_till(grant=0)
    stacked = [middleware(till, exit_behavior="end"), After(), type("Second", (After,), {})()]
    agent = create_agent(ScriptedChatModel(), [], middleware=stacked, response_format=ToolStrategy(Answer))
    assert "I cannot go on" in agent.invoke(ASK)["messages"][-1].text
    assert 1 == till.asked


def test_where_an_agent_cannot_be_ended_the_denial_is_raised(make_till):
    """A middleware that sends the agent back to its model gets an error then, and no loop."""
    till = make_till(grant=0)
    stacked = [Back(), middleware(till, exit_behavior="end")]
    agent = create_agent(ScriptedChatModel(), [], middleware=stacked, response_format=ToolStrategy(Answer))
    with pytest.raises(GateDenied):
        agent.invoke(ASK)
    assert 1 == till.asked


@pytest.mark.parametrize("mode", MODES)
def test_a_denied_tool_is_told_to_the_model(till: Till, mode: str):
    """With `end` a denied tool is a tool message with status error, and the model goes on without it."""
    till.ledger.entitle("tool.add")

    def act(messages: list[BaseMessage]) -> AIMessage:
        told = messages[-1]
        return AIMessage("I did without.") if isinstance(told, ToolMessage) else calling(messages)

    model = ScriptedChatModel(responses=[act])
    agent = create_agent(model, [add], middleware=[middleware(till, exit_behavior="end")])
    *_, told, last = run(agent, mode)
    assert isinstance(told, ToolMessage)
    assert ("error", "add") == (told.status, told.name)
    assert "the plan does not include this" in told.text
    assert ("I did without.", 2) == (last.content, len(till.ratings()))


@pytest.mark.parametrize("mode", MODES)
def test_a_denied_tool_is_an_error_by_default(till: Till, mode: str):
    """Without `end` a denied tool stops the agent with the denial."""
    till.ledger.entitle("tool.add")
    model = ScriptedChatModel(responses=[calling])
    with pytest.raises(GateDenied) as denial:
        run(create_agent(model, [add], middleware=[middleware(till)]), mode)
    assert ("entitlement", 1) == (denial.value.reason, model.calls)


@pytest.mark.parametrize("mode", MODES)
def test_a_denied_model_falls_back(till: Till, mode: str):
    """With a fallback model a denied feature is replaced, and what is charged is the fallback's."""
    till.ledger.entitle(MODEL)
    price_cheap(till)
    first, cheap = ScriptedChatModel(), ScriptedChatModel(responses=[calling], model="cheap")
    agent = create_agent(first, [add], middleware=[middleware(till, fallback_model=cheap)])
    assert "The sum is 5." == run(agent, mode)[-1].content
    assert (0, 2) == (first.calls, cheap.calls)
    assert [CHEAP, CHEAP, "tool.add"] == sorted(rating.feature_code for rating in till.ratings())


@pytest.mark.parametrize("exit_behavior", ["error", "end"])
def test_a_denied_fallback_is_the_end(make_till, exit_behavior: Any):
    """Where the fallback is denied too, the agent ends as chosen."""
    till = make_till(grant=0)
    price_cheap(till)
    cheap = ScriptedChatModel(model="cheap")
    stacked = [middleware(till, fallback_model=cheap, exit_behavior=exit_behavior)]
    agent = create_agent(ScriptedChatModel(), [], middleware=stacked)
    if exit_behavior == "error":
        with pytest.raises(GateDenied) as denial:
            agent.invoke(ASK)
        assert CHEAP == denial.value.feature_code
    else:
        assert "I cannot go on" in agent.invoke(ASK)["messages"][-1].text
    assert (0, 2) == (cheap.calls, till.asked)


@pytest.mark.parametrize("mode", MODES)
def test_a_hint_at_authorize_switches_to_the_fallback(till: Till, mode: str):
    """Where authorize says that the estimate exceeds what is left, the cheap model does the work, before any call."""
    price_cheap(till)
    first, cheap = ScriptedChatModel(max_tokens=GRANT), ScriptedChatModel(model="cheap")
    agent = create_agent(first, [], middleware=[middleware(till, fallback_model=cheap)])
    run(agent, mode)
    assert (0, 1) == (first.calls, cheap.calls)
    assert ([CHEAP], []) == ([rating.feature_code for rating in till.ratings()], till.open_leases())


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_a_low_budget_switches_to_the_fallback(till: Till, mode: str):
    """After a commit that says the budget is low, the same customer's next calls are the cheap model's."""
    price_cheap(till)
    budget = till.ledger.budget(CUSTOMER, 800)
    first, cheap = ScriptedChatModel(), ScriptedChatModel(model="cheap")
    stacked = [middleware(till, fallback_model=cheap, budget=budget, estimate=None)]
    agent = create_agent(first, [], middleware=stacked)
    run(agent, mode)
    till.ratings()
    asked = till.asked
    run(agent, mode)
    assert (1, 1, asked + 1) == (first.calls, cheap.calls, till.asked)


def test_without_a_fallback_a_hint_changes_nothing(till: Till):
    """The same hints only warn where there is nothing to go over to."""
    first = ScriptedChatModel(max_tokens=GRANT)
    run(create_agent(first, [], middleware=[middleware(till)]), "invoke")
    assert 1 == first.calls


def test_an_inner_middleware_leaves_degrading_to_the_outer_one(till: Till):
    """A second middleware without a fallback neither ends the agent nor hides the outer one's fallback."""
    price_cheap(till)
    first, cheap = ScriptedChatModel(max_tokens=GRANT), ScriptedChatModel(model="cheap")
    inner = type("Inner", (VlunaMiddleware,), {})(till.gate, principal_id=CUSTOMER, exit_behavior="end")
    agent = create_agent(first, [], middleware=[middleware(till, fallback_model=cheap), inner])
    run(agent, "invoke")
    assert (0, 1) == (first.calls, cheap.calls)


def test_a_fallback_can_be_named(till: Till, monkeypatch: pytest.MonkeyPatch):
    """A name is made a model as `init_chat_model` does it, when the middleware is made."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    assert middleware(till, fallback_model="openai:gpt-4o-mini")._fallback.model_name == "gpt-4o-mini"  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("other", ["retry", "fallback", "tool_retry"])
@pytest.mark.parametrize("first", [True, False], ids=["outer", "inner"])
def test_other_middlewares_neither_swallow_nor_repeat_a_denial(make_till, mode: str, other: str, *, first: bool):
    """Whether inside or outside of retry and fallback middlewares, a denial reaches the caller after one question."""
    till = make_till(grant=0)
    others: dict[str, Any] = {
        "retry": ModelRetryMiddleware(max_retries=3, initial_delay=0.0),
        "fallback": ModelFallbackMiddleware(ScriptedChatModel(model="other")),
        "tool_retry": ToolRetryMiddleware(max_retries=3, initial_delay=0.0),
    }
    stacked = [middleware(till), others[other]]
    agent = create_agent(ScriptedChatModel(), [add], middleware=stacked if first else stacked[::-1])
    with pytest.raises(GateDenied):
        run(agent, mode)
    assert 1 == till.asked


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_each_attempt_of_a_retry_is_gated(till: Till, mode: str):
    """A provider that fails once costs one cancelled lease and one charge."""
    model = ScriptedChatModel(responses=[RuntimeError("provider"), "Yes."])
    stacked = [ModelRetryMiddleware(max_retries=2, initial_delay=0.0), middleware(till)]
    run(create_agent(model, [], middleware=stacked), mode)
    assert (2, 1, []) == (till.asked, len(till.ratings()), till.open_leases())


async def test_a_cancelled_agent_is_settled_at_once(till: Till):
    """A cancellation that callbacks do not see leaves no open lease, though the task that runs the model lives on."""
    model = ScriptedChatModel(hang_after=0)
    gate = middleware(till)

    async def handler(request: Any) -> Any:
        return await model.ainvoke("hangs")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gate.awrap_model_call(None, handler)  # type: ignore[arg-type]
    assert 0 == await till.gate.aflush(5.0)
    assert ["canceled"] == [lease.state for lease in till.ledger.leases()]


@pytest.mark.parametrize("how", ["timeout", "cancel", "stream"])
async def test_a_cancelled_agent_leaves_nothing_open(till: Till, how: str):
    """A timeout, a cancelled task and a broken stream of an agent: what was finished is charged, nothing stays open."""
    model = ScriptedChatModel(responses=[calling, "never said"], hang_after=None)
    stuck = ScriptedChatModel(hang_after=0)

    class Switch(AgentMiddleware[Any, Any, Any]):
        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            asked = isinstance(request.messages[-1], ToolMessage)
            return await handler(request.override(model=stuck) if asked else request)

    agent = create_agent(model, [add], middleware=[Switch(), middleware(till)])

    async def use() -> None:
        if how == "stream":
            async for _ in agent.astream(ASK, stream_mode="updates"):
                pass
        else:
            await agent.ainvoke(ASK)

    task = asyncio.create_task(use())
    async with asyncio.timeout(5):
        while stuck.calls == 0:
            await asyncio.to_thread(lambda: None)
    task.cancel()
    await asyncio.wait([task])
    assert 0 == await till.gate.aflush(5.0)
    assert [MODEL, "tool.add"] == sorted(rating.feature_code for rating in till.ledger.ratings())
    assert [] == [lease for lease in till.ledger.leases("active") if not lease.commits]


async def test_many_customers_through_one_middleware(till: Till):
    """Fifty concurrent agents, each with its customer in the metadata, are charged to their own."""
    names = [f"customer_{number:02}" for number in range(50)]
    for name in names:
        till.ledger.grant(name, GRANT)
    agent = create_agent(ScriptedChatModel(responses=[calling]), [add], middleware=[middleware(till)])
    await asyncio.gather(*(agent.ainvoke(ASK, {"metadata": {"vluna_principal_id": name}}) for name in names))
    ratings = await asyncio.to_thread(till.ratings)
    assert dict.fromkeys(names, 3) == {name: sum(rating.principal_id == name for rating in ratings) for name in names}
    assert 1 == len({GRANT - till.ledger.balance(name) for name in names})


def test_the_runtime_context_says_who_pays(till: Till):
    """LangGraph's `context=` is read, for models and tools."""
    from dataclasses import dataclass

    @dataclass
    class Context:
        vluna_principal_id: str

    till.ledger.grant("by_context", GRANT)
    agent = create_agent(
        ScriptedChatModel(responses=[calling]), [add], middleware=[middleware(till)], context_schema=Context
    )
    cast("Any", agent).invoke(ASK, context=Context("by_context"))
    assert {"by_context"} == {rating.principal_id for rating in till.ratings()}


def test_an_unknown_exit_behavior_is_refused(till: Till):
    """A misspelt choice is a configuration error that names the choices."""
    with pytest.raises(ConfigurationError, match=r"exit_behavior.*'error', 'end'"):
        middleware(till, exit_behavior="stop")


def test_without_langchain_the_error_names_the_extra():
    """Only the middleware needs langchain, and says what to install."""
    code = textwrap.dedent("""
        import sys
        sys.modules["langchain"] = None
        from langchain_vluna import Gate, VlunaCallbackHandler, gated
        try:
            from langchain_vluna import VlunaMiddleware
        except ImportError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'langchain-vluna[agents]'" in done.stdout
