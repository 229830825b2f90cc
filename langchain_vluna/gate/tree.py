"""Which runs belong together: LangChain tells only parents, and end events come without them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from langchain_vluna.gate.spec import RunId

__all__ = ["RunTree"]

_MOST = 100_000


@dataclass(slots=True)
class _Node:
    root_id: RunId
    namespace: str | None
    scope: _Node | None
    """The outermost run in the same checkpoint namespace: the run of the graph's node."""
    started: int = 0
    """Model and tool runs begun within, where this is a scope."""


class RunTree:
    """The runs that have begun and may have children, bounded: some never end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: OrderedDict[RunId, _Node] = OrderedDict()

    def begin(self, run_id: RunId, parent_id: RunId | None, namespace: str | None = None) -> None:
        """Note a run that may have children, with LangGraph's checkpoint namespace where it has one."""
        with self._lock:
            if run_id in self._nodes:
                return
            parent = self._nodes.get(parent_id) if parent_id is not None else None
            node = _Node(self._root(run_id, parent_id), namespace, None)
            node.scope = parent.scope if parent is not None and parent.namespace == namespace else node
            self._nodes[run_id] = node
            while len(self._nodes) > _MOST:
                self._nodes.popitem(last=False)

    def root(self, run_id: RunId, parent_id: RunId | None) -> RunId:
        """Return the root of a run, itself where it has no parent."""
        with self._lock:
            return self._root(run_id, parent_id)

    def ordinal(self, parent_id: RunId | None) -> int:
        """Count a model or tool run within the graph's node it belongs to; the first is 0."""
        with self._lock:
            parent = self._nodes.get(parent_id) if parent_id is not None else None
            if parent is None or parent.scope is None:
                return 0
            parent.scope.started += 1
            return parent.scope.started - 1

    def end(self, run_id: RunId) -> None:
        """Forget a run."""
        with self._lock:
            self._nodes.pop(run_id, None)

    def _root(self, run_id: RunId, parent_id: RunId | None) -> RunId:
        if parent_id is None:
            return run_id
        parent = self._nodes.get(parent_id)
        return parent.root_id if parent is not None else parent_id
