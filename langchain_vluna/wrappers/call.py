"""One gated call of something that fires no callbacks, placed in the run that surrounds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from langchain_vluna import naming
from langchain_vluna._core.wire import rules
from langchain_vluna.callbacks.identity import sources
from langchain_vluna.callbacks.options import Choice, HandlerOptions, Labels, RunInfo, own_labels
from langchain_vluna.gate import Gate
from langchain_vluna.gate.ambient import current_scopes
from langchain_vluna.gate.spec import RunSpec
from langchain_vluna.gate.work import Work

__all__ = ["GatedCalls"]


class GatedCalls:
    """Makes a gated run per call, for whom the surrounding run, `gate.identity` or the options say."""

    def __init__(
        self, gate: Gate, wrapped: object, *, feature_code: str, principal_id: Choice, user_id: Choice, labels: Labels
    ) -> None:
        self._gate = gate
        self._name = type(wrapped).__name__
        self.feature_code = naming.check_feature_code(feature_code)
        self._options = HandlerOptions(principal_id=principal_id, user_id=user_id, labels=labels)

    def __repr__(self) -> str:
        return f"{self._gate!r}, feature_code={self.feature_code!r}"

    def call(self, estimated_quantity: int | None) -> Work:
        """Return a gated run to do the call in.

        Raises:
            ConfigurationError: Nobody pays, or a value cannot be sent.
        """
        config = var_child_runnable_config.get() or {}
        metadata: Mapping[str, Any] = config.get("metadata") or {}
        run_id, parent_id = uuid4(), _parent_id(config.get("callbacks"))
        info = RunInfo(
            kind="work",
            name=self._name,
            provider=None,
            feature_code=self.feature_code,
            metadata=metadata,
            tags=tuple(config.get("tags") or ()),
            run_id=run_id,
            parent_run_id=parent_id,
            root_run_id=self._gate.engine.tree.root(run_id, parent_id),
        )
        return Work(self._spec(info, estimated_quantity), self._gate.engine)

    def _spec(self, info: RunInfo, estimated_quantity: int | None) -> RunSpec:
        said = sources(info.metadata)
        family = said.first("feature_family_code")
        thread = info.metadata.get("thread_id")
        labels = {"run_id": str(info.run_id), "root_run_id": str(info.root_run_id), "wrapped": info.name}
        if thread is not None:
            labels["thread_id"] = rules.label_text(thread)
        return RunSpec(
            run_id=info.run_id,
            parent_id=info.parent_run_id,
            root_id=info.root_run_id,
            kind="work",
            identity=said.identity(self._options, info),
            feature_code=self.feature_code,
            feature_family_code=naming.check_family_code(family) if family else None,
            estimated_quantity=estimated_quantity,
            budget=said.first("budget"),
            labels={**rules.user_labels({**own_labels(self._options.labels, info), **said.labels()}), **labels},
            thread_id=None if thread is None else str(thread),
            scopes=current_scopes(),
        )


def _parent_id(callbacks: object) -> UUID | None:
    return callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
