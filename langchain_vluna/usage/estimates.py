"""Approximate counts, without network and without a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation, LLMResult

from langchain_vluna.usage.sizes import BYTES_PER_TOKEN, content_size, json_size, message_size, text_size

__all__ = [
    "estimate_prompt_tokens",
    "estimate_result_tokens",
    "estimate_text_tokens",
    "estimate_value_tokens",
    "generation_size",
    "requested_max_tokens",
]

_TOKENS_PER_MESSAGE = 4  # role and separators
_MAX_TOKENS_KEYS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "num_predict",
    "maxTokens",
    "maxOutputTokens",
)
_MAX_TOKENS_PLACES = ("options", "generation_config", "model_kwargs", "inferenceConfig")
_CHOICES_KEYS = ("n", "best_of", "candidate_count")
# langchain-anthropic fills in a model's own maximum where the user set none.
_DEFAULT_MAX_TOKENS = {"anthropic": frozenset({32_000, 64_000, 128_000})}


def estimate_text_tokens(size: int) -> int:
    """Return the tokens of a text of `size` UTF-8 bytes, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def estimate_prompt_tokens(
    messages: Sequence[Sequence[BaseMessage]] | Sequence[str],
    invocation_params: Mapping[str, Any] | None = None,
) -> int:
    """Return the tokens of a run's prompt, given as its start event has it.

    With `invocation_params`, the schemas of tools and of the answer count too: they are sent with the prompt.
    Images, audio and files count 85 tokens each, whatever they weigh.
    """
    tokens = 0
    for prompt in messages:
        if isinstance(prompt, str):
            tokens += estimate_text_tokens(text_size(prompt))
        else:
            tokens += sum(_TOKENS_PER_MESSAGE + estimate_text_tokens(message_size(message)) for message in prompt)
    for key in ("tools", "functions", "response_format"):
        if schema := (invocation_params or {}).get(key):
            tokens += estimate_text_tokens(json_size(schema))
    return tokens


def estimate_value_tokens(value: object) -> int:
    """Return the tokens of a decision model's inputs or outputs, which are values of any shape."""
    return estimate_text_tokens(content_size(value))


def estimate_result_tokens(result: LLMResult) -> int:
    """Return the tokens of all that a result delivers, every choice of `n` included."""
    size = sum(generation_size(generation) for generations in result.generations for generation in generations)
    return estimate_text_tokens(size)


def generation_size(generation: Generation) -> int:
    """Return the size of one choice in UTF-8 bytes."""
    message = getattr(generation, "message", None)
    return message_size(message) if isinstance(message, BaseMessage) else text_size(generation.text)


def requested_max_tokens(
    metadata: Mapping[str, Any] | None,
    invocation_params: Mapping[str, Any] | None,
    serialized: Mapping[str, Any] | None = None,
) -> int | None:
    """Return the run's own limit of output tokens, times the choices asked for. `None` where it set none.

    A limit that langchain-anthropic filled in is no wish of the user. It is told by its value (a maximum of
    some model), unless `serialized` shows that the call overrides the model's own setting.
    """
    params = invocation_params or {}
    limit = _max_tokens_of(params) or _positive((metadata or {}).get("ls_max_tokens"))
    if limit is None or _filled_in(limit, metadata or {}, serialized or {}):
        return None
    return limit * max((_positive(params.get(key)) or 1 for key in _CHOICES_KEYS), default=1)


def _max_tokens_of(params: Mapping[str, Any]) -> int | None:
    for place in (params, *[params[key] for key in _MAX_TOKENS_PLACES if key in params]):
        if isinstance(place, Mapping):
            for key in _MAX_TOKENS_KEYS:
                if key in place and (limit := _positive(place[key])):
                    return limit
    return None


def _filled_in(limit: int, metadata: Mapping[str, Any], serialized: Mapping[str, Any]) -> bool:
    provider = metadata.get("ls_provider")
    defaults = _DEFAULT_MAX_TOKENS.get(provider) if isinstance(provider, str) else None
    if defaults is None or limit not in defaults:
        return False
    settings = serialized.get("kwargs")
    own = _max_tokens_of(settings) if isinstance(settings, Mapping) else None
    return own is None or own == limit


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
