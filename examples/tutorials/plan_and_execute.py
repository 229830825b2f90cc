"""Plan and execute, as a graph: a step that fails is retried by LangGraph, and still charged once."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel


class Plan(BaseModel):
    """What is to be done."""

    steps: list[str]


class State(TypedDict):
    """What is asked, what is left to do, and what came of it so far."""

    task: str
    steps: list[str]
    results: Annotated[list[str], operator.add]


def plan_of(_: list[BaseMessage]) -> AIMessage:
    """Stand in for a model that plans."""
    steps = ["find the route", "find the time", "write it down"]
    return AIMessage("", tool_calls=[{"name": "Plan", "args": {"steps": steps}, "id": "call_1"}])


planner: Any = ScriptedChatModel(responses=[plan_of], model="planner").with_structured_output(Plan)
worker = ScriptedChatModel(responses=[lambda messages: f"done: {messages[-1].text}"], model="worker")
failures = iter([True])


def make_plan(state: State) -> Any:
    """Ask for a plan."""
    return {"steps": planner.invoke(state["task"]).steps}


def do_step(state: State) -> Any:
    """Do the next step; what comes after the model fails once, as databases and networks do."""
    first, *rest = state["steps"]
    result = worker.invoke(first).text
    if next(failures, False):
        raise ConnectionError(first)
    return {"steps": rest, "results": [result]}


def build() -> Any:
    """Return the graph: plan, then step after step until none is left."""
    graph = StateGraph(State)
    graph.add_node("plan", make_plan)
    graph.add_node("step", do_step, retry_policy=RetryPolicy(initial_interval=0.01, retry_on=ConnectionError))
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["steps"] else END, ["step", END])
    return graph.compile(checkpointer=InMemorySaver())


def main() -> None:
    """Run the plan with a failure on its way, and show that each step was charged once."""
    with Gate.local() as gate:
        for name in ("planner", "worker"):
            for side in ("input", "output"):
                gate.local_gate.price(f"scripted.{name}", f"scripted.{name}.tokens.{side}", 2)
        gate.local_gate.grant("customer_123", 100_000)
        # "run", the default, would charge the repeated model call as the provider does.
        handler = VlunaCallbackHandler(gate, principal_id="customer_123", idempotency="step")
        config = {"callbacks": [handler], "configurable": {"thread_id": "trip_1"}}
        state = build().invoke({"task": "Plan a trip.", "steps": [], "results": []}, config)
        print("; ".join(state["results"]))
        gate.flush()
        charged = [rating.feature_code for rating in gate.local_gate.ratings("customer_123")]
        print(f"the worker was called {worker.calls} times and charged {charged.count('scripted.worker')} times")
        print(gate.bill(thread_id="trip_1"))


if __name__ == "__main__":
    main()
