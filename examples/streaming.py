"""Streams: read to the end they cost what the model reports; left early, what was delivered.

python examples/streaming.py
"""

from __future__ import annotations

from collections.abc import Sequence

from _model import chat_model, price_tokens
from langchain_core.messages import AIMessage, BaseMessage

from langchain_vluna import Gate, VlunaCallbackHandler

STORY = "Once a stream of words ran down to the sea, and every word was counted, and none was counted twice."


def script(_messages: Sequence[BaseMessage]) -> AIMessage:
    return AIMessage(content=STORY)


def main() -> None:
    model, feature = chat_model(script)
    with Gate.local() as gate:
        price_tokens(gate.local_gate, feature)
        gate.local_gate.grant("customer_123", 100_000)
        handler = VlunaCallbackHandler(gate, principal_id="customer_123")

        for chunk in model.stream("Tell me a story in one line.", config={"callbacks": [handler]}):
            print(chunk.text, end="", flush=True)
        print()

        # Leaving the loop is not enough: a stream ends when it is closed, or when nobody holds it any more.
        stream = model.stream("Tell me a story in one line.", config={"callbacks": [handler]})
        for count, chunk in enumerate(stream):
            print(chunk.text, end="", flush=True)
            if count == 3:  # noqa: PLR2004 -- enough read
                break
        stream.close()  # type: ignore[attr-defined]
        print("... enough.")

        gate.flush()
        for rating in gate.local_gate.ratings("customer_123"):
            print(f"{rating.quantity} tokens ({rating.labels['usage_source']}) for {rating.amount_xusd} XUSD")


if __name__ == "__main__":
    main()
