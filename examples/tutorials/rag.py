"""Retrieval-augmented generation: embeddings, the retriever and the model are charged, each on its own meter.

Embeddings fire no callbacks, so they are wrapped; the retriever is gated because the handler is told to.
"""

from __future__ import annotations

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_vluna import Gate, GatedEmbeddings, VlunaCallbackHandler, gated
from langchain_vluna.testing.models import ScriptedChatModel

TEXTS = [
    "The harbour of Lumen freezes in January.",
    "Ferries to Lumen leave on the hour.",
    "Lumen's lighthouse was built in 1871.",
]


def answer(messages: list[BaseMessage]) -> AIMessage:
    """Stand in for a model: quote the first line of the context."""
    context = messages[-1].text.partition("Context:\n")[2]
    return AIMessage(f"As far as I can see: {context.splitlines()[0]}")


def main() -> None:
    """Index three texts, ask a question, and show what it cost."""
    with Gate.local() as gate:
        shop = gate.local_gate
        shop.price("openai.text-embedding-3-small", "openai.text-embedding-3-small.tokens.input", 1)
        shop.price("scripted.scripted-1", "scripted.scripted-1.tokens.input", 2)
        shop.price("scripted.scripted-1", "scripted.scripted-1.tokens.output", 8)
        shop.price("retriever.harbour", "retriever.harbour", 10, unit="call")
        shop.grant("customer_123", 100_000)

        embeddings = GatedEmbeddings(
            DeterministicFakeEmbedding(size=32),
            gate,
            feature_code="openai.text-embedding-3-small",
            principal_id="customer_123",
        )
        handler = VlunaCallbackHandler(gate, principal_id="customer_123", retrievers="all")
        with gated(handler) as bill:
            store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
            retriever = store.as_retriever(search_kwargs={"k": 2}).with_config(run_name="harbour")
            prompt = ChatPromptTemplate.from_template(
                "Answer from the context.\nQuestion: {question}\nContext:\n{context}"
            )
            chain = (
                {
                    "context": retriever | (lambda documents: "\n".join(d.page_content for d in documents)),
                    "question": RunnablePassthrough(),
                }
                | prompt
                | ScriptedChatModel(responses=[answer])
                | StrOutputParser()
            )
            print(chain.invoke("When was the lighthouse built?"))
        gate.flush()
        print(bill)


if __name__ == "__main__":
    main()
