"""A chain of LangChain's own parts, gated by one handler, called in both colours.

python examples/chain.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from _model import chat_model, price_tokens
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_vluna import Gate, VlunaCallbackHandler


def script(messages: Sequence[BaseMessage]) -> AIMessage:
    topic = messages[-1].text.rsplit(" ", 1)[-1].strip(".")
    return AIMessage(content=f"Why did {topic} cross the road? To ask the gate on the other side.")


def main() -> None:
    model, feature = chat_model(script)
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You are witty and brief."), ("human", "A joke about {topic}.")]
    )
    chain = prompt | model | StrOutputParser()

    with Gate.local() as gate:
        price_tokens(gate.local_gate, feature)
        gate.local_gate.grant("customer_123", 100_000)
        handler = VlunaCallbackHandler(gate, principal_id="customer_123")

        print(chain.invoke({"topic": "tokens"}, config={"callbacks": [handler]}))
        print(asyncio.run(chain.ainvoke({"topic": "ledgers"}, config={"callbacks": [handler]})))

        gate.flush()
        for rating in gate.local_gate.ratings("customer_123"):
            print(f"{rating.feature_code}: {rating.quantity} tokens for {rating.amount_xusd} XUSD")
        print(f"balance: {gate.local_gate.balance('customer_123')} XUSD")


if __name__ == "__main__":
    main()
