"""LangChain's classic agent executor: its model runs and its tool runs are gated alike.

python examples/agent_executor.py
"""

from __future__ import annotations

from _model import chat_model, price_tokens
from _tools import TOOLS, answer
from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.prompts import ChatPromptTemplate

from langchain_vluna import Gate, VlunaCallbackHandler

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Use the tools. Be brief."), ("human", "{input}"), ("placeholder", "{agent_scratchpad}")]
)


def main() -> None:
    model, feature = chat_model(answer)
    executor = AgentExecutor(agent=create_tool_calling_agent(model, TOOLS, PROMPT), tools=TOOLS)

    with Gate.local() as gate:
        price_tokens(gate.local_gate, feature)
        for tool in TOOLS:  # one call of a tool is one unit of the feature `tool.<name>`
            gate.local_gate.price(f"tool.{tool.name}", f"tool.{tool.name}", 50, unit="call")
        gate.local_gate.grant("customer_123", 100_000)
        handler = VlunaCallbackHandler(gate, principal_id="customer_123")

        result = executor.invoke({"input": "What is 17 * 23?"}, config={"callbacks": [handler]})
        print(result["output"])

        gate.flush()
        for rating in gate.local_gate.ratings("customer_123"):
            print(f"{rating.feature_code}: {rating.quantity} for {rating.amount_xusd} XUSD")
        # Settled in a batch, a lease stays active; open is one that carries no commit.
        print(f"open leases: {sum(not lease.commits for lease in gate.local_gate.leases('active'))}")


if __name__ == "__main__":
    main()
