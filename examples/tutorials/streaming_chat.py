"""A chat with memory that streams: each conversation has its bill, and one that is left early costs what was said."""

from __future__ import annotations

from itertools import islice
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vluna import Gate, VlunaMiddleware
from langchain_vluna.testing.models import ScriptedChatModel


def reply(messages: list[BaseMessage]) -> AIMessage:
    """Stand in for a model: remember what was said."""
    said = [message.text for message in messages if isinstance(message, HumanMessage)]
    return AIMessage(f"You said {len(said)} things so far, the first was: {said[0]}")


def main() -> None:
    """Chat in two conversations until the money is gone; the agent then says so itself."""
    with Gate.local(settle="inline") as gate:
        gate.local_gate.price("scripted.scripted-1", "scripted.scripted-1.tokens.input", 1)
        gate.local_gate.price("scripted.scripted-1", "scripted.scripted-1.tokens.output", 4)
        gate.local_gate.grant("customer_123", 300)

        chat: Any = create_agent(
            ScriptedChatModel(responses=[reply]),
            [],
            middleware=[VlunaMiddleware(gate, principal_id="customer_123", exit_behavior="end")],
            checkpointer=InMemorySaver(),
        )
        for thread, text in (("a", "Hello!"), ("b", "Hi."), ("a", "Anything new?"), ("a", "And now?"), ("a", "Hm?")):
            config = {"configurable": {"thread_id": thread}}
            parts = chat.stream({"messages": [("user", text)]}, config, stream_mode="messages")
            wanted = parts if thread == "a" else islice(parts, 3)  # somebody closes the window
            print(f"{thread}: {''.join(chunk.text for chunk, _ in wanted)}")
            parts.close()
        gate.flush()
        for thread in ("a", "b"):
            bill = gate.bill(thread_id=thread)
            print(f"conversation {thread}: {bill.runs} runs, {bill.tokens} tokens, {bill.amount_xusd} XUSD")
        print(f"left: {gate.local_gate.balance('customer_123')} XUSD")


if __name__ == "__main__":
    main()
