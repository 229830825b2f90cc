"""Other people's handlers, when a run is blocked or broken off.

LangChain tells handlers that a run starts one after the other. When one of them blocks the run, those before it were
told of a start, and nobody tells them of an end: a tracer would show the run as running for ever. So whoever blocks
a run tells them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event

__all__ = ["atell_others", "broke_off", "tell_others"]

logger = logging.getLogger("langchain_vluna")

_ENDS = {
    "on_chain_start": ("on_chain_error", "ignore_chain"),
    "on_chat_model_start": ("on_llm_error", "ignore_llm"),
    "on_llm_start": ("on_llm_error", "ignore_llm"),
    "on_retriever_start": ("on_retriever_error", "ignore_retriever"),
    "on_tool_start": ("on_tool_error", "ignore_agent"),
}
_FRAMES_BETWEEN = 8


def tell_others(event: str, handler: BaseCallbackHandler, error: Exception, start: Mapping[str, Any]) -> None:
    """Tell the handlers that heard a start event before this one that its run failed."""
    before = _before(handler, sys._getframe(1))  # noqa: SLF001 -- the documented way to see one's callers
    if before and event in _ENDS:
        try:
            handle_event(before, *_ENDS[event], error, **_identity(start))
        except Exception:
            # Border: the handler that raises is somebody else's, and the caller is to see why the run was blocked.
            logger.exception("another handler failed when told that run %s was blocked", start["run_id"])


async def atell_others(event: str, handler: BaseCallbackHandler, error: Exception, start: Mapping[str, Any]) -> None:
    """Do what `tell_others` does; async managers tell those first that run inline."""
    before = [other for other in _before(handler, sys._getframe(1)) if other.run_inline]  # noqa: SLF001 -- as above
    if before and event in _ENDS:
        try:
            await ahandle_event(before, *_ENDS[event], error, **_identity(start))
        except Exception:
            # Border: as above.
            logger.exception("another handler failed when told that run %s was blocked", start["run_id"])


def broke_off(error: BaseException) -> bool:
    """Whether a run was broken off by whoever consumes it, and did not fail.

    Errors of a provider are `Exception`s. A consumer leaves by GeneratorExit, CancelledError or Ctrl-C; and another
    handler, such as one that stops a stream at a word it does not like, does not undo what was delivered.
    """
    if not isinstance(error, Exception):
        return True
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == handle_event.__module__:
            return True
        trace = trace.tb_next
    return False


def _before(handler: BaseCallbackHandler, frame: FrameType | None) -> list[BaseCallbackHandler]:
    for _ in range(_FRAMES_BETWEEN):
        if frame is None:
            break
        manager = frame.f_locals.get("self")
        if isinstance(manager, BaseCallbackManager):
            position = next((n for n, other in enumerate(manager.handlers) if other is handler), 0)
            return manager.handlers[:position]
        frame = frame.f_back
    return []


def _identity(start: Mapping[str, Any]) -> dict[str, Any]:
    return {name: start.get(name) for name in ("run_id", "parent_run_id", "tags")}
