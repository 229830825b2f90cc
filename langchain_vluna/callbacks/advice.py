"""What to change in the handler when the gate refuses a run's feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vluna._core.errors import GateRejected

if TYPE_CHECKING:
    from langchain_vluna.gate.spec import RunKind

__all__ = ["advised"]

_SETTINGS = {
    "model": "map the model to one it knows with features=",
    "tool": "leave the tool out with tools=, which takes None, names or a callable",
    "retriever": "leave the retriever out with retrievers=",
}


def advised(error: GateRejected, kind: RunKind) -> GateRejected:
    """Add to a refusal of an unknown feature which setting avoids it; others stay as they are."""
    if error.code == "RESOURCE.NOT_FOUND" and "feature not found" in error.message and kind in _SETTINGS:
        error.message += f"; register feature {error.feature_code!r} at the gate, or {_SETTINGS[kind]}"
        error.args = (error.message,)
    return error
