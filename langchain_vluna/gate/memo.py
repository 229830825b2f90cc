"""Denials answered from memory, and first questions asked once.

`with_retry` and `with_fallbacks` repeat what was denied, and parallel branches are
denied together. For a short while a denial is repeated without asking the gate, and
while the first question of a customer and feature, or the first after a denial, is
on its way, others wait for its answer.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from langchain_vluna._core.errors import GateDenied
from langchain_vluna._core.exchange import Flow, Join
from langchain_vluna._core.types import Identity
from langchain_vluna._io import forks

__all__ = ["DenyMemo", "Question"]

_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """What a denial is remembered for."""

    identity: Identity
    feature_code: str
    budget: str | None


@dataclass(slots=True)
class _Known:
    admitted: bool = False
    denial: GateDenied | None = None
    until: float = 0.0
    revision: int = 0
    flight: Future[None] | None = None
    asker: asyncio.AbstractEventLoop | None = None


class DenyMemo:
    """Remembers the last answer per question, bounded in number and, for denials, in time."""

    def __init__(self, seconds: float, clock: Callable[[], float], revision: Callable[[], int]) -> None:
        """`revision` grows with every change of a local gate, so that a top-up is seen at once."""
        self._seconds = seconds
        self._clock = clock
        self._revision = revision
        self._begin()
        forks.track(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Question, _Known] = OrderedDict()

    def before_fork(self) -> None:
        """Nothing has to be let go of."""

    def after_fork(self, *, in_child: bool) -> None:
        """Questions that are on their way in the parent are never answered in a child."""
        if in_child:
            self._begin()

    def may_ask(self, question: Question, loop: asyncio.AbstractEventLoop | None) -> Flow[Future[None] | None]:
        """Return leave to ask, as a flight to be landed where others wait for the answer.

        `loop` is the caller's event loop, `None` for a caller that blocks its thread.

        Raises:
            GateDenied: Remembered from a moment ago.
        """
        if self._seconds <= 0:
            return None
        while True:
            with self._lock:
                known = self._known.get(question) or self._remember(question)
                if known.denial is not None and self._fresh(known):
                    raise copy.copy(known.denial)
                if known.admitted:
                    return None
                if known.flight is None:
                    known.flight, known.asker = Future(), loop
                    return known.flight
                # Waiting for a task of another loop could wait for a thread that waits for this one.
                if known.asker is not None and known.asker is not loop:
                    return None
                flight = known.flight
            yield Join(flight)

    def land(self, question: Question, flight: Future[None] | None, denial: GateDenied | None) -> None:
        """Note an answer: a denial is kept for its time, anything else clears it."""
        if self._seconds <= 0:
            return
        with self._lock:
            known = self._known.get(question) or self._remember(question)
            # A copy: the traceback of the one that is raised would keep its frames, and with them the prompt.
            known.denial, known.admitted = copy.copy(denial), denial is None
            if denial is not None:
                known.until = self._clock() + (denial.retry_after or self._seconds)
                known.revision = self._revision()
            if flight is not None and known.flight is flight:
                known.flight = known.asker = None
        if flight is not None and not flight.done():
            flight.set_result(None)

    def _fresh(self, known: _Known) -> bool:
        return self._clock() < known.until and known.revision == self._revision()

    def _remember(self, question: Question) -> _Known:
        known = self._known[question] = _Known()
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known
