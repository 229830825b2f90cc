"""Turning a handler on for a block of code, with no config passed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_core.tracers.context import register_configure_hook

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna.callbacks.handler import VlunaCallbackHandler
from langchain_vluna.gate import Bill
from langchain_vluna.gate.ambient import scope, setting
from langchain_vluna.gate.liveness import find_caller

__all__ = ["gated", "turned_on"]

_HANDLER: ContextVar[VlunaCallbackHandler | None] = ContextVar("vluna_handler", default=None)

# A registration is for good, so there is one, made with the module.
register_configure_hook(_HANDLER, inheritable=True)


@contextmanager
def gated(handler: VlunaCallbackHandler) -> Iterator[Bill]:
    """Gate every model and tool run inside, and bill them together.

    It holds for tasks, for threads that copy the context (LangChain's own do), and for nodes that pass
    `callbacks=[]`. It does not hold for a stream that is made inside and read outside, nor for a raw
    `threading.Thread`. Of blocks in each other the inner handler counts; the outer bill covers both.
    A handler that is passed as well still charges each run once.
    """
    if not isinstance(handler, VlunaCallbackHandler):
        msg = f"gated takes a VlunaCallbackHandler, got {handler!r}"
        raise ConfigurationError(msg)
    with scope() as scope_id, turned_on(handler):
        yield handler.gate.engine.bills.get(("scope", scope_id))


@contextmanager
def turned_on(handler: VlunaCallbackHandler) -> Iterator[None]:
    """Gate every run inside; if the block is left by a cancellation, settle what it leaves open."""
    since = time.monotonic()
    with setting(_HANDLER, handler):
        try:
            yield
        except Exception:
            raise
        except BaseException:
            # LangChain tells callbacks nothing of a cancelled `ainvoke`.
            handler.gate.engine.watch.left(find_caller(), since)
            raise
