"""The keywords of `VlunaCallbackHandler`, checked when the handler is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from langchain_vluna import naming
from langchain_vluna._core.errors import ConfigurationError, VlunaError
from langchain_vluna._core.types import Usage
from langchain_vluna._core.wire import rules
from langchain_vluna.gate.policy import choose
from langchain_vluna.gate.spec import RunId, RunKind

__all__ = [
    "Choice",
    "Estimate",
    "Features",
    "HandlerOptions",
    "Idempotency",
    "Labels",
    "Meters",
    "OnAbort",
    "OnMissingUsage",
    "RunInfo",
    "ToolQuantity",
    "Tools",
    "asked",
    "own_labels",
    "resolve",
    "tool_quantity",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a callable option is told about the run it decides on."""

    kind: RunKind
    name: str
    """Model name, tool name or retriever name."""
    provider: str | None
    feature_code: str
    """The code the run gets unless `features` says otherwise."""
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]
    run_id: RunId
    parent_run_id: RunId | None
    root_run_id: RunId
    prompt_tokens: int | None = None
    """Estimate, for model runs."""


Choice = str | Callable[[RunInfo], str | None] | None
Features = Mapping[str, str] | Callable[[RunInfo], str | None] | None
ToolQuantity = Literal["calls", "seconds", "bytes"] | Callable[[Any, Any], int]
"""How a tool is measured: `calls` (1), `seconds` (begun ones), `bytes` of its output, or a callable of input and
output."""
Tools = (
    Literal["all"] | Collection[str] | Mapping[str, ToolQuantity] | Callable[[str], ToolQuantity | bool | None] | None
)
Meters = naming.MeterMode | Callable[[Usage, str], Mapping[str, int] | int | None] | None
Estimate = Literal["auto"] | int | Callable[[RunInfo], int | None] | None
Labels = Mapping[str, str] | Callable[[RunInfo], Mapping[str, str]] | None
OnMissingUsage = Literal["estimate", "cancel"]
OnAbort = Literal["bill_delivered", "cancel"]
Idempotency = Literal["run", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerOptions:
    """See `VlunaCallbackHandler` for what each means."""

    principal_id: Choice = None
    user_id: Choice = None
    features: Features = None
    feature_family_code: Choice = None
    tools: Tools = "all"
    retrievers: Tools = None
    meters: Meters = "input_output"
    estimate: Estimate = "auto"
    labels: Labels = None
    budget: Choice = None
    on_missing_usage: OnMissingUsage = "estimate"
    on_abort: OnAbort = "bill_delivered"
    idempotency: Idempotency = "run"
    _features: Mapping[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        choose("on_missing_usage", self.on_missing_usage, OnMissingUsage)
        choose("on_abort", self.on_abort, OnAbort)
        choose("idempotency", self.idempotency, Idempotency)
        if self.meters is not None and not callable(self.meters):
            choose("meters", self.meters, naming.MeterMode)
        if _is_value(self.principal_id):
            rules.header_text(self.principal_id, "principal_id")
        if _is_value(self.user_id):
            rules.header_text(self.user_id, "user_id")
        if _is_value(self.feature_family_code):
            naming.check_family_code(self.feature_family_code)
        if _is_value(self.budget):
            rules.budget(self.budget)
        if _is_value(self.labels):
            rules.user_labels(_mapping("labels", self.labels))
        if _is_value(self.features):
            own = _mapping("features", self.features)
            codes = {name: naming.check_feature_code(code) for name, code in own.items()}
            object.__setattr__(self, "_features", codes)
        _check_estimate(self.estimate)
        for name, tools in (("tools", self.tools), ("retrievers", self.retrievers)):
            _check_tools(name, tools)

    def feature_code(self, info: RunInfo) -> str:
        """Return the feature code of a run: the user's own, by code or by name, else the default."""
        if callable(self.features):
            own = asked("features", self.features, info)
            return info.feature_code if own is None else naming.check_feature_code(own)
        return self._features.get(info.feature_code) or self._features.get(info.name) or info.feature_code

    def estimated_quantity(self, info: RunInfo, max_tokens: int | None) -> int | None:
        """Return what authorize is told to expect; `max_tokens` is the run's own limit."""
        if self.estimate == "auto":
            return None if info.prompt_tokens is None else info.prompt_tokens + (max_tokens or 0)
        if callable(self.estimate):
            estimated = asked("estimate", self.estimate, info)
            _check_estimate(estimated)
            return estimated
        return self.estimate


def asked(option: str, function: Callable[..., T], *told: object) -> T:
    """Return what a callable option says.

    Raises:
        ConfigurationError: It raised. Any other error would be an agent's to swallow, and say nothing of its cause.
    """
    try:
        return function(*told)
    except VlunaError:
        raise
    except Exception as error:
        msg = f"the {option}= callable of the handler raised {error!r}; nothing was run or charged"
        raise ConfigurationError(msg) from error


def resolve(option: str, choice: Callable[[RunInfo], T] | T, info: RunInfo) -> T:
    """Return an option's value for a run."""
    return asked(option, choice, info) if callable(choice) else choice


def own_labels(labels: Labels, info: RunInfo) -> Mapping[str, str]:
    """Return the user's labels for a run, checked.

    Raises:
        ConfigurationError: They are no mapping of text to text.
    """
    return rules.user_labels(_mapping("labels", resolve("labels", labels, info) or {}))


def tool_quantity(option: str, tools: Tools, name: str) -> ToolQuantity | None:
    """Return how a tool of this name is measured; `None` where it is not gated."""
    if tools is None:
        return None
    if tools == "all":
        return "calls"
    if callable(tools):
        chosen = asked(option, tools, name)
        if isinstance(chosen, bool) or chosen is None:
            return "calls" if chosen else None
        _check_quantity(option, chosen)
        return chosen
    if isinstance(tools, Mapping):
        return tools.get(name)
    return "calls" if name in tools else None


def _is_value(choice: object) -> bool:
    return choice is not None and not callable(choice)


def _mapping(option: str, value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    msg = f"{option} must be a mapping of text to text or a callable, got {type(value).__name__}"
    raise ConfigurationError(msg)


def _check_estimate(estimate: object) -> None:
    fine = estimate is None or estimate == "auto" or callable(estimate) or (type(estimate) is int and estimate >= 0)
    if not fine:
        msg = f"estimate must be 'auto', None, a whole number of tokens >= 0 or a callable, got {estimate!r}"
        raise ConfigurationError(msg)


def _check_tools(option: str, tools: object) -> None:
    if tools is None or tools == "all" or callable(tools):
        return
    if isinstance(tools, str) or not isinstance(tools, Collection):
        msg = f"{option} must be 'all', None, names, a mapping of names or a callable, got {tools!r}"
        raise ConfigurationError(f"{msg}; for one: [{tools!r}]" if isinstance(tools, str) else msg)
    nameless = [name for name in tools if not isinstance(name, str)]
    if nameless:
        msg = f"{option} must hold names as text, got {nameless[0]!r}; a tool object has its name in `.name`"
        raise ConfigurationError(msg)
    for how in tools.values() if isinstance(tools, Mapping) else ():
        _check_quantity(option, how)


def _check_quantity(option: str, how: object) -> None:
    if not callable(how):
        choose(f"{option}: quantity", how, Literal["calls", "seconds", "bytes"])
