"""One event method for both colours: a coroutine function to async managers, a plain one to sync managers.

An `AsyncCallbackHandler` fails open in every sync run, because its errors are logged and
swallowed there; a plain sync handler costs a thread hop per event in async runs. LangChain's
managers look the method up in a frame of their own, so that frame tells which is wanted.
Whoever cannot be told gets the plain function: closed, never open.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

from langchain_vluna._core.errors import VlunaError, blocking
from langchain_vluna._core.exchange import Flow

__all__ = ["TwoColoured", "never_raises"]

logger = logging.getLogger("langchain_vluna")


class TwoColoured:
    """Descriptor over an event written once as a flow: `flow(handler, loop, *args, **kwargs)`.

    `loop` is the event loop that drives the flow, `None` where it blocks its thread.
    """

    def __init__(self, flow: Callable[..., Flow[None]]) -> None:
        self.__doc__ = flow.__doc__
        name = flow.__name__

        def event(handler: Any, *args: Any, **kwargs: Any) -> None:
            try:
                handler.gate.perform(flow(handler, None, *args, **kwargs))
            except VlunaError as error:
                from langchain_vluna.callbacks.others import tell_others

                blocked = blocking(error)
                tell_others(name, handler, blocked, kwargs)
                raise blocked from error.__cause__

        async def async_event(handler: Any, *args: Any, **kwargs: Any) -> None:
            import asyncio

            try:
                await handler.gate.aperform(flow(handler, asyncio.get_running_loop(), *args, **kwargs))
            except VlunaError as error:
                from langchain_vluna.callbacks.others import atell_others

                blocked = blocking(error)
                await atell_others(name, handler, blocked, kwargs)
                raise blocked from error.__cause__

        self._event, self._async_event = event, async_event

    def __get__(self, handler: Any, owner: type | None = None) -> Any:
        if handler is None:
            return self._event
        caller = sys._getframe(1)  # noqa: SLF001 -- the documented way to see one's caller
        colour = self._async_event if caller.f_code.co_flags & inspect.CO_COROUTINE else self._event
        return MethodType(colour, handler)


def never_raises(flow: Callable[..., Flow[None]]) -> Callable[..., Flow[None]]:
    """Guard an end event, which takes no loop."""

    @wraps(flow)
    def guarded(handler: Any, _loop: object, *args: Any, **kwargs: Any) -> Flow[None]:
        try:
            yield from flow(handler, *args, **kwargs)
        except Exception:
            # Border: a failure to settle must not take away an answer that is paid for. The run stays open
            # in the outbox and is settled by the orphan rule.
            logger.exception("an end event could not be recorded")

    return guarded
