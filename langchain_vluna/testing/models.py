"""A chat model that answers from a script: no provider, no network, real callbacks.

It streams, calls tools and reports usage as the real ones do, so that a test can count
exactly what a chain or an agent should have been charged:

    model = ScriptedChatModel(
        responses=[
            AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2, "b": 3}, "id": "call_1"}]),
            "2 + 3 is 5.",
        ],
        usage={"input_tokens": 40, "output_tokens": 9, "total_tokens": 49},
    )
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr
from typing_extensions import override

from langchain_vluna._io import forks

__all__ = ["Response", "ScriptedChatModel"]

Response: TypeAlias = str | AIMessage | BaseException | Callable[[list[BaseMessage]], str | AIMessage]
"""One answer: text, a whole message (tool calls, usage), an exception to raise, or a function of the prompt."""

_WORDS = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+")


class _Script:
    """Where the script stands. Copies of a model share it, so that calls are counted in one place."""

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self.calls = 0
        self.released = threading.Event()

    def next_call(self) -> int:
        with self._lock:
            self.calls += 1
            return self.calls - 1

    def __deepcopy__(self, memo: dict[int, Any]) -> _Script:
        return self


class ScriptedChatModel(BaseChatModel):
    """Answers `responses` in turn and starts over at the end. Safe to share between threads and tasks."""

    responses: Sequence[Any] = Field(default=("This is a scripted answer.",), min_length=1)
    """Each a `Response`."""
    model: str = "scripted-1"
    provider: str = "scripted"
    max_tokens: int | None = None
    """Only reported to callbacks; answers are not cut."""
    usage: UsageMetadata | None = None
    """What every call reports, unless its message carries its own; `None`: counted approximately."""
    report_usage: bool = True
    """`False`: as a provider that reports no usage at all."""
    delay: float = Field(default=0.0, ge=0.0)
    """Seconds before each answer, or before each chunk of a stream."""
    hang_after: int | None = Field(default=None, ge=0)
    """Number of chunks after which it hangs until `release()` or cancellation; a whole answer hangs at 0 only."""

    _script: _Script = PrivateAttr(default_factory=_Script)

    @property
    def calls(self) -> int:
        """How often the provider would have been called, failed calls included."""
        return self._script.calls

    def release(self) -> None:
        """Let everything go on that hangs."""
        self._script.released.set()

    @property
    def _llm_type(self) -> str:
        return "scripted-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "provider": self.provider}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = self.provider
        return params

    @override
    def bind_tools(
        self,
        tools: Sequence[Any],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Announce tools to callbacks. Which are called is up to the script."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._script.next_call()
        self._pause(0)
        return self._whole(self._answer(call, messages, kwargs))

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._script.next_call()
        await self._apause(0)
        return self._whole(self._answer(call, messages, kwargs))

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._script.next_call()
        for index, chunk in enumerate(_chunks(self._answer(call, messages, kwargs))):
            self._pause(index)
            yield chunk

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._script.next_call()
        for index, chunk in enumerate(_chunks(self._answer(call, messages, kwargs))):
            await self._apause(index)
            yield chunk

    def _pause(self, index: int) -> None:
        if self.delay:
            threading.Event().wait(self.delay)
        if index == self.hang_after:
            self._script.released.wait()

    async def _apause(self, index: int) -> None:
        if self.delay:
            await anyio.sleep(self.delay)
        if index == self.hang_after:
            while not self._script.released.is_set():  # noqa: ASYNC110 -- `release` may be called from any thread
                await anyio.sleep(0.01)

    def _answer(self, call: int, messages: list[BaseMessage], kwargs: dict[str, Any]) -> AIMessage:
        response = self.responses[call % len(self.responses)]
        if callable(response) and not isinstance(response, type):
            response = response(messages)
        if isinstance(response, BaseException) or (isinstance(response, type) and issubclass(response, BaseException)):
            raise response
        message = AIMessage(response) if isinstance(response, str) else response.model_copy()
        if not self.report_usage:
            message.usage_metadata = None
        elif message.usage_metadata is None:
            message.usage_metadata = self.usage or _counted(messages, message)
        message.response_metadata = {
            "model_name": kwargs.get("model", self.model),
            "finish_reason": "tool_calls" if message.tool_calls else "stop",
            **message.response_metadata,
        }
        return message

    def _whole(self, message: AIMessage) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model_name": self.model})


def _counted(messages: list[BaseMessage], answer: AIMessage) -> UsageMetadata:
    input_tokens = max(1, count_tokens_approximately(messages))
    output_tokens = max(1, count_tokens_approximately([answer], extra_tokens_per_message=0))
    return UsageMetadata(
        input_tokens=input_tokens, output_tokens=output_tokens, total_tokens=input_tokens + output_tokens
    )


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Split an answer as providers do: words, tool calls, then usage, then an empty last chunk."""
    for word in _WORDS.findall(message.content) if isinstance(message.content, str) else [message.content]:
        yield ChatGenerationChunk(message=AIMessageChunk(content=word, id=message.id))
    for index, call in enumerate(message.tool_calls):
        begin = tool_call_chunk(name=call["name"], args="", id=call["id"], index=index)
        args = tool_call_chunk(args=json.dumps(call["args"]), index=index)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[begin], id=message.id))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[args], id=message.id))
    if message.usage_metadata is not None:
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", usage_metadata=message.usage_metadata, id=message.id),
        )
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            id=message.id,
            response_metadata=message.response_metadata,
            additional_kwargs=message.additional_kwargs,
            chunk_position="last",
        )
    )
