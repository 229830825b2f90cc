from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.recorder import Recorder

QUESTION: Any = {"messages": [("user", "2 + 3?")]}
USAGE: Any = {"input_tokens": 40, "output_tokens": 9, "total_tokens": 49}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calculator() -> ScriptedChatModel:
    call = {"name": "add", "args": {"a": 2, "b": 3}, "id": "call_1"}
    return ScriptedChatModel(responses=[AIMessage("Let me see.", tool_calls=[call]), "2 + 3 is 5."], usage=USAGE)


def usage_of(message: AIMessage) -> Any:
    return message.usage_metadata


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def test_it_answers_in_turn_and_starts_over():
    """Responses come in order, again from the first after the last, and each call counts."""
    model = ScriptedChatModel(responses=["one", "two"])
    assert ["one", "two", "one"] == [model.invoke("x").content for _ in range(3)]
    assert 3 == model.calls


@given(st.text(max_size=60))
def test_a_stream_is_the_answer_in_pieces(text: str):
    """The chunks of a stream join to what invoke answers: text, tool calls, usage, model and finish reason."""
    call = {"name": "add", "args": {"a": 1}, "id": "c", "type": "tool_call"}
    model = ScriptedChatModel(responses=[AIMessage(text, tool_calls=[call])], usage=USAGE)
    answer, whole = model.invoke("x"), merged(list(model.stream("x")))
    assert isinstance(whole, AIMessageChunk)
    for name in ("content", "usage_metadata", "response_metadata"):
        assert getattr(answer, name) == getattr(whole, name)
    assert [call] == answer.tool_calls == whole.tool_calls


def test_a_stream_reports_usage_once_near_its_end():
    """As with providers, one chunk before the empty last one has the usage."""
    *_, usage, last = ScriptedChatModel(responses=["a b c"], usage=USAGE).stream("x")
    assert USAGE == usage.usage_metadata
    assert ("", None, "last") == (last.content, last.usage_metadata, last.chunk_position)


async def test_both_colours_answer_alike():
    """The async twins give what the sync methods give."""
    model = ScriptedChatModel(responses=["a b"], usage=USAGE)
    whole = merged([chunk async for chunk in model.astream("x")])
    answer = await model.ainvoke("x")
    assert ("a b", "a b") == (answer.content, whole.content)
    assert [USAGE, USAGE] == [answer.usage_metadata, whole.usage_metadata]
    assert 2 == model.calls


def test_usage_is_counted_where_none_is_given():
    """Without a scripted usage both sides are approximated from the messages and are never zero."""
    short, long = (usage_of(ScriptedChatModel(responses=[text]).invoke(text)) for text in ("", "word " * 100))
    assert 0 < short["input_tokens"] < long["input_tokens"]
    assert 0 < short["output_tokens"] < long["output_tokens"]


def test_a_messages_own_usage_wins():
    """A scripted message with usage reports that usage, and the script's own object stays as it was."""
    message = AIMessage("x", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3})
    answer = ScriptedChatModel(responses=[message], usage=USAGE).invoke("x")
    assert 3 == usage_of(answer)["total_tokens"]
    assert ({}, None) == (message.response_metadata, message.id)


def test_usage_can_be_left_out():
    """`report_usage=False` reports none, whole or streamed, whatever the script says."""
    model = ScriptedChatModel(responses=["a b"], usage=USAGE, report_usage=False)
    assert model.invoke("x").usage_metadata is None
    assert all(chunk.usage_metadata is None for chunk in model.stream("x"))


@pytest.mark.parametrize("error", [ValueError("no"), ValueError, KeyboardInterrupt()])
def test_a_scripted_error_is_raised_and_counts(error: Any):
    """An exception in the script is raised by its call, which the provider would have seen."""
    model = ScriptedChatModel(responses=[error, "fine"])
    with pytest.raises((ValueError, KeyboardInterrupt)):
        model.invoke("x")
    assert "fine" == model.invoke("x").content
    assert 2 == model.calls


def test_a_function_answers_from_the_prompt():
    """A callable gets the messages and gives text or a message."""

    def echo(messages: list[BaseMessage]) -> str:
        return str(messages[-1].content).upper()

    assert "HI" == ScriptedChatModel(responses=[echo]).invoke("hi").content


def test_an_empty_script_is_refused():
    """A model needs at least one response."""
    with pytest.raises(ValidationError, match="responses"):
        ScriptedChatModel(responses=[])


def test_callbacks_learn_provider_model_and_limit():
    """Provider, model and token limit are LangChain's own metadata, a bound model included."""
    recorder = Recorder()
    model = ScriptedChatModel(model="m-1", provider="acme", max_tokens=77)
    model.bind(model="m-2").invoke("x", config={"callbacks": [recorder]})
    metadata = recorder.starts[0]["metadata"]
    assert ("acme", "m-2", 77) == tuple(metadata[f"ls_{key}"] for key in ("provider", "model_name", "max_tokens"))
    assert "m-2" == recorder.results[0].generations[0][0].message.response_metadata["model_name"]


def test_tools_reach_callbacks():
    """Bound tools and the choice among them are part of the invocation parameters, as with real clients."""
    recorder = Recorder()
    calculator().bind_tools([add], tool_choice="any").invoke("x", config={"callbacks": [recorder]})
    params = recorder.starts[0]["invocation_params"]
    assert ["add"] == [spec["function"]["name"] for spec in params["tools"]]
    assert "any" == params["tool_choice"]


def test_calls_are_counted_across_threads_and_copies():
    """Threads and deep copies share one script and one count."""
    model = ScriptedChatModel(responses=["a", "b"])
    twin = model.model_copy(deep=True)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda index: (model, twin)[index % 2].invoke("x").content, range(200)))
    assert (100, 100) == (answers.count("a"), answers.count("b"))
    assert 200 == model.calls == twin.calls


def test_an_agent_calls_the_scripted_tool():
    """`create_agent` runs the tool and ends with the second response."""
    model = calculator()
    state = create_agent(model, [add]).invoke(QUESTION)
    assert ["human", "ai", "tool", "ai"] == [message.type for message in state["messages"]]
    assert ("5", "2 + 3 is 5.") == tuple(message.content for message in state["messages"][-2:])
    assert 2 == model.calls


def test_a_react_agent_calls_the_scripted_tool():
    """LangGraph's prebuilt agent does, too."""
    from langgraph.prebuilt import create_react_agent

    model = calculator()
    with pytest.warns(DeprecationWarning, match="create_react_agent"):
        agent = create_react_agent(model, [add])
    assert "2 + 3 is 5." == agent.invoke(QUESTION)["messages"][-1].content
    assert 2 == model.calls


def test_an_agent_executor_calls_the_scripted_tool():
    """The classic executor, which streams, runs the same script."""
    model = calculator()
    prompt = ChatPromptTemplate.from_messages([("human", "{input}"), ("placeholder", "{agent_scratchpad}")])
    executor = AgentExecutor(agent=create_tool_calling_agent(model, [add], prompt), tools=[add])
    assert "2 + 3 is 5." == executor.invoke({"input": "2 + 3?"})["output"]
    assert 2 == model.calls


def test_structured_output_comes_from_a_scripted_call():
    """`with_structured_output` parses the call that the script makes."""

    class Sum(BaseModel):
        value: int

    call = {"name": "Sum", "args": {"value": 5}, "id": "call_1"}
    model = ScriptedChatModel(responses=[AIMessage("", tool_calls=[call])])
    assert Sum(value=5) == model.with_structured_output(Sum).invoke("x")


def test_tool_arguments_are_streamed_as_text():
    """A streamed call begins with its name and goes on with its arguments, as providers do."""
    chunks = [chunk.tool_call_chunks[0] for chunk in calculator().stream("x") if chunk.tool_call_chunks]
    assert ["add", None] == [chunk["name"] for chunk in chunks]
    assert {"a": 2, "b": 3} == json.loads("".join(chunk["args"] or "" for chunk in chunks))


async def test_a_hanging_stream_can_be_cancelled():
    """It hangs after the given number of chunks and goes away with its task."""
    model = ScriptedChatModel(responses=["a b c"], hang_after=2)
    stream = model.astream("x")
    assert ["a", " b"] == [(await anext(stream)).text for _ in range(2)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.05)


async def test_a_hanging_answer_can_be_cancelled():
    """A whole answer hangs before it is given."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ScriptedChatModel(hang_after=0).ainvoke("x"), 0.05)


def test_a_hanging_model_can_be_released_from_another_thread():
    """`release` lets a sync caller go on, and nobody hangs after it."""
    model = ScriptedChatModel(responses=["a b"], hang_after=0)
    threading.Timer(0.02, model.release).start()
    assert "a b" == model.invoke("x").content
    assert "a b" == merged(list(model.stream("x"))).content


async def test_a_released_model_goes_on_in_async_code():
    """`release` reaches tasks, too, and delays are waited for without blocking the loop."""
    model = ScriptedChatModel(responses=["a b"], hang_after=0, delay=0.001)
    asyncio.get_running_loop().call_later(0.02, model.release)
    assert "a b" == (await model.ainvoke("x")).content


def test_a_delay_is_waited_for():
    """A delay holds each chunk of a stream."""
    naps: list[float | None] = []

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        naps.append(timeout)
        return True

    model = ScriptedChatModel(responses=["a"], delay=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Event, "wait", wait)
        chunks = list(model.stream("x"))
    assert [0.001] * len(chunks) == naps
