"""Labels are a service to whoever reads bills; none of them may keep a charge from being taken."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph

from langchain_vluna import ConfigurationError
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import Till


@pytest.mark.parametrize("thread_id", ["evil\x00", "half \ud800 a pair", "long " * 400_000])
def test_a_thread_id_cannot_make_a_run_free(till: Till, thread_id: str) -> None:
    """Users choose thread ids, and the gate stores neither NUL nor megabytes: the label gives way, not the charge."""
    model = ScriptedChatModel()
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
    app = graph.set_entry_point("answer").set_finish_point("answer").compile(checkpointer=InMemorySaver())
    config: Any = {"callbacks": [till.handler()], "configurable": {"thread_id": thread_id}}
    app.invoke({"messages": [HumanMessage("Hello")]}, config)
    (rating,) = till.ratings()
    assert ("applied", thread_id[:4]) == (rating.status, rating.labels["thread_id"][:4])


def test_a_model_name_that_cannot_be_stored_takes_no_charge_away(till: Till) -> None:
    """The name a provider reports is a label of the charge, whatever is in it."""
    served = AIMessage("Hi", response_metadata={"model_name": "served\x00" + "x" * 2_000_000})
    ScriptedChatModel(responses=[served]).invoke("Hello", till.unwitnessed())
    (rating,) = till.ratings()
    assert ("applied", "served\N{REPLACEMENT CHARACTER}") == (rating.status, rating.labels["model"][:7])


def test_labels_that_the_gate_would_refuse_are_refused_before_the_work(till: Till) -> None:
    """A commit of more than 1 MiB comes back after the work; so labels are measured when the run starts."""
    model = ScriptedChatModel()
    config = till.unwitnessed(till.handler(labels=lambda _: {"notes": "x" * 70_000}))
    with pytest.raises(ConfigurationError, match="labels hold 70005 characters"):
        model.invoke("Hello", config)
    assert 0 == model.calls
    till.assert_nothing_charged()


def test_the_largest_labels_that_are_taken_can_be_charged(till: Till) -> None:
    """Characters that take twelve bytes each on the wire still fit into a body."""
    handler = till.handler(labels={"notes": "\N{GRINNING FACE}" * 63_995})
    ScriptedChatModel().invoke("Hello", till.unwitnessed(handler))
    assert ["applied"] == [rating.status for rating in till.ratings()]
