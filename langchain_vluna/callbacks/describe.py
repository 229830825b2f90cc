"""Start events of LangChain, described as runs to gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_vluna import naming, usage
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.wire import rules
from langchain_vluna.callbacks.identity import Sources, sources
from langchain_vluna.callbacks.metering import ModelMeter, ToolMeter
from langchain_vluna.callbacks.options import HandlerOptions, RunInfo, own_labels, resolve, tool_quantity
from langchain_vluna.gate.ambient import current_scopes
from langchain_vluna.gate.spec import RunId, RunKind, RunSpec
from langchain_vluna.gate.tree import RunTree

__all__ = ["ModelMeter", "Started", "ToolMeter", "model_run", "started", "tool_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What LangChain says of a run that starts."""

    run_id: RunId
    parent_run_id: RunId | None
    serialized: Mapping[str, Any]
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]
    tool_call_id: str | None = None
    event: object = None
    """The same for all tellings of one start: LangChain makes the metadata anew for each."""

    @property
    def namespace(self) -> str | None:
        """LangGraph's checkpoint namespace."""
        return self.metadata.get("langgraph_checkpoint_ns")


@dataclass(frozen=True, slots=True)
class _Named:
    """What a run is called. Names no code can be made of are fine where the user gives a code."""

    name: str
    provider: str | None
    feature_code: str
    trouble: ConfigurationError | None = None


def started(serialized: Mapping[str, Any] | None, params: Mapping[str, Any]) -> Started:
    """Read a start event; `params` are its keyword arguments."""
    return Started(
        run_id=params["run_id"],
        parent_run_id=params.get("parent_run_id"),
        serialized=serialized or {},
        metadata=params.get("metadata") or {},
        tags=tuple(params.get("tags") or ()),
        tool_call_id=params.get("tool_call_id"),
        event=params.get("metadata"),
    )


def model_run(
    started: Started, options: HandlerOptions, tree: RunTree, prompts: Any, params: Mapping[str, Any]
) -> ModelMeter:
    """Describe a model run. `params` are the start event's keyword arguments.

    `prompts` are texts or messages, or the inputs of a decision model, which starts as a chain with a `run_type`.

    Raises:
        ConfigurationError: Nobody pays, or a value cannot be sent.
    """
    invocation = params.get("invocation_params") or {}
    decides = params.get("run_type") is not None
    prompt_tokens = (
        usage.estimate_value_tokens(prompts) if decides else usage.estimate_prompt_tokens(prompts, invocation)
    )
    named = _named_model(started, invocation)
    info = _info(started, tree, "model", named, prompt_tokens)
    limit = usage.requested_max_tokens(started.metadata, invocation, started.serialized)
    spec = _spec(started, options, tree, info, named, options.estimated_quantity(info, limit))
    return ModelMeter(spec, options, prompt_tokens=prompt_tokens, batch_size=params.get("batch_size") or 1)


def tool_run(
    started: Started, options: HandlerOptions, tree: RunTree, *, kind: RunKind, name: str, inputs: object
) -> ToolMeter | None:
    """Describe a tool or retriever run; `None` where it is not gated.

    Raises:
        ConfigurationError: Nobody pays, or a value cannot be sent.
    """
    option = "tools" if kind == "tool" else "retrievers"
    how = tool_quantity(option, getattr(options, option), name)
    if how is None:
        return None
    named = _named_tool(kind, name)
    info = _info(started, tree, kind, named)
    return ToolMeter(_spec(started, options, tree, info, named, None if callable(how) else 1), how, inputs)


def _named_model(started: Started, invocation: Mapping[str, Any]) -> _Named:
    provider: str | None = None
    model = ""
    try:
        provider, model = naming.provider_and_model(started.serialized, started.metadata, invocation)
        return _Named(model, provider, naming.model_feature_code(provider, model))
    except ConfigurationError as trouble:
        return _Named(model, provider, "", trouble)


def _named_tool(kind: RunKind, name: str) -> _Named:
    try:
        code = naming.tool_feature_code(name) if kind == "tool" else naming.model_feature_code("retriever", name)
    except ConfigurationError as trouble:
        return _Named(name, None, "", trouble)
    return _Named(name, None, code)


def _info(started: Started, tree: RunTree, kind: RunKind, named: _Named, prompt_tokens: int | None = None) -> RunInfo:
    return RunInfo(
        kind=kind,
        name=named.name,
        provider=named.provider,
        feature_code=named.feature_code,
        metadata=started.metadata,
        tags=started.tags,
        run_id=started.run_id,
        parent_run_id=started.parent_run_id,
        root_run_id=tree.root(started.run_id, started.parent_run_id),
        prompt_tokens=prompt_tokens,
    )


def _spec(  # noqa: PLR0917 -- what a start event says, and what the user says of it
    started: Started, options: HandlerOptions, tree: RunTree, info: RunInfo, named: _Named, estimate: int | None
) -> RunSpec:
    said = sources(started.metadata)
    thread = started.metadata.get("thread_id")
    family = said.first(
        "feature_family_code", lambda: resolve("feature_family_code", options.feature_family_code, info)
    )
    spec = RunSpec(
        run_id=info.run_id,
        parent_id=info.parent_run_id,
        root_id=info.root_run_id,
        kind=info.kind,
        identity=said.identity(options, info),
        feature_code=_feature_code(said, options, info, named),
        feature_family_code=None if family is None else naming.check_family_code(family),
        estimated_quantity=estimate,
        budget=said.first("budget", lambda: resolve("budget", options.budget, info)),
        labels=_labels(info, {**own_labels(options.labels, info), **said.labels()}, thread),
        thread_id=None if thread is None else str(thread),
        scopes=current_scopes(),
        event=started.event,
    )
    place = started.namespace or started.metadata.get("checkpoint_ns")
    # Outside a graph nothing tells a repeated step from the thread's next one, and each is paid for.
    if options.idempotency == "run" or thread is None or not place:
        return spec
    which = started.tool_call_id or tree.step(started.run_id, started.parent_run_id)
    step = (spec.identity.principal_id, str(thread), str(place), spec.feature_code, which)
    return replace(spec, step="\n".join(step))


def _feature_code(said: Sources, options: HandlerOptions, info: RunInfo, named: _Named) -> str:
    # A call's own feature code is meant for its models; tools keep theirs, or each would be charged as a model.
    own = said.first("feature_code") if info.kind == "model" else None
    code = options.feature_code(info) if own is None else naming.check_feature_code(own)
    if not code and named.trouble is not None:
        raise named.trouble
    return code


def _labels(info: RunInfo, own: Mapping[str, Any], thread: object) -> dict[str, str]:
    labels: dict[str, object] = {"run_id": info.run_id, "root_run_id": info.root_run_id, info.kind: info.name}
    if info.provider:
        labels["provider"] = info.provider
    if thread is not None:
        labels["thread_id"] = thread
    return {**rules.user_labels(own), **{name: rules.label_text(value) for name, value in labels.items()}}
