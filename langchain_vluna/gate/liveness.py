"""Whether the code that started a run is still at it, when no event says so.

LangChain fires no end event for a cancelled `ainvoke`, for a run after which another
handler raised, or for the first of two prompts whose second was denied. But the
function that runs the model is on its thread's stack, or on its task's chain of
awaits, exactly as long as the run lasts. Only its identity is kept, never the frame,
which would keep the prompt alive. A generator's frame comes and goes, in as many tasks
and threads as its consumer likes (LangChain's own chains read each chunk in a new task),
so neither its absence nor the end of its first task says anything. A stream is over when
its callback manager, a local of the generator that nobody else holds, is gone.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from langchain_core.callbacks.base import BaseCallbackManager

__all__ = ["Caller", "Stacks", "find_caller"]

_MANAGERS = "langchain_core.callbacks"
_SKIPPED = (_MANAGERS, "langchain_vluna")
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a run was started: thread, task, and the function that carries it out."""

    thread_id: int
    task: weakref.ref[asyncio.Task[Any]] | None
    frame_id: int = 0
    code: CodeType | None = None
    comes_and_goes: bool = False
    """Whether it is a generator or a green thread, whose absence from all stacks says nothing."""
    holds: weakref.ref[BaseCallbackManager] | None = None
    """What a generator holds until it is over; `None` where that is not known."""
    managed: bool = False
    """Whether LangChain told of the start, and not somebody by hand."""

    @property
    def is_held(self) -> bool:
        """Whether somebody still holds the generator, and so may read on or close it, which is told."""
        return self.holds is not None and self.holds() is not None

    def same_place(self, other: Caller) -> bool:
        """Whether both were started by the same thread and task."""
        mine = self.task() if self.task else None
        theirs = other.task() if other.task else None
        return self.thread_id == other.thread_id and mine is theirs


def find_caller() -> Caller:
    """Describe who is starting a run: the first function outside callbacks and this package."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 -- the documented way to see one's callers
    task = _current_task()
    begin = getattr(task.get_coro(), "cr_frame", None) if task else None
    managed = False
    while frame is not None and (module := frame.f_globals.get("__name__", "")).startswith(_SKIPPED):
        managed = managed or module.startswith(_MANAGERS)
        if frame is begin:
            # A plain LLM's starts are told in tasks of their own, which end before the work begins.
            return Caller(threading.get_ident(), None, managed=managed)
        frame = frame.f_back
    where = threading.get_ident(), weakref.ref(task) if task else None
    if frame is None:
        return Caller(*where, managed=managed)
    code, generator = frame.f_code, bool(frame.f_code.co_flags & _GENERATOR)
    held = _held(frame) if generator else None
    unseen = generator or (task is None and _has_green_threads())
    return Caller(*where, id(frame), code, comes_and_goes=unseen, holds=held, managed=managed)


def _has_green_threads() -> bool:
    # A green thread that waits is on no thread's stack.
    return "gevent" in sys.modules or "eventlet" in sys.modules


def _held(generator: FrameType) -> weakref.ref[BaseCallbackManager] | None:
    managers = (value for value in generator.f_locals.values() if isinstance(value, BaseCallbackManager))
    return next((weakref.ref(manager) for manager in managers), None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


class Stacks:
    """One look at all threads and, as needed, at tasks. One look can be mistaken: a task may move while it is seen."""

    def __init__(self) -> None:
        self._threads = sys._current_frames()  # noqa: SLF001 -- the documented way to see other threads
        self._on_thread: dict[int, set[tuple[int, CodeType]]] = {}

    def running(self, caller: Caller) -> bool:
        """Whether the caller may still be at work; `True` where that cannot be told."""
        if caller.comes_and_goes:
            return caller.holds is None or caller.is_held
        task = caller.task() if caller.task else None
        if caller.task is not None and (task is None or task.done()):
            return False
        if caller.task is None and caller.thread_id not in self._threads:
            return False
        if caller.code is None:
            return True
        # What a task executes at this moment is on its thread's stack; what it awaits is on its chain of awaits.
        return self._is_on_stack(caller) or (task is not None and _awaits(task, caller) is not False)

    def sees(self, caller: Caller) -> bool:
        """Whether the caller is certainly at work."""
        task = caller.task() if caller.task else None
        return self._is_on_stack(caller) or (task is not None and not task.done() and _awaits(task, caller) is True)

    def _is_on_stack(self, caller: Caller) -> bool:
        threads = self._threads if caller.comes_and_goes else (caller.thread_id,)
        return any((caller.frame_id, caller.code) in self._stack(thread) for thread in threads)

    def _stack(self, thread_id: int) -> set[tuple[int, CodeType]]:
        known = self._on_thread.get(thread_id)
        if known is None:
            known = {(id(frame), frame.f_code) for frame in _callers(self._threads.get(thread_id))}
            self._on_thread[thread_id] = known
        return known


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaits(task: asyncio.Task[Any], caller: Caller) -> bool | None:
    """Whether the task waits inside the caller's function; `None` where the chain of awaits cannot be followed."""
    link: Any = task.get_coro()
    while link is not None:
        if inspect.iscoroutine(link):
            frame, awaited = link.cr_frame, link.cr_await
        elif inspect.isgenerator(link):
            frame, awaited = link.gi_frame, link.gi_yieldfrom
        elif asyncio.isfuture(link) or type(link).__name__ == "FutureIter":
            return False
        else:
            # What awaits inside an async generator's step cannot be seen from outside.
            return None
        if frame is not None and id(frame) == caller.frame_id and frame.f_code is caller.code:
            return True
        link = awaited
    return False
