"""Token counts as a provider reported them, whole or in part, in whatever spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from typing import Any, Literal, SupportsIndex, TypeAlias

from langchain_vluna._core.types import Usage

__all__ = ["Coverage", "Reported", "read_counts", "read_usage_metadata"]

Coverage: TypeAlias = Literal["run", "request", "elsewhere"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What a provider said about one run. `None` is: it did not say, or said what cannot be."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    model: str | None = None
    """The model that served the call."""
    covers: Coverage = "run"
    """Several prompts may share one request of a plain LLM: `request` is the usage of all of its runs, and
    `elsewhere` is nothing: not reported, or on another run of the batch. `BatchReports` tells which."""

    def __add__(self, other: Reported) -> Reported:
        """Add parts of one report, such as those of stream chunks."""
        return Reported(
            input_tokens=_sum(self.input_tokens, other.input_tokens),
            output_tokens=_sum(self.output_tokens, other.output_tokens),
            total_tokens=_sum(self.total_tokens, other.total_tokens),
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            audio_input_tokens=self.audio_input_tokens + other.audio_input_tokens,
            audio_output_tokens=self.audio_output_tokens + other.audio_output_tokens,
            model=self.model or other.model,
        )

    @property
    def usage(self) -> Usage | None:
        """The usage, `None` unless both sides are known."""
        return self.complete(prompt_estimate=0, delivered_estimate=0) if self.is_whole else None

    @property
    def is_whole(self) -> bool:
        """Whether both sides are known."""
        return self.input_tokens is not None and self.output_tokens is not None

    def complete(self, *, prompt_estimate: int, delivered_estimate: int) -> Usage:
        """Return a usage in which estimates stand in for the unknown sides, and that says so."""
        input_tokens, output_tokens = self.input_tokens, self.output_tokens
        reported = input_tokens is not None and output_tokens is not None
        if output_tokens is None:
            output_tokens = max(delivered_estimate, self.reasoning_tokens, self.audio_output_tokens)
            if input_tokens is None and self.total_tokens:
                output_tokens = min(output_tokens, self.total_tokens)
                input_tokens = self.total_tokens - output_tokens
        if input_tokens is None:
            known = self.cached_tokens + self.cache_write_tokens
            input_tokens = max(prompt_estimate, known, self.audio_input_tokens)
        cached = min(self.cached_tokens, input_tokens)
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached,
            cache_write_tokens=min(self.cache_write_tokens, input_tokens - cached),
            reasoning_tokens=min(self.reasoning_tokens, output_tokens),
            audio_input_tokens=min(self.audio_input_tokens, input_tokens),
            audio_output_tokens=min(self.audio_output_tokens, output_tokens),
            source="reported" if reported else "estimated",
            model=self.model,
        )

    def judged(self, *, delivered: bool) -> Reported:
        """Return the report without zeros that cannot be, and with the side that the total gives away.

        No model run has an empty prompt (Anthropic-compatible endpoints whose last event has only output
        tokens come out as input 0), and none that delivered something has used no output tokens.
        """
        input_tokens = self.input_tokens or None
        output_tokens = None if delivered and self.output_tokens == 0 else self.output_tokens
        total = self.total_tokens or 0
        if input_tokens is None and output_tokens is not None:
            input_tokens = max(total - output_tokens, 0) or None
        elif output_tokens is None and input_tokens is not None:
            output_tokens = max(total - input_tokens, 0) or None
        elif (
            input_tokens is not None
            and output_tokens is not None
            and self.reasoning_tokens
            and total == input_tokens + output_tokens + self.reasoning_tokens
        ):
            output_tokens += self.reasoning_tokens  # providers that count reasoning beside the output, as xAI
        if (input_tokens, output_tokens) == (self.input_tokens, self.output_tokens):
            return self
        return replace(self, input_tokens=input_tokens, output_tokens=output_tokens)

    def or_else(self, other: Reported) -> Reported:
        """Return this report with its unknown sides from another report of the same run."""
        if self.is_whole:
            return self
        if other.is_whole or (self.input_tokens is None and self.output_tokens is None):
            return other
        return replace(
            self,
            input_tokens=other.input_tokens if self.input_tokens is None else self.input_tokens,
            output_tokens=other.output_tokens if self.output_tokens is None else self.output_tokens,
        )


_MOST = 2**50
"""What is more is no count of tokens, and twice of it could not be sent."""
_INPUT = (
    "input_tokens",
    "prompt_tokens",
    "prompt_token_count",
    "promptTokenCount",
    "inputTokens",
    "inputTokenCount",
    "input_token_count",
    "prompt_eval_count",
)
_OUTPUT = (
    "output_tokens",
    "completion_tokens",
    "candidates_token_count",
    "candidatesTokenCount",
    "outputTokens",
    "outputTokenCount",
    "output_token_count",
    "generated_token_count",
    "generation_token_count",
    "completion_token_count",
    "eval_count",
)
_TOTAL = ("total_tokens", "total_token_count", "totalTokenCount", "totalTokens")
_INPUT_DETAILS = ("input_token_details", "prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("output_token_details", "completion_tokens_details", "output_tokens_details")
_PART_NAMES = {
    "cached": ("cache_read", "cached_tokens"),
    "cache_write": ("cache_creation", "cache_write_tokens", "cache_creation_tokens"),
    "cache_write_by_ttl": ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    "reasoning": ("reasoning", "reasoning_tokens", "thinking_tokens"),
    "audio": ("audio", "audio_tokens"),
}
# Details among the counts themselves: flat ones are parts of their side, those beside it come on top (Anthropic,
# Bedrock, Google), unless a total says that they are already in it.
_FLAT_CACHED = ("cached_content_token_count", "cachedContentTokenCount", "prompt_cache_hit_tokens", "cached_tokens")
_BESIDE_CACHED = ("cache_read_input_tokens", "cacheReadInputTokens")
_BESIDE_CACHE_WRITE = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_FLAT_REASONING = ("reasoning_tokens", "thinking_tokens")
_BESIDE_REASONING = ("thoughts_token_count", "thoughtsTokenCount")
_BESIDE_INPUT = ("tool_use_prompt_token_count", "toolUsePromptTokenCount")


def read_usage_metadata(source: object) -> Reported | None:
    """Read a message's `usage_metadata`, LangChain's own form; `None` where it holds no count at all.

    Details are read with and without service tier (`flex_cache_read`), cache writes also by time to live
    (`ephemeral_5m_input_tokens`).
    """
    if not isinstance(source, Mapping):
        return None
    input_tokens, output_tokens, total = (
        _count(source.get(key)) for key in ("input_tokens", "output_tokens", "total_tokens")
    )
    if input_tokens is None and output_tokens is None and total is None:
        return None
    in_parts, out_parts = _parts(source.get("input_token_details")), _parts(source.get("output_token_details"))
    return _reported(input_tokens, output_tokens, total, in_parts, out_parts)


def read_counts(source: object) -> Reported | None:
    """Read a mapping of token counts in any usual spelling; `None` where it holds no count at all."""
    if not isinstance(source, Mapping):
        return None
    input_tokens, output_tokens, total = (_first(source, keys) for keys in (_INPUT, _OUTPUT, _TOTAL))
    if input_tokens is None and output_tokens is None and total is None:
        return None
    in_parts, out_parts = _parts(_inner(source, _INPUT_DETAILS)), _parts(_inner(source, _OUTPUT_DETAILS))
    beside = {
        "cached": _first(source, _BESIDE_CACHED) or 0,
        "cache_write": _first(source, _BESIDE_CACHE_WRITE) or 0,
        "prompt": _first(source, _BESIDE_INPUT) or 0,
    }
    beside_reasoning = _first(source, _BESIDE_REASONING) or 0
    if input_tokens is not None and (output_tokens is None or total != input_tokens + output_tokens):
        input_tokens += sum(beside.values())
    if output_tokens is not None:
        output_tokens += beside_reasoning
    in_parts.setdefault("cached", _first(source, _FLAT_CACHED) or beside["cached"])
    in_parts.setdefault("cache_write", beside["cache_write"])
    out_parts.setdefault("reasoning", _first(source, _FLAT_REASONING) or beside_reasoning)
    return _reported(input_tokens, output_tokens, total, in_parts, out_parts)


def _reported(
    input_tokens: int | None,
    output_tokens: int | None,
    total_tokens: int | None,
    in_parts: Mapping[str, int],
    out_parts: Mapping[str, int],
) -> Reported:
    return Reported(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=total_tokens,
        cached_tokens=in_parts.get("cached", 0),
        cache_write_tokens=max(in_parts.get("cache_write", 0), in_parts.get("cache_write_by_ttl", 0)),
        reasoning_tokens=out_parts.get("reasoning", 0),
        audio_input_tokens=in_parts.get("audio", 0),
        audio_output_tokens=out_parts.get("audio", 0),
    )


def _count(value: object) -> int | None:
    count = value if type(value) is int else _whole(value)
    return count if count is not None and 0 <= count <= _MOST else None


def _whole(value: object) -> int | None:
    """Read a count that is no plain int: 10.0, as some JSON has it, or another library's integer."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return None if isinstance(value, bool) or not isinstance(value, SupportsIndex) else index(value)


def _first(source: Mapping[Any, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        if (count := _count(source.get(key))) is not None:
            return count
    return None


def _inner(source: Mapping[Any, Any], keys: tuple[str, ...]) -> object:
    return next((details for key in keys if (details := source.get(key)) is not None), None)


def _parts(details: object) -> dict[str, int]:
    """Sum each kind of detail over service tiers: `cache_read` and `flex_cache_read` are different tokens."""
    parts: dict[str, int] = {}
    if details and isinstance(details, Mapping):
        for key, value in details.items():
            count = _count(value)
            if count and isinstance(key, str) and (part := _part_named(key)):
                parts[part] = parts.get(part, 0) + count
    return parts


@lru_cache(maxsize=256)
def _part_named(key: str) -> str | None:
    for part, names in _PART_NAMES.items():
        if any(key == name or key.endswith(f"_{name}") for name in names):
            return part
    return None


def _sum(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right
