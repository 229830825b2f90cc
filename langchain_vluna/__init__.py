"""Asks the Vluna usage gate before every LangChain run and settles what it used, exactly once.

Names are loaded on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_vluna._core.config import RetryPolicy, Settings
    from langchain_vluna._core.errors import (
        ConfigurationError,
        GateDenied,
        GateProtocolError,
        GateRejected,
        GateUnavailable,
        IdempotencyConflict,
        RunStateError,
        VlunaError,
    )
    from langchain_vluna._core.types import BatchItem, Hint, Transport, Usage
    from langchain_vluna._io.local import LocalGate
    from langchain_vluna.callbacks import VlunaCallbackHandler
    from langchain_vluna.callbacks.ambient import gated
    from langchain_vluna.callbacks.options import RunInfo
    from langchain_vluna.gate import Alarm, Bill, Gate
    from langchain_vluna.middleware import VlunaMiddleware
    from langchain_vluna.wrappers import GatedEmbeddings

    __version__: str

__all__ = [
    "Alarm",
    "BatchItem",
    "Bill",
    "ConfigurationError",
    "Gate",
    "GateDenied",
    "GateProtocolError",
    "GateRejected",
    "GateUnavailable",
    "GatedEmbeddings",
    "Hint",
    "IdempotencyConflict",
    "LocalGate",
    "RetryPolicy",
    "RunInfo",
    "RunStateError",
    "Settings",
    "Transport",
    "Usage",
    "VlunaCallbackHandler",
    "VlunaError",
    "VlunaMiddleware",
    "gated",
]

_HOMES = {
    "Alarm": "gate",
    "BatchItem": "_core.types",
    "Bill": "gate",
    "ConfigurationError": "_core.errors",
    "Gate": "gate",
    "GateDenied": "_core.errors",
    "GateProtocolError": "_core.errors",
    "GateRejected": "_core.errors",
    "GateUnavailable": "_core.errors",
    "GatedEmbeddings": "wrappers",
    "Hint": "_core.types",
    "IdempotencyConflict": "_core.errors",
    "LocalGate": "_io.local",
    "RetryPolicy": "_core.config",
    "RunInfo": "callbacks.options",
    "RunStateError": "_core.errors",
    "Settings": "_core.config",
    "Transport": "_core.types",
    "Usage": "_core.types",
    "VlunaCallbackHandler": "callbacks",
    "VlunaError": "_core.errors",
    "VlunaMiddleware": "middleware",
    "gated": "callbacks.ambient",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("langchain-vluna")
    home = _HOMES.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
