"""The ways people run models with LangChain, and the modes in which each can be driven."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import create_react_agent

from langchain_vluna.testing.models import ScriptedChatModel

__all__ = ["MODES", "SHAPES", "Shape", "add", "answering", "arun", "calling", "perform", "run"]

MODES: Final = ("invoke", "ainvoke", "stream", "astream", "batch", "abatch", "astream_events")
SYNC_MODES: Final = ("invoke", "stream", "batch")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calling(messages: list[BaseMessage]) -> AIMessage:
    """Call the tool once, then answer; tokens grow with the prompt, so that no two calls report the same."""
    counts = 7 * len(messages), 3 + len(messages)
    usage = UsageMetadata(input_tokens=counts[0], output_tokens=counts[1], total_tokens=sum(counts))
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(f"The sum is {messages[-1].content}.", usage_metadata=usage)
    call = {"name": "add", "args": {"a": 2, "b": 3}, "id": f"call_{len(messages)}"}
    return AIMessage("", tool_calls=[call], usage_metadata=usage)


def answering(messages: list[BaseMessage]) -> AIMessage:
    """Answer at once."""
    counts = 7 * len(str(messages[-1].content)), 3 + len(messages)
    usage = UsageMetadata(input_tokens=counts[0], output_tokens=counts[1], total_tokens=sum(counts))
    return AIMessage("That depends on what is meant.", usage_metadata=usage)


class State(TypedDict):
    question: str
    answer: str


def model_alone(model: ScriptedChatModel) -> Any:
    return model


def chain(model: ScriptedChatModel) -> Any:
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    return prompt | model | StrOutputParser()


def parallel(model: ScriptedChatModel) -> Any:
    return RunnableParallel(one=chain(model), two=chain(model)) | RunnableLambda(str)


def agent_executor(model: ScriptedChatModel) -> Any:
    prompt = ChatPromptTemplate.from_messages([("user", "{question}"), ("placeholder", "{agent_scratchpad}")])
    tools: list[BaseTool] = [add]
    return AgentExecutor(agent=create_tool_calling_agent(model, tools, prompt), tools=tools)


def sync_node(model: ScriptedChatModel) -> Any:
    def think(state: State) -> State:
        return {"question": state["question"], "answer": str(model.invoke(state["question"]).content)}

    return _graph_of(think)


def async_node(model: ScriptedChatModel) -> Any:
    async def think(state: State) -> State:
        return {"question": state["question"], "answer": str((await model.ainvoke(state["question"])).content)}

    return _graph_of(think)


def _graph_of(node: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("think", node)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile()


def react_agent(model: ScriptedChatModel) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # still what much code in the field uses
        return create_react_agent(model, [add])


def agent(model: ScriptedChatModel) -> Any:
    return create_agent(model, [add])


@dataclass(frozen=True, kw_only=True)
class Shape:
    build: Callable[[ScriptedChatModel], Any]
    ask: Callable[[str], Any] = lambda question: {"question": question}
    """A question as this shape takes it."""
    answer: Callable[[list[BaseMessage]], AIMessage] = answering
    models: int = 1
    """Model runs per question."""
    tools: int = 0
    colours: str = "both"

    def model(self, **options: Any) -> ScriptedChatModel:
        return ScriptedChatModel(responses=[self.answer], **options)

    def modes(self) -> Sequence[str]:
        return [mode for mode in MODES if self.colours == "both" or mode not in SYNC_MODES]


def _messages(question: str) -> Any:
    return {"messages": [("user", question)]}


SHAPES: Final = {
    "model": Shape(build=model_alone, ask=str),
    "chain": Shape(build=chain),
    "parallel": Shape(build=parallel, models=2),
    "agent_executor": Shape(build=agent_executor, answer=calling, models=2, tools=1),
    "sync_node": Shape(build=sync_node),
    "async_node": Shape(build=async_node, colours="async"),
    "react_agent": Shape(build=react_agent, ask=_messages, answer=calling, models=2, tools=1),
    "create_agent": Shape(build=agent, ask=_messages, answer=calling, models=2, tools=1),
}

QUESTIONS: Final = ("What is 2 + 3?", "And what is the sum of two and three?", "2 + 3?")


def perform(runnable: Any, asked: Any, colour: str, config: Any) -> Any:
    """Invoke something in a colour, from code that is not async."""
    if colour == "sync":
        return runnable.invoke(asked, config)
    return asyncio.run(runnable.ainvoke(asked, config))


def run(shape: Shape, runnable: Any, mode: str, config: Any) -> int:
    """Drive a shape in a mode, from code that is not async; returns the number of questions asked."""
    match mode:
        case "invoke":
            runnable.invoke(shape.ask(QUESTIONS[0]), config)
        case "stream":
            assert list(runnable.stream(shape.ask(QUESTIONS[0]), config))
        case "batch":
            runnable.batch([shape.ask(question) for question in QUESTIONS], config)
        case _:
            asyncio.run(arun(shape, runnable, mode, config))
    return len(QUESTIONS) if "batch" in mode else 1


async def arun(shape: Shape, runnable: Any, mode: str, config: Any) -> None:
    """Drive a shape in an async mode."""
    match mode:
        case "ainvoke":
            await runnable.ainvoke(shape.ask(QUESTIONS[0]), config)
        case "astream":
            assert [chunk async for chunk in runnable.astream(shape.ask(QUESTIONS[0]), config)]
        case "abatch":
            await runnable.abatch([shape.ask(question) for question in QUESTIONS], config)
        case "astream_events":
            events = runnable.astream_events(shape.ask(QUESTIONS[0]), config, version="v2")
            assert [event async for event in events]
