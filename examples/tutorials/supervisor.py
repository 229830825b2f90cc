"""A supervisor with two workers, each an agent of its own: one handler, one bill, and the workers told apart.

The customer is in the call's metadata, which reaches every worker, model and tool.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel


def call(name: str, **args: Any) -> AIMessage:
    """Return a message that calls a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{name}"}])


@tool
def search(topic: str) -> str:
    """Search for facts."""
    return f"{topic}: 12 islands, 3 ferries"


researcher: Any = create_agent(
    ScriptedChatModel(model="small", responses=[call("search", topic="Lumen"), "12 islands and 3 ferries."]), [search]
)
writer: Any = create_agent(ScriptedChatModel(model="large", responses=["Twelve islands, and only three ferries!"]), [])


@tool
def research(topic: str) -> str:
    """Let the researcher find facts."""
    return str(researcher.invoke({"messages": [("user", topic)]})["messages"][-1].text)


@tool
def write(facts: str) -> str:
    """Let the writer make a headline of facts."""
    return str(writer.invoke({"messages": [("user", facts)]})["messages"][-1].text)


supervisor: Any = create_agent(
    ScriptedChatModel(
        model="small", responses=[call("research", topic="Lumen"), call("write", facts="12, 3"), "Here it is."]
    ),
    [research, write],
)


def main() -> None:
    """Let the supervisor delegate twice, for two customers."""
    with Gate.local() as gate:
        shop = gate.local_gate
        for name, xusd in (("small", 1), ("large", 20)):
            for side in ("input", "output"):
                shop.price(f"scripted.{name}", f"scripted.{name}.tokens.{side}", xusd)
        shop.price("tool.search", "tool.search", 500, unit="call")
        handler = VlunaCallbackHandler(gate, tools=["search"])  # delegating is no work of its own
        for customer in ("customer_123", "customer_456"):
            shop.grant(customer, 100_000)
            config = {"callbacks": [handler], "metadata": {"vluna_principal_id": customer}}
            supervisor.invoke({"messages": [("user", "A headline about Lumen, please.")]}, config)
        gate.flush()
        for customer in ("customer_123", "customer_456"):
            bill = gate.bill(principal_id=customer)
            print(f"{customer}: {bill.runs} runs, {bill.amount_xusd} XUSD, by model {dict(bill.by_model)}")


if __name__ == "__main__":
    main()
