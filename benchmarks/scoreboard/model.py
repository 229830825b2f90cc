"""A provider that counts what it really does: the truth that handlers are held against.

It counts four bytes as a token, and four tokens more for each message of a prompt, as estimators do, so that what
was delivered of a broken stream can be charged exactly. Nobody else has a hand in its count.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field
from typing_extensions import override

from langchain_vluna.testing.models import ScriptedChatModel

__all__ = ["FEATURE", "TrueEmbeddings", "TrueModel", "Truth"]

FEATURE = "openai.gpt-4o-mini"
"""The provider and model that all scenarios pretend to use: one that handlers with price lists know."""


class Truth:
    """What the provider did: tokens by customer, and calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.tokens: Counter[str] = Counter()
        self.calls = 0

    def called(self) -> None:
        with self._lock:
            self.calls += 1

    def spent(self, customer: str, tokens: int) -> None:
        with self._lock:
            self.tokens[customer] += tokens


class TrueModel(ScriptedChatModel):
    """A scripted model that tells `truth` what it spends; a prompt begins with its customer's name and a colon."""

    provider: str = "openai"
    model: str = "gpt-4o-mini"
    truth: Truth = Field(default_factory=Truth, exclude=True)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.truth.called()
        return self._told(messages, super()._generate(messages, stop, run_manager, **kwargs), kwargs)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.truth.called()
        return self._told(messages, await super()._agenerate(messages, stop, run_manager, **kwargs), kwargs)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self.truth.called()
        delivered = 0
        try:
            for chunk in super()._stream(messages, stop, run_manager, **kwargs):
                delivered += len(chunk.text.encode())
                yield chunk
        finally:
            self._tell(messages, -(-delivered // 4))

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.truth.called()
        delivered = 0
        try:
            async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
                delivered += len(chunk.text.encode())
                yield chunk
        finally:
            self._tell(messages, -(-delivered // 4))

    @override
    def _answer(self, call: int, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        message = super()._answer(call, messages, kwargs)
        said = message.text + "".join(call["name"] + str(call["args"]) for call in message.tool_calls)
        prompt, answer = _prompt_tokens(messages), _tokens(said) * kwargs.get("n", 1)
        message.usage_metadata = UsageMetadata(input_tokens=prompt, output_tokens=answer, total_tokens=prompt + answer)
        return message

    def _told(self, messages: list[BaseMessage], result: ChatResult, kwargs: dict[str, Any]) -> ChatResult:
        """Report as OpenAI's client does: each of `n` choices repeats the usage of the whole request."""
        (generation,) = result.generations
        assert isinstance(generation.message, AIMessage)
        usage = generation.message.usage_metadata
        assert usage is not None
        self.truth.spent(_customer(messages), usage["total_tokens"])
        choices = [ChatGeneration(message=generation.message.model_copy()) for _ in range(kwargs.get("n", 1))]
        counts = {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "total_tokens": usage["total_tokens"],
        }
        return ChatResult(generations=choices, llm_output={"token_usage": counts, "model_name": self.model})

    def _tell(self, messages: list[BaseMessage], answered: int) -> None:
        if answered:
            self.truth.spent(_customer(messages), _prompt_tokens(messages) + answered)


class TrueEmbeddings(Embeddings):
    """Embeddings that tell `truth` what they spend."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self._truth.called()
        self._truth.spent("customer", sum(map(_tokens, texts)))
        return [[float(len(text))] for text in texts]

    @override
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return self.embed_documents(texts)


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // 4)


def _prompt_tokens(messages: Sequence[BaseMessage]) -> int:
    return sum(4 + _tokens(message.text) for message in messages)


def _customer(messages: Sequence[BaseMessage]) -> str:
    name, colon, _ = messages[0].text.partition(":")
    return name if colon else "customer"
