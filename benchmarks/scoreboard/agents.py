"""The scenarios with agents."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from benchmarks.scoreboard.desk import Desk
from benchmarks.scoreboard.scenarios import Scenario, run_async

__all__ = ["AGENTS", "TOOLS"]

ASK: Any = {"messages": [("user", "a question")]}
TOOLS = ("add", "fail", "ask", "delegate")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail() -> str:
    """Fail."""
    msg = "broken"
    raise ValueError(msg)


@tool
def ask() -> str:
    """Ask a person."""
    return str(interrupt("well?"))


class Answer(BaseModel):
    """What the agent answers with."""

    value: int


def calling(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])


def timed_out_agent(desk: Desk) -> None:
    model, stuck = desk.model(responses=[calling("add", a=2, b=3)]), desk.model(hang_after=0)

    class Switch(AgentMiddleware[Any, Any, Any]):
        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            answered = isinstance(request.messages[-1], ToolMessage)
            return await handler(request.override(model=stuck) if answered else request)

    agent = create_agent(model, [add], middleware=[Switch(), *desk.middleware()])

    async def play() -> None:
        task = asyncio.create_task(agent.ainvoke(ASK, desk.config()))
        async with asyncio.timeout(5):
            while not stuck.calls:
                await asyncio.to_thread(lambda: None)
        with suppress(TimeoutError):
            await asyncio.wait_for(task, 0.01)

    run_async(play())


def tool_error(desk: Desk) -> None:
    agent = create_agent(desk.model(responses=[calling("fail")]), [fail], middleware=desk.middleware())
    with suppress(ValueError):
        agent.invoke(ASK, desk.config())


def interrupt_and_resume(desk: Desk) -> None:
    model = desk.model(responses=[calling("ask"), "aaa bbb"])
    agent: Any = create_agent(model, [ask], middleware=desk.middleware(), checkpointer=InMemorySaver())
    config = desk.config(configurable={"thread_id": "1"})
    agent.invoke(ASK, config)
    agent.invoke(Command(resume="yes"), config)


def nested_agents(desk: Desk) -> None:
    inner_model = desk.model(responses=[calling("add", a=2, b=3), "aaa bbb"])
    inner: Any = create_agent(inner_model, [add], middleware=desk.middleware())

    @tool
    def delegate() -> str:
        """Let somebody else do it."""
        return str(inner.invoke(ASK)["messages"][-1].content)

    outer_model = desk.model(responses=[calling("delegate"), "ccc ddd"])
    create_agent(outer_model, [delegate], middleware=desk.middleware()).invoke(ASK, desk.config())


def handler_and_middleware(desk: Desk) -> None:
    middleware = desk.subject.middleware()
    model = desk.model(responses=[calling("add", a=2, b=3), "aaa bbb"])
    create_agent(model, [add], middleware=[middleware] if middleware else []).invoke(ASK, desk.config())


def structured_output(desk: Desk) -> None:
    model = desk.model(responses=[calling("Answer", value=5)])
    agent = create_agent(model, [], middleware=desk.middleware(), response_format=ToolStrategy(Answer))
    agent.invoke(ASK, desk.config())


AGENTS = (
    Scenario("timed-out agent", timed_out_agent, calls=2, admitted=3),
    Scenario("tool error", tool_error, calls=1, admitted=2),
    Scenario("interrupt + resume", interrupt_and_resume, calls=2, admitted=4),
    Scenario("nested agents", nested_agents, calls=4, admitted=6),
    Scenario("handler + middleware", handler_and_middleware, calls=2, admitted=3),
    Scenario("structured output", structured_output, calls=1, admitted=1),
)
