"""Which runs belong together: LangChain tells only parents, and end events come without them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from langchain_vluna._io import forks
from langchain_vluna.gate.spec import RunId

__all__ = ["RunTree"]

_MOST = 100_000


@dataclass(slots=True, eq=False)
class _Node:
    root_id: RunId
    namespace: str | None = None
    tool_call_id: str | None = None
    inherited: _Node | None = None
    """The scope of the run above, where this run is none."""
    started: int = 0
    """Model and tool runs begun within, where this is a scope."""

    @property
    def scope(self) -> _Node:
        """What steps are counted in: a tool call, else the graph's node, the outermost run in its namespace."""
        return self.inherited or self


class RunTree:
    """The runs that have begun and may have children, bounded: some never end."""

    def __init__(self) -> None:
        self._lock = forks.Lock()
        self._nodes: OrderedDict[RunId, _Node] = OrderedDict()
        self._steps: OrderedDict[RunId, tuple[_Node, int]] = OrderedDict()

    def begin(
        self, run_id: RunId, parent_id: RunId | None, namespace: str | None = None, tool_call_id: str | None = None
    ) -> None:
        """Note a run that may have children, with LangGraph's checkpoint namespace where it has one."""
        with self._lock:
            if run_id in self._nodes:
                return
            node = _Node(self._root(run_id, parent_id), namespace, tool_call_id)
            parent = self._nodes.get(parent_id) if parent_id is not None else None
            if parent is not None and parent.namespace == namespace and tool_call_id is None:
                node.inherited = parent.scope
            self._note(run_id, node)

    def root(self, run_id: RunId, parent_id: RunId | None) -> RunId:
        """Return the root of a run, itself where it has no parent."""
        with self._lock:
            return self._root(run_id, parent_id)

    def step(self, run_id: RunId, parent_id: RunId | None) -> str:
        """Name a model or tool run within its tool call or graph's node: by their order, the first is 0.

        It keeps its name however many handlers ask.
        """
        with self._lock:
            known = self._steps.get(run_id)
            if known is None:
                known = self._steps[run_id] = self._next_step(run_id if parent_id is None else parent_id)
                while len(self._steps) > _MOST:
                    self._steps.popitem(last=False)
            scope, ordinal = known
            return f"{scope.tool_call_id or ''}/{ordinal}"

    def failed(self, run_id: RunId) -> None:
        """Give the name of a run to the next one: it did not do its work, and whoever began it may try again."""
        with self._lock:
            scope, ordinal = self._steps.pop(run_id, (None, 0))
            if scope is not None and scope.started == ordinal + 1:
                scope.started = ordinal

    def end(self, run_id: RunId) -> None:
        """Forget a run."""
        with self._lock:
            self._nodes.pop(run_id, None)

    def _next_step(self, parent_id: RunId) -> tuple[_Node, int]:
        parent = self._nodes.get(parent_id)
        if parent is None:  # a handler that was turned on below it
            parent = _Node(parent_id)
            self._note(parent_id, parent)
        scope = parent.scope
        scope.started += 1
        return scope, scope.started - 1

    def _note(self, run_id: RunId, node: _Node) -> None:
        self._nodes[run_id] = node
        while len(self._nodes) > _MOST:
            self._nodes.popitem(last=False)

    def _root(self, run_id: RunId, parent_id: RunId | None) -> RunId:
        if parent_id is None:
            return run_id
        parent = self._nodes.get(parent_id)
        return parent.root_id if parent is not None else parent_id
