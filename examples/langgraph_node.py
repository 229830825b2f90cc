"""A LangGraph graph for two customers at once: one handler, and who pays is said with each call.

python examples/langgraph_node.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from _model import chat_model, price_tokens
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.graph import END, START, StateGraph

from langchain_vluna import Gate, VlunaCallbackHandler


class Draft(TypedDict, total=False):
    topic: str
    text: str
    title: str


def script(messages: Sequence[BaseMessage]) -> AIMessage:
    asked = messages[-1].text
    if asked.startswith("A title"):
        return AIMessage(content=f"On {asked.rsplit(' ', 1)[-1].strip('.')}")
    return AIMessage(content=f"{asked.removeprefix('Two lines about ').strip('.').capitalize()}. There is much to say.")


def main() -> None:
    model, feature = chat_model(script)

    # The nodes know nothing of the gate: LangGraph hands the callbacks of the call down to the model.
    def write(state: Draft) -> Draft:
        return {"text": model.invoke(f"Two lines about {state['topic']}.").text}

    def name(state: Draft) -> Draft:
        return {"title": model.invoke(f"A title for a text about {state['topic']}.").text}

    graph = StateGraph(Draft)
    graph.add_node("write", write)
    graph.add_node("name", name)
    graph.add_edge(START, "write")
    graph.add_edge("write", "name")
    graph.add_edge("name", END)
    app: Any = graph.compile()

    with Gate.local() as gate:
        price_tokens(gate.local_gate, feature)
        handler = VlunaCallbackHandler(gate)
        for customer, topic in {"customer_123": "rivers", "customer_456": "clocks"}.items():
            gate.local_gate.grant(customer, 100_000)
            config = {"callbacks": [handler], "metadata": {"vluna_principal_id": customer}}
            draft = app.invoke({"topic": topic}, config=config)
            print(f"{customer}: {draft['title']!r}")

        gate.flush()
        for customer in ("customer_123", "customer_456"):
            ratings = gate.local_gate.ratings(customer)
            print(f"{customer}: {len(ratings)} model runs, {sum(rating.amount_xusd for rating in ratings)} XUSD")


if __name__ == "__main__":
    main()
