"""Names of models and tools as feature and meter codes.

A code must satisfy what the gate's database takes: `[a-z0-9]+([._-][a-z0-9]+)*`,
at most 128 characters. The gate's own validator lets more pass and then answers
500, so nothing else may leave this module.

Model names are mapped, not refused: case is folded, `/` reads as `.`; `:`, `@` and
blanks read as `-`; `+` reads as `-plus`. Where more than that is lost (accents, other
scripts, other symbols, length), eight hex digits of the name's SHA-256 are appended,
so that two models do not come to share a code unnoticed.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Usage

__all__ = [
    "MeterMode",
    "check_family_code",
    "check_feature_code",
    "check_meter_code",
    "meter_quantities",
    "model_feature_code",
    "provider_and_model",
    "token_meter",
    "tool_feature_code",
]

MeterMode = Literal["input_output", "input_output_cached", "detailed"]

_MAX_LENGTH = 128
_LONGEST_METER_SUFFIX = len(".tokens.audio_output")
_CODE = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_SEPARATORS = re.compile(r"[._\-/:@\\\s]+")
_LOST = re.compile(r"[^a-z0-9._\-/:@\\\s]")

_MODEL_KEYS = (
    "model",
    "model_name",
    "model_id",
    "deployment_name",
    "azure_deployment",
    "endpoint_name",
    "repo_id",
    "model_path",
)


@lru_cache(maxsize=1024)
def model_feature_code(provider: str, model: str) -> str:
    """Return `<provider>.<model>`, normalized, short enough for every token meter of the feature."""
    what = f"{provider!r} / {model!r} (provider / model)"
    head = _normalized(provider, what)
    tail = _normalized(model.removeprefix("models/"), what)
    return _shortened(f"{head}.{tail}", f"{provider}\0{model}", _MAX_LENGTH - _LONGEST_METER_SUFFIX)


@lru_cache(maxsize=1024)
def tool_feature_code(name: str) -> str:
    """Return `tool.<name>`, normalized."""
    return _shortened(f"tool.{_normalized(name, f'{name!r} (tool name)')}", name, _MAX_LENGTH)


def check_feature_code(code: object) -> str:
    """Return a user's feature code in canonical form (trimmed, lower-cased)."""
    return _checked(code, "feature code", fold=True)


def check_meter_code(code: object) -> str:
    """Return a user's meter code in canonical form (trimmed, lower-cased)."""
    return _checked(code, "meter code", fold=True)


def check_family_code(code: object) -> str:
    """Return a user's feature family code, trimmed. The gate does not lower-case families."""
    return _checked(code, "feature family code", fold=False)


def provider_and_model(
    serialized: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    invocation_params: Mapping[str, Any] | None,
) -> tuple[str, str]:
    """Tell provider and model of a model run from what its start event carries.

    `ls_provider` and `ls_model_name` win: they honour `bind(model=...)`. What custom models
    lack is read from their parameters and their class. `metadata["model"]` is never read:
    it is a copy of the caller's `configurable.model`, not the model that runs.
    """
    serialized, metadata, params = serialized or {}, metadata or {}, invocation_params or {}
    class_name = _class_name(serialized)
    llm_type = _text(params.get("_type"))
    provider = _text(metadata.get("ls_provider")) or _provider_of(llm_type) or class_name
    model = (
        _text(metadata.get("ls_model_name"))
        or _first_text(params, _MODEL_KEYS)
        or _first_text(serialized.get("kwargs"), _MODEL_KEYS)
        or class_name
        or llm_type
    )
    if provider is None or model is None:
        msg = (
            "the model run names neither provider nor model; set features= of the handler, "
            "or metadata['vluna_feature_code'] of the call"
        )
        raise ConfigurationError(msg)
    return provider, model


def meter_quantities(feature_code: str, usage: Usage, mode: MeterMode | None) -> dict[str, int] | None:
    """Split a usage over the feature's token meters. `None` when no meters are to be sent.

    The quantities always add up to `usage.total_tokens` and zero meters are left out.
    A provider's details that exceed their side are cut: cached first, then cache writes, then audio;
    reasoning before audio on the output side.
    """
    if mode is None:
        return None
    if mode == "input_output":
        parts = {"input": usage.input_tokens, "output": usage.output_tokens}
    else:
        in_details = {"cached": usage.cached_tokens, "cache_write": usage.cache_write_tokens}
        out_details: dict[str, int] = {}
        if mode == "detailed":
            in_details["audio_input"] = usage.audio_input_tokens
            out_details = {"reasoning": usage.reasoning_tokens, "audio_output": usage.audio_output_tokens}
        parts = _split("input", usage.input_tokens, in_details) | _split("output", usage.output_tokens, out_details)
    return {token_meter(feature_code, name): quantity for name, quantity in parts.items() if quantity}


def _split(rest_name: str, total: int, details: Mapping[str, int]) -> dict[str, int]:
    parts = {}
    for name, wanted in details.items():
        parts[name] = min(max(wanted, 0), total)
        total -= parts[name]
    return {rest_name: total} | parts


@lru_cache(maxsize=4096)
def token_meter(feature_code: str, name: str) -> str:
    """Return the code of a feature's meter for `input`, `output` or another kind of token."""
    suffix = f".tokens.{name}"
    return _shortened(feature_code, feature_code, _MAX_LENGTH - len(suffix)) + suffix


def _normalized(name: str, what: str) -> str:
    folded = name.strip().casefold()
    decomposed = unicodedata.normalize("NFKD", folded).casefold()
    spelled = "".join(c for c in decomposed if not unicodedata.combining(c)).replace("+", "-plus-")
    lost = not folded.isascii() or _LOST.search(spelled) is not None
    code = _SEPARATORS.sub(_joint, _LOST.sub("-", spelled)).strip("._-")
    if not code:
        msg = (
            f"no feature code can be made of {what}: it needs at least one of a-z or 0-9; "
            "map it to a code of your own with features= (models) or tools= (tools)"
        )
        raise ConfigurationError(msg)
    return f"{code}-{_digest(name)}" if lost else code


def _joint(run: re.Match[str]) -> str:
    separators = run.group()
    if "." in separators or "/" in separators or "\\" in separators:
        return "."
    return "_" if set(separators) == {"_"} else "-"


def _shortened(code: str, original: str, limit: int) -> str:
    if len(code) <= limit:
        return code
    digest = _digest(original)
    return f"{code[: limit - len(digest) - 1].rstrip('._-')}-{digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().casefold().encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _checked(code: object, what: str, *, fold: bool) -> str:
    trimmed = code.strip() if isinstance(code, str) else ""
    canonical = trimmed.lower() if fold else trimmed
    if len(canonical) > _MAX_LENGTH or _CODE.fullmatch(canonical) is None:
        msg = (
            f"{what} {code!r} is not one the gate takes: 1 to {_MAX_LENGTH} characters, groups of "
            "a-z and 0-9 joined by single '.', '_' or '-', such as 'openai.gpt-4o'"
        )
        raise ConfigurationError(msg)
    return canonical


def _class_name(serialized: Mapping[str, Any]) -> str | None:
    path = serialized.get("id")
    last = path[-1] if isinstance(path, (list, tuple)) and path else None
    return _text(last) or _text(serialized.get("name"))


def _provider_of(llm_type: str | None) -> str | None:
    if llm_type is None:
        return None
    return _text(llm_type.removesuffix("-chat").removeprefix("chat-"))


def _first_text(source: object, keys: tuple[str, ...]) -> str | None:
    if not isinstance(source, Mapping):
        return None
    return next((text for key in keys if (text := _text(source.get(key)))), None)


def _text(value: object) -> str | None:
    return (value.strip() or None) if isinstance(value, str) else None
