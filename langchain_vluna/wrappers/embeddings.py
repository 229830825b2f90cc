"""Embeddings that ask the gate: they fire no callbacks, so that no handler sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from langchain_core.embeddings import Embeddings
from typing_extensions import override

from langchain_vluna import naming, usage
from langchain_vluna._core.wire import rules
from langchain_vluna.callbacks.options import Choice, Labels
from langchain_vluna.gate import Gate
from langchain_vluna.gate.work import Work
from langchain_vluna.wrappers.call import GatedCalls

__all__ = ["GatedEmbeddings"]

logger = logging.getLogger("langchain_vluna")


class GatedEmbeddings(Embeddings):
    """Wraps any embeddings: one gated run per call, charged on the meter `<feature>.tokens.input`.

    LangChain hands on no usage of embeddings, so the tokens are estimated, and labelled so, unless `count_tokens`
    counts them as the provider does. A cache goes around this wrapper, so that what it holds is free.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        gate: Gate,
        *,
        feature_code: str,
        principal_id: Choice = None,
        user_id: Choice = None,
        labels: Labels = None,
        count_tokens: Callable[[Sequence[str]], int] | None = None,
    ) -> None:
        """Wrap embeddings; who pays is found as for the callback handler.

        LangChain hides a call's metadata below a retriever that is called by itself or in a batch: there, name the
        customer with `gate.identity`, and leave `principal_id` out where many customers share the embeddings.

        Raises:
            ConfigurationError: A value cannot be sent to the gate.
        """
        self.embeddings = embeddings
        self._count_tokens = count_tokens
        self._calls = GatedCalls(
            gate, embeddings, feature_code=feature_code, principal_id=principal_id, user_id=user_id, labels=labels
        )

    def __repr__(self) -> str:
        return f"GatedEmbeddings({type(self.embeddings).__name__}, {self._calls!r})"

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if not texts:
            return self.embeddings.embed_documents(texts)
        with self._call(texts) as run:
            vectors = self.embeddings.embed_documents(texts)
            self._record(run, texts)
        return vectors

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        if not texts:
            return await self.embeddings.aembed_documents(texts)
        async with self._call(texts) as run:
            vectors = await self.embeddings.aembed_documents(texts)
            self._record(run, texts)
        return vectors

    @override
    def embed_query(self, text: str) -> list[float]:
        with self._call([text]) as run:
            vector = self.embeddings.embed_query(text)
            self._record(run, [text])
        return vector

    @override
    async def aembed_query(self, text: str) -> list[float]:
        async with self._call([text]) as run:
            vector = await self.embeddings.aembed_query(text)
            self._record(run, [text])
        return vector

    def _call(self, texts: Sequence[str]) -> Work:
        return self._calls.call(_estimate(texts))

    def _record(self, run: Work, texts: Sequence[str]) -> None:
        counted = self._counted(texts)
        tokens = max(1, _estimate(texts)) if counted is None else counted
        meter = naming.token_meter(self._calls.feature_code, "input")
        run.record(tokens, {meter: tokens}, estimated=counted is None)

    def _counted(self, texts: Sequence[str]) -> int | None:
        if self._count_tokens is None:
            return None
        try:
            counted = max(1, self._count_tokens(texts))
            rules.quantity(counted)
        except Exception:
            # Border: the vectors are paid for; a broken callable must take away neither them nor the charge.
            logger.exception("count_tokens failed for feature %r; an estimate is charged", self._calls.feature_code)
            return None
        return counted


def _estimate(texts: Sequence[str]) -> int:
    return sum(usage.estimate_text_tokens(len(text.encode("utf-8", "surrogatepass"))) for text in texts)
