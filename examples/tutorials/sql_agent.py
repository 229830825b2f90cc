"""An agent that answers from a database: each tool has a price, and big answers cost more than small ones."""

from __future__ import annotations

import sqlite3

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool

from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel

DATABASE = sqlite3.connect(":memory:", check_same_thread=False)
DATABASE.executescript("""
    CREATE TABLE album (title TEXT, artist TEXT, sold INTEGER);
    INSERT INTO album VALUES ('Tides', 'Mara', 1200), ('Gulls', 'Mara', 800), ('Fog', 'Otto', 3100);
""")


@tool
def list_tables() -> str:
    """List the tables of the database."""
    return ", ".join(name for (name,) in DATABASE.execute("SELECT name FROM sqlite_master"))


@tool
def describe_table(name: str) -> str:
    """Show how a table was made."""
    return str(DATABASE.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])


@tool
def run_query(query: str) -> str:
    """Run a SELECT statement."""
    try:
        return str(DATABASE.execute(query).fetchall())
    except sqlite3.Error as error:
        return f"cannot run it: {error}"


QUERY = "SELECT artist, SUM(sold) FROM album GROUP BY artist ORDER BY 2 DESC LIMIT 1"
STEPS = [("list_tables", {}), ("describe_table", {"name": "album"}), ("run_query", {"query": QUERY})]


def act(messages: list[BaseMessage]) -> AIMessage:
    """Stand in for a model: look around, ask, then put the answer into words."""
    done = sum(isinstance(message, ToolMessage) for message in messages)
    if done < len(STEPS):
        name, args = STEPS[done]
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call_{done}"}])
    return AIMessage(f"The best-selling artist, with copies sold: {messages[-1].text}")


def main() -> None:
    """Ask a question that takes three tools, and show the bill."""
    with Gate.local() as gate:
        shop = gate.local_gate
        shop.price("scripted.scripted-1", "scripted.scripted-1.tokens.input", 2)
        shop.price("scripted.scripted-1", "scripted.scripted-1.tokens.output", 8)
        for name in ("list_tables", "describe_table"):
            shop.price(f"tool.{name}", f"tool.{name}", 5, unit="call")
        shop.price("tool.run_query", "tool.run_query", 1, unit="byte")
        shop.grant("customer_123", 100_000)

        handler = VlunaCallbackHandler(
            gate,
            principal_id="customer_123",
            tools={"list_tables": "calls", "describe_table": "calls", "run_query": "bytes"},
        )
        agent = create_agent(ScriptedChatModel(responses=[act]), [list_tables, describe_table, run_query])
        question = {"messages": [("user", "Who sold the most?")]}
        answer = agent.invoke(question, {"callbacks": [handler]})  # type: ignore[call-overload]
        print(answer["messages"][-1].text)
        gate.flush()
        print(gate.bill(principal_id="customer_123"))


if __name__ == "__main__":
    main()
