"""Embeddings and rerankers, which fire no callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_vluna import ConfigurationError, GatedEmbeddings, GateDenied, gated
from langchain_vluna.wrappers import GatedCompressor
from tests.support.billing import CUSTOMER, GRANT, Till

FEATURE = "openai.text-embedding-3-small"
METER = f"{FEATURE}.tokens.input"


class Lengths(Embeddings):
    """Embeds a text as its length; counts calls, and fails or hangs where asked to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.hangs = False

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return [[float(len(text)), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.hangs:
            await asyncio.Event().wait()
        return self.embed_documents(texts)


class FirstTwo(BaseDocumentCompressor):
    """Keeps the first two documents."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return documents[:2]


@pytest.fixture
def embedding_till(till: Till) -> Till:
    """A till whose ledger knows the price of embeddings and reranking."""
    till.ledger.price(FEATURE, METER, 2)
    till.ledger.price("cohere.rerank", "cohere.rerank", 500, unit="call")
    return till


def wrapped(till: Till, inner: Embeddings | None = None, **options: Any) -> GatedEmbeddings:
    return GatedEmbeddings(
        inner or Lengths(), till.gate, **{"feature_code": FEATURE, "principal_id": CUSTOMER, **options}
    )


def test_each_call_is_one_gated_run(embedding_till: Till):
    """Documents and queries, in both colours, are one run each, on the input meter, labelled as estimated."""
    till, inner = embedding_till, Lengths()
    embeddings = wrapped(till, inner, labels={"team": "search"})
    assert [[4.0, 1.0], [8.0, 1.0]] == embeddings.embed_documents(["four", "eight888"])
    assert [5.0, 1.0] == embeddings.embed_query("fiver")
    assert [[4.0, 1.0]] == asyncio.run(embeddings.aembed_documents(["four"]))
    assert [12.0, 1.0] == asyncio.run(embeddings.aembed_query("twelve chars"))
    ratings = till.ratings()
    assert (4, 4) == (inner.calls, till.asked)
    assert [1, 2, 3, 3] == sorted(r.quantity for r in ratings)
    assert all({METER: r.quantity} == r.meters for r in ratings)
    assert {("estimated", "search", "Lengths")} == {
        (r.labels["usage_source"], r.labels["team"], r.labels["wrapped"]) for r in ratings
    }
    assert GRANT - till.balance() == 2 * 9
    assert [] == till.open_leases()


def test_counted_tokens_are_reported(embedding_till: Till):
    """With a tokenizer of the user's the count is exact and says so."""
    wrapped(embedding_till, count_tokens=lambda texts: 10 * len(texts)).embed_documents(["a", "b"])
    (rating,) = embedding_till.ratings()
    assert (20, "reported") == (rating.quantity, rating.labels["usage_source"])


@pytest.mark.parametrize("count", [lambda _: 1 / 0, lambda _: 2.5, lambda _: "7"])
def test_a_count_that_fails_takes_neither_vectors_nor_charge_away(embedding_till: Till, count: Any):
    """The vectors are paid for when tokens are counted: a broken callable leaves an estimate, labelled as one."""
    assert [9.0, 1.0] == wrapped(embedding_till, count_tokens=count).embed_query("Some text")
    (rating,) = embedding_till.ratings()
    assert ({METER: 3}, "estimated") == (rating.meters, rating.labels["usage_source"])


def test_a_long_feature_code_is_charged(till: Till):
    """The meter's code is shortened as the handler's are, since it may not be longer than a feature's."""
    embeddings = GatedEmbeddings(Lengths(), till.gate, feature_code="f" * 128, principal_id=CUSTOMER)
    assert [9.0, 1.0] == embeddings.embed_query("Some text")
    assert [3] == [rating.quantity for rating in till.ratings()]


def test_an_empty_text_costs_a_token_and_no_text_nothing(embedding_till: Till):
    """A call that reaches the provider is never free; a call without texts does not ask the gate."""
    embeddings = wrapped(embedding_till)
    assert [] == embeddings.embed_documents([])
    assert [] == asyncio.run(embeddings.aembed_documents([]))
    assert 0 == embedding_till.asked
    embeddings.embed_query("")
    assert [1] == [rating.quantity for rating in embedding_till.ratings()]


def test_a_denial_comes_before_the_call(make_till):
    """Without balance the wrapped embeddings are not called, in either colour."""
    till, inner = make_till(grant=0), Lengths()
    till.ledger.price(FEATURE, METER, 2)
    embeddings = wrapped(till, inner)
    with pytest.raises(GateDenied, match="balance"):
        embeddings.embed_query("no")
    with pytest.raises(GateDenied, match="balance"):
        asyncio.run(embeddings.aembed_documents(["no"]))
    assert (0, []) == (inner.calls, till.ledger.leases())


def test_a_failed_call_is_cancelled(embedding_till: Till):
    """An error of the provider reaches the caller and costs nothing."""
    inner = Lengths()
    inner.error = RuntimeError("provider")
    with pytest.raises(RuntimeError, match="provider"):
        wrapped(embedding_till, inner).embed_query("text")
    embedding_till.assert_nothing_charged()


async def test_a_cancelled_call_is_cancelled(embedding_till: Till):
    """A call whose task is cancelled leaves no open lease and costs nothing."""
    inner = Lengths()
    inner.hangs = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wrapped(embedding_till, inner).aembed_documents(["text"]), 0.05)
    await asyncio.to_thread(embedding_till.assert_nothing_charged)


def test_who_pays_is_found_as_for_the_handler(embedding_till: Till):
    """The surrounding run's metadata wins over `gate.identity`, and that over the wrapper's own principal."""
    till = embedding_till
    for name in ("by_metadata", "by_identity"):
        till.ledger.grant(name, GRANT)
    embeddings = wrapped(till)
    step = RunnableLambda(embeddings.embed_query)
    with till.gate.identity(principal_id="by_identity"):
        embeddings.embed_query("text")
        step.invoke("text", {"metadata": {"vluna_principal_id": "by_metadata", "vluna_labels": {"tier": "gold"}}})
    embeddings.embed_query("text")
    found = {rating.principal_id: rating.labels.get("tier") for rating in till.ratings()}
    assert {"by_identity": None, "by_metadata": "gold", CUSTOMER: None} == found


def test_nobody_to_pay_is_an_error_before_the_call(embedding_till: Till):
    """Without any principal the call does not happen."""
    inner = Lengths()
    with pytest.raises(ConfigurationError, match="no principal"):
        wrapped(embedding_till, inner, principal_id=None).embed_query("text")
    assert 0 == inner.calls


def test_a_call_is_on_the_bill_of_what_surrounds_it(embedding_till: Till):
    """Embeddings called in a chain are on its root run's bill, and on that of a gated block."""
    till = embedding_till
    step: Any = RunnableLambda(lambda text: RunnableLambda(wrapped(till).embed_query).invoke(text))
    run_id = uuid4()
    with gated(till.handler()) as bill:
        step.invoke("text", {"run_id": run_id})
    till.ratings()
    assert (1, 2) == (bill.runs, bill.amount_xusd)
    assert 2 == till.gate.bill(run_id=str(run_id)).amount_xusd


def test_works_in_a_vector_store(embedding_till: Till):
    """A store built on wrapped embeddings is charged for indexing and for each search."""
    store = InMemoryVectorStore(wrapped(embedding_till))
    store.add_texts(["one", "three", "eleven chars"])
    assert ["three"] == [document.page_content for document in store.similarity_search("fiver", k=1)]
    assert 2 == len(embedding_till.ratings())


def test_below_a_retriever_in_a_batch_the_customer_is_told_by_identity(embedding_till: Till):
    """There LangChain hides the call's metadata: without an identity the search is refused, not charged to anybody."""
    till = embedding_till
    till.ledger.grant("by_identity", GRANT)
    store = InMemoryVectorStore(wrapped(till, principal_id=None))
    chain = store.as_retriever() | RunnableLambda(str)
    with pytest.raises(ConfigurationError, match="no principal"):
        chain.batch(["one", "two"], {"metadata": {"vluna_principal_id": CUSTOMER}})
    with till.gate.identity(principal_id="by_identity"):
        chain.batch(["one", "two"])
    assert ["by_identity", "by_identity"] == [rating.principal_id for rating in till.ratings()]


@pytest.mark.parametrize("code", ["", "UPPER CASE", "a..b"])
def test_a_feature_code_the_gate_cannot_take_is_refused(till: Till, code: str):
    """A feature code is checked when the wrapper is made."""
    with pytest.raises(ConfigurationError, match="feature"):
        wrapped(till, feature_code=code)


def test_the_wrapper_hides_its_secrets(till: Till):
    """Its repr names what is wrapped and the feature, and no key."""
    text = repr(wrapped(till))
    assert "Lengths" in text
    assert FEATURE in text
    assert till.ledger.settings.service_key_secret.get_secret_value() not in text


@pytest.mark.parametrize(
    ("quantity", "expected"), [("calls", 1), ("documents", 3), (lambda documents, query: len(query), 5)]
)
def test_a_reranker_is_charged_as_chosen(embedding_till: Till, quantity: Any, expected: int):
    """Per call, per document or by a callable; in both colours."""
    documents = [Document("a"), Document("b"), Document("c")]
    reranker = GatedCompressor(
        FirstTwo(), embedding_till.gate, feature_code="cohere.rerank", quantity=quantity, principal_id=CUSTOMER
    )
    assert documents[:2] == reranker.compress_documents(documents, "query")
    assert documents[:2] == asyncio.run(reranker.acompress_documents(documents, "query"))
    assert [] == list(reranker.compress_documents([], "query"))
    assert [expected, expected] == [rating.quantity for rating in embedding_till.ratings()]


async def test_a_reranker_that_counts_nothing_is_free(embedding_till: Till):
    """As for tools, a quantity of 0 charges nothing, and the documents are handed on."""
    reranker = GatedCompressor(
        FirstTwo(),
        embedding_till.gate,
        feature_code="cohere.rerank",
        quantity=lambda *_: 0,
        principal_id=CUSTOMER,
    )
    documents = [Document("a")]
    assert documents == reranker.compress_documents(documents, "q")
    assert documents == await reranker.acompress_documents(documents, "q")
    embedding_till.assert_nothing_charged()


def test_a_denied_reranker_does_not_run(make_till):
    """Without balance the wrapped reranker is not called."""
    till = make_till(grant=0)
    till.ledger.price("cohere.rerank", "cohere.rerank", 500, unit="call")
    reranker = GatedCompressor(FirstTwo(), till.gate, feature_code="cohere.rerank", principal_id=CUSTOMER)
    with pytest.raises(GateDenied):
        reranker.compress_documents([Document("a")], "query")


def test_an_unknown_quantity_is_refused(till: Till):
    """A misspelt quantity is a configuration error."""
    with pytest.raises(ConfigurationError, match="quantity"):
        GatedCompressor(FirstTwo(), till.gate, feature_code="cohere.rerank", quantity="words")  # type: ignore[arg-type]
