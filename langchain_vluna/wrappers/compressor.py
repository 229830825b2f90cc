"""Rerankers and other document compressors that ask the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_vluna.callbacks.options import Choice, Labels
from langchain_vluna.gate import Gate
from langchain_vluna.gate.policy import choose
from langchain_vluna.gate.work import Work
from langchain_vluna.wrappers.call import GatedCalls

__all__ = ["GatedCompressor"]

Quantity = Literal["calls", "documents"] | Callable[[Sequence[Document], str], int]


class GatedCompressor(BaseDocumentCompressor):
    """Wraps a reranker that fires no callbacks: one gated run per call, a bare quantity on the feature's own meter.

    A compressor that works with a chat model needs none of this: the handler sees its model.
    """

    compressor: BaseDocumentCompressor
    _quantity: Quantity = PrivateAttr()
    _calls: GatedCalls = PrivateAttr()

    def __init__(
        self,
        compressor: BaseDocumentCompressor,
        gate: Gate,
        *,
        feature_code: str,
        quantity: Quantity = "calls",
        principal_id: Choice = None,
        user_id: Choice = None,
        labels: Labels = None,
    ) -> None:
        """Wrap a compressor; `quantity` is what a call counts, or a callable of documents and query.

        Raises:
            ConfigurationError: A value is not known or cannot be sent to the gate.
        """
        super().__init__(compressor=compressor)  # type: ignore[call-arg]
        if not callable(quantity):
            choose("quantity", quantity, Literal["calls", "documents"])
        self._quantity = quantity
        self._calls = GatedCalls(
            gate, compressor, feature_code=feature_code, principal_id=principal_id, user_id=user_id, labels=labels
        )

    @override
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return self.compressor.compress_documents(documents, query, callbacks)
        count = self._count(documents, query)
        with self._calls.call(count) as run:
            compressed = self.compressor.compress_documents(documents, query, callbacks)
            self._record(run, count)
        return compressed

    @override
    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        if not documents:
            return await self.compressor.acompress_documents(documents, query, callbacks)
        count = self._count(documents, query)
        async with self._calls.call(count) as run:
            compressed = await self.compressor.acompress_documents(documents, query, callbacks)
            self._record(run, count)
        return compressed

    @staticmethod
    def _record(run: Work, count: int) -> None:
        # As for tools: a callable that says 0 means that nothing is charged.
        if count:
            run.record(count)

    def _count(self, documents: Sequence[Document], query: str) -> int:
        if callable(self._quantity):
            return self._quantity(documents, query)
        return len(documents) if self._quantity == "documents" else 1
