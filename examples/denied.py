"""No balance, no call: the model is not asked, and the caller gets `GateDenied`. A grant opens the gate again.

python examples/denied.py
"""

from __future__ import annotations

from collections.abc import Sequence

from _model import chat_model, price_tokens
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig

from langchain_vluna import Gate, GateDenied, VlunaCallbackHandler


def script(_messages: Sequence[BaseMessage]) -> AIMessage:
    return AIMessage(content="Here I am.")


def main() -> None:
    model, feature = chat_model(script)
    with Gate.local() as gate:
        price_tokens(gate.local_gate, feature)
        handler = VlunaCallbackHandler(gate, principal_id="customer_123")
        seen = UsageMetadataCallbackHandler()  # LangChain's own count of what models report
        config: RunnableConfig = {"callbacks": [handler, seen]}

        try:
            model.invoke("Are you there?", config=config)
        except GateDenied as denied:
            print(f"denied ({denied.reason}): {denied}")
        print(f"models that were called: {len(seen.usage_metadata)}")

        gate.local_gate.grant("customer_123", 100_000)
        print(model.invoke("Are you there?", config=config).text)
        print(f"models that were called: {len(seen.usage_metadata)}")


if __name__ == "__main__":
    main()
