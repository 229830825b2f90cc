"""A callback handler that keeps what it is told."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from langchain_vluna.usage import Delivered

__all__ = ["Recorder"]


class Recorder(BaseCallbackHandler):
    """Starts, results, errors and streamed tokens of model runs; starts and outputs of chains."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.results: list[Any] = []
        """`LLMResult`s of finished runs."""
        self.partial: list[LLMResult | None] = []
        """What came with errors."""
        self.delivered = Delivered()
        self.chain_starts: list[dict[str, Any]] = []
        self.outputs: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.starts.append({"serialized": serialized, "prompt": messages, **kwargs})

    def on_llm_start(self, serialized: Any, prompts: Any, **kwargs: Any) -> None:
        self.starts.append({"serialized": serialized, "prompt": prompts, **kwargs})

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        self.delivered.add(token, chunk)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.results.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.partial.append(kwargs.get("response"))

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.chain_starts.append(kwargs)

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.outputs.append(outputs)
