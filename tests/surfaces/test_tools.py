"""Tools: how they are measured, which are gated, what their errors and interrupts mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_vluna import ConfigurationError, GateRejected
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna.callbacks import metering
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import add, calling, perform
from tests.surfaces.waiting import settled_sync

pytestmark = pytest.mark.usefixtures("quick_watch")


@tool
def fail(a: int, b: int) -> int:
    """Fail in a way that a model may be told of."""
    msg = "no such number"
    raise ToolException(msg)


@tool
def ask(a: int, b: int) -> str:
    """Ask a person."""
    return str(interrupt({"question": f"{a} or {b}?"}))


@tool
def search(a: int, b: int) -> str:
    """Search."""
    return "three bytes each: äöü"


def naming(name: str) -> Callable[[list[BaseMessage]], AIMessage]:
    """Return an answer that calls the tool `name` once."""

    def answer(messages: list[BaseMessage]) -> AIMessage:
        message = calling(messages)
        for call in message.tool_calls:
            call["name"] = name
        return message

    return answer


def agent_with(function: Any, **options: Any) -> Any:
    return create_agent(ScriptedChatModel(responses=[naming(function.name)]), [function], **options)


ASK = {"messages": [("user", "What is 2 + 3?")]}
COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


@COLOURS
@pytest.mark.parametrize("tools", [None, ["other"], {"other": "calls"}, lambda _: None, lambda _: False])
def test_a_tool_that_is_not_gated_runs_unasked(till: Till, tools: Any, colour: str) -> None:
    """A tool that `tools=` leaves out is neither asked for nor charged, and its agent's model runs are."""
    perform(agent_with(add), ASK, colour, till.config(till.handler(tools=tools)))
    assert (2, 2) == (till.asked, len(till.ratings()))
    assert [] == till.open_leases()


@COLOURS
@pytest.mark.parametrize(
    ("tools", "quantity"),
    [
        ("all", 1),
        (["search"], 1),
        ({"search": "calls"}, 1),
        ({"search": "bytes"}, len("three bytes each: äöü".encode())),
        ({"search": "seconds"}, 1),
        ({"search": lambda inputs, output: inputs["a"] + len(str(output.content))}, 2 + len("three bytes each: äöü")),
        (lambda _: True, 1),
        (lambda name: "bytes" if name == "search" else None, len("three bytes each: äöü".encode())),
    ],
)
def test_a_tool_is_measured_as_the_user_says(till: Till, tools: Any, quantity: int, colour: str) -> None:
    """A tool is charged by call, by begun second, by byte of its output, or by a callable of input and output."""
    perform(agent_with(search), ASK, colour, till.config(till.handler(tools=tools)))
    ratings = [rating for rating in till.ratings() if rating.feature_code == "tool.search"]
    assert [(quantity, "reported", "applied")] == [(r.quantity, r.labels["usage_source"], r.status) for r in ratings]
    assert [{}, {"tool.search": quantity}][len(ratings[0].meters)] == dict(ratings[0].meters)


def test_seconds_are_the_tool_s_own(local_till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that takes its time to answer makes no tool dearer."""
    now, send = [0.0], local_till.ledger.send

    def slow(request: HttpRequest) -> HttpResponse:
        now[0] += 5.0
        return send(request)

    def took_two_seconds(text: str) -> str:
        now[0] += 2.0
        return text

    monkeypatch.setattr(local_till.ledger, "send", slow)
    monkeypatch.setattr(metering, "time", SimpleNamespace(monotonic=lambda: now[0]))
    search = tool("search", description="Search.")(took_two_seconds)
    search.invoke({"text": "q"}, local_till.unwitnessed(local_till.handler(tools={"search": "seconds"})))
    assert [2] == [rating.quantity for rating in local_till.ratings()]


@COLOURS
def test_a_quantity_callable_that_breaks_charges_one_call(till: Till, colour: str) -> None:
    """A broken quantity callable loses neither the answer nor the charge: one call, said to be an estimate."""
    handler = till.handler(tools={"search": lambda _inputs, output: output.missing})
    answer = perform(agent_with(search), ASK, colour, till.config(handler))
    assert "The sum is" in answer["messages"][-1].content
    ratings = [rating for rating in till.ratings() if rating.feature_code == "tool.search"]
    assert [(1, "estimated")] == [(rating.quantity, rating.labels["usage_source"]) for rating in ratings]


@pytest.mark.parametrize("quantity", [-1, 1.5, "2", None])
def test_an_impossible_quantity_charges_one_call(till: Till, quantity: Any) -> None:
    """A callable's quantity that cannot be sent is one call, estimated, and never an error after the work."""
    add.invoke({"a": 1, "b": 2}, till.config(till.handler(tools={"add": lambda _inputs, _output: quantity})))
    assert [(1, "estimated")] == [(rating.quantity, rating.labels["usage_source"]) for rating in till.ratings()]


def test_a_quantity_of_zero_is_free(till: Till) -> None:
    """A callable that says 0 cancels the lease."""
    add.invoke({"a": 1, "b": 2}, till.config(till.handler(tools={"add": lambda _inputs, _output: 0})))
    assert [] == till.ratings()
    assert ["canceled"] == [view.state for view in till.ledger.leases()]


@COLOURS
def test_a_handled_tool_error_is_a_call(till: Till, colour: str) -> None:
    """A ToolException that the tool turns into a message did its work: charged, with a label that says so."""
    fail.handle_tool_error = True
    perform(agent_with(fail), ASK, colour, till.config())
    rating = next(rating for rating in till.ratings() if rating.feature_code == "tool.fail")
    assert ("error", 1) == (rating.labels["status"], rating.quantity)
    assert [] == till.open_leases()


@COLOURS
def test_an_unhandled_tool_error_is_not_charged(make_till: MakeTill, colour: str) -> None:
    """A tool that raises is cancelled, and its error reaches the caller as it is."""
    till = make_till()
    fail.handle_tool_error = False
    with pytest.raises(ToolException, match="no such number"):
        perform(fail, {"a": 1, "b": 2}, colour, till.config())
    assert [] == till.ratings()
    assert ["canceled"] == [view.state for view in till.ledger.leases()]


@COLOURS
def test_arguments_a_tool_does_not_take_are_not_charged(till: Till, colour: str) -> None:
    """A call with arguments the tool refuses did no work."""
    with pytest.raises(ValueError, match="validation error"):
        perform(add, {"a": "x"}, colour, till.config())
    assert [] == till.ratings()
    assert [] == till.open_leases()


@COLOURS
def test_an_interrupt_cancels_and_the_resumed_tool_is_a_run_of_its_own(till: Till, colour: str) -> None:
    """A tool that waits for a person is cancelled at the interrupt, and charged once when resumed."""
    runnable = agent_with(ask, checkpointer=InMemorySaver())
    config = till.config(configurable={"thread_id": "thread_1"})
    first = perform(runnable, ASK, colour, config)
    assert "__interrupt__" in first
    assert ["scripted.scripted-1"] == [rating.feature_code for rating in till.ratings()]
    assert [] == till.open_leases()
    perform(runnable, Command(resume="two"), colour, config)
    settled_sync(till)
    till.assert_exact(asked=4)
    assert {"thread_1"} == {rating.labels["thread_id"] for rating in till.ratings()}


@COLOURS
def test_a_step_is_charged_once_however_often_it_is_resumed(till: Till, colour: str) -> None:
    """Under `idempotency="step"` the model call that a resumed node repeats is not charged again."""
    calls: list[str] = []

    @tool
    def think_and_ask(a: int, b: int) -> str:
        """Think, then ask a person."""
        calls.append(str(ScriptedChatModel(responses=["thought"]).invoke("q").content))
        return str(interrupt("which?"))

    runnable = agent_with(think_and_ask, checkpointer=InMemorySaver())
    handler = till.handler(idempotency="step", tools=None)
    config = till.config(handler, configurable={"thread_id": "thread_1"})
    perform(runnable, ASK, colour, config)
    perform(runnable, Command(resume="two"), colour, config)
    assert ["thought", "thought"] == calls
    assert 3 == len(settled_sync(till))
    till.unpaid = 1


def test_a_tool_the_gate_does_not_know_is_named_in_the_error(make_till: MakeTill) -> None:
    """A gate without auto-registration refuses an unknown tool, naming the feature and the setting to change."""
    till = make_till(ledger_options={"auto_registry": False})

    @tool
    def stranger(a: int, b: int) -> int:
        """Nobody knows this tool."""
        return a + b

    with pytest.raises(GateRejected, match=r"register feature 'tool\.stranger' .* tools=") as caught:
        stranger.invoke({"a": 1, "b": 2}, till.config())
    assert 422 == caught.value.status


def test_a_model_the_gate_does_not_know_is_named_in_the_error(make_till: MakeTill) -> None:
    """A gate without auto-registration refuses an unknown model, naming the feature and the setting to change."""
    till = make_till(ledger_options={"auto_registry": False})
    with pytest.raises(GateRejected, match=r"register feature 'scripted\.stranger' .* features="):
        ScriptedChatModel(model="stranger").invoke("q", till.config())


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_tool_alone_is_gated(till: Till, colour: str) -> None:
    """A tool called by hand, sync or async, is asked for and charged."""
    assert 5 == perform(add, {"a": 2, "b": 3}, colour, till.config())
    till.assert_exact()


async def test_async_tools_run_at_once_are_charged_each(till: Till) -> None:
    """Twenty async tool calls at once are twenty charges."""

    @tool("add")
    async def slow_add(a: int, b: int) -> int:
        """Add slowly."""
        await asyncio.sleep(0)
        return a + b

    await asyncio.gather(*(slow_add.ainvoke({"a": n, "b": 1}, till.config()) for n in range(20)))
    await asyncio.to_thread(till.assert_exact)


@COLOURS
def test_parallel_tool_calls_of_one_answer_are_charged_each(till: Till, colour: str) -> None:
    """Three tool calls in one answer are three charges."""

    def answer(messages: list[BaseMessage]) -> AIMessage:
        message = calling(messages)
        if not isinstance(messages[-1], ToolMessage):
            message.tool_calls = [{**message.tool_calls[0], "id": f"call_{n}"} for n in range(3)]
        return message

    perform(create_agent(ScriptedChatModel(responses=[answer]), [add]), ASK, colour, till.config())
    assert 3 == len(till.witness.finished("tool"))
    till.assert_exact()


@pytest.mark.parametrize(
    "tools", ["some", 5, {"add": "minutes"}, b"all" and object()], ids=["word", "number", "measure", "object"]
)
def test_an_impossible_choice_of_tools_is_refused_when_the_handler_is_made(till: Till, tools: Any) -> None:
    """A `tools=` that says nothing sensible is a ConfigurationError that shows it."""
    with pytest.raises(ConfigurationError, match="tools"):
        till.handler(tools=tools)
