"""Who pays for a run, and as what: the first source that says so wins.

Order: the call's `metadata`, the surrounding `gate.identity(...)`, LangGraph's runtime
context, the handler's own options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Identity
from langchain_vluna.callbacks.options import HandlerOptions, RunInfo, resolve
from langchain_vluna.gate.identity import Surroundings, surroundings

__all__ = ["Sources", "sources"]

_FIELDS = ("principal_id", "user_id", "feature_code", "feature_family_code", "budget")


class Sources:
    """What is said about one run outside the handler's options."""

    def __init__(self, layers: tuple[Mapping[str, Any], ...]) -> None:
        self._layers = layers

    def first(self, name: str, otherwise: Callable[[], Any] = lambda: None) -> Any:
        """Return the value of the first source that has one."""
        for layer in self._layers:
            value = layer.get(name)
            if value is not None:
                return value
        return otherwise()

    def labels(self) -> dict[str, Any]:
        """Return the labels of all sources, the first ones winning."""
        merged: dict[str, Any] = {}
        for layer in reversed(self._layers):
            labels = layer.get("labels")
            if labels is None:
                continue
            if not isinstance(labels, Mapping):
                msg = f"vluna_labels must be a mapping of text to text, got {labels!r}"
                raise ConfigurationError(msg)
            merged.update(labels)
        return merged

    def identity(self, options: HandlerOptions, info: RunInfo) -> Identity:
        """Return who pays.

        Raises:
            ConfigurationError: Nobody says who.
        """
        # An empty text is an answer, and a wrong one: the next source would charge somebody else.
        principal = self.first("principal_id", lambda: resolve("principal_id", options.principal_id, info))
        user = self.first("user_id", lambda: resolve("user_id", options.user_id, info))
        if not principal:
            msg = (
                f"no principal for {info.kind} {info.name!r}: pass principal_id= to VlunaCallbackHandler,"
                " config={'metadata': {'vluna_principal_id': ...}}, or with gate.identity(principal_id=...)"
            )
            raise ConfigurationError(msg, feature_code=info.feature_code)
        return Identity(principal, user)


def sources(metadata: Mapping[str, Any]) -> Sources:
    """Collect what is said about a run with this metadata, started here and now."""
    layers = [_prefixed(metadata.get)]
    around = surroundings()
    if around is not _NONE:
        layers.append({name: getattr(around, name) for name in (*_FIELDS, "labels")})
    context = _runtime_context()
    if context is not None:
        read = context.get if isinstance(context, Mapping) else lambda name: getattr(context, name, None)
        layers.append(_prefixed(read))
    return Sources(tuple(layers))


_NONE: Surroundings = surroundings()


def _prefixed(read: Any) -> dict[str, Any]:
    return {name: value for name in (*_FIELDS, "labels") if (value := read(f"vluna_{name}")) is not None}


def _runtime_context() -> Any:
    """Return LangGraph's `context=`, where a graph is running; langgraph is never imported for it."""
    runtime = sys.modules.get("langgraph.runtime")
    if runtime is None:
        return None
    try:
        return getattr(runtime.get_runtime(), "context", None)
    except (RuntimeError, KeyError):
        return None
