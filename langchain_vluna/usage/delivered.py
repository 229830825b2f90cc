"""What a stream has delivered so far, for runs whose end brings no usage, or brings it added up wrongly.

Providers report the usage of a stream once, or in parts that add up. Some servers that speak OpenAI's protocol report
with each chunk what the whole stream has used so far, or the whole a second time; LangChain adds all of it up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from langchain_vluna.usage.reported import Reported, read_counts, read_usage_metadata
from langchain_vluna.usage.sizes import BYTES_PER_TOKEN, content_size, side_size, text_size, tool_calls_size

__all__ = ["Delivered"]


class Delivered:
    """Adds up the tokens of one run. One thread at a time; a token costs a fraction of a microsecond."""

    __slots__ = ("_counts", "_last_chunk", "_latest", "_running", "_size", "_size_at_counts")

    def __init__(self) -> None:
        self._size = 0
        self._last_chunk: object = None
        self._counts: Reported | None = None
        self._latest: Reported | None = None
        self._running: bool | None = None
        """Whether each report so far was the total until then; `None` while there was one at most."""
        self._size_at_counts = 0

    def add(self, token: object, chunk: Any = None) -> None:
        """Take what `on_llm_new_token` was called with; a chunk counts once, however many handlers are told of it."""
        if chunk is not None:
            if chunk is self._last_chunk:
                return
            self._last_chunk = chunk
        try:
            message = chunk.message
            calls, beside, counts = message.tool_call_chunks, message.additional_kwargs, message.usage_metadata
        except AttributeError:
            self._add_plain(token, chunk)
            return
        if type(token) is str:
            self._size += len(token) if token.isascii() else text_size(token)
            if calls:
                self._size += tool_calls_size(calls)
            if beside:
                self._size += side_size(beside)
        else:  # a list of content blocks, in which tool calls and reasoning are blocks too
            self._size += content_size(token)
        if counts:
            self._count(read_usage_metadata(counts))

    def _add_plain(self, token: object, chunk: Any) -> None:
        """Add a token of a plain LLM, or of a chat model whose chunks are of no AI message."""
        self._size += text_size(token) if isinstance(token, str) else content_size(token)
        # Where plain LLMs (Ollama's for one) put their counts, in the last chunk.
        self._count(read_counts(getattr(chunk, "generation_info", None)))

    @property
    def size(self) -> int:
        """Text, tool calls and reasoning, in UTF-8 bytes."""
        return self._size

    @property
    def tokens(self) -> int:
        """Estimate of the tokens delivered."""
        return -(-self._size // BYTES_PER_TOKEN)

    @property
    def reported(self) -> Reported:
        """What the chunks reported. Output that more text followed is not the whole, so unknown."""
        counts = (self._latest if self._running else self._counts) or Reported()
        if self._size > self._size_at_counts:
            counts = Reported(
                input_tokens=counts.input_tokens,
                cached_tokens=counts.cached_tokens,
                cache_write_tokens=counts.cache_write_tokens,
                audio_input_tokens=counts.audio_input_tokens,
            )
        return self._judged(counts)

    def corrected(self, report: Reported) -> Reported:
        """Return a result's report; where LangChain made it by adding up running totals, the last one of them."""
        if not self._running or self._latest is None or self._counts is None:
            return report
        added_up = self._judged(self._counts)
        if (report.input_tokens, report.output_tokens) != (added_up.input_tokens, added_up.output_tokens):
            return report
        return replace(self._judged(self._latest), model=report.model, covers=report.covers)

    def _judged(self, counts: Reported) -> Reported:
        return counts.judged(delivered=self._size > 0)

    def _count(self, counts: Reported | None) -> None:
        if counts is None:
            return
        if self._counts is None or self._latest is None:
            self._counts = counts
        else:
            self._running = self._running is not False and self._goes_on(self._latest, counts)
            self._counts += counts
        self._latest = counts
        self._size_at_counts = self._size

    def _goes_on(self, last: Reported, counts: Reported) -> bool:
        """Whether a report may be the next running total: the prompt told again, and output that grew with the text."""
        if not counts.input_tokens or counts.input_tokens != last.input_tokens:
            return False
        if counts.output_tokens is None or last.output_tokens is None:
            return False
        least = last.output_tokens + (1 if self._size > self._size_at_counts else 0)
        return counts.output_tokens >= least
