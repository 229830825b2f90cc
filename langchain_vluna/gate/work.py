"""Gating any work of the user's own: `with gate.run(...) as run`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from langchain_vluna._core import wire
from langchain_vluna._core.errors import ConfigurationError, VlunaError, blocking
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.wire import rules
from langchain_vluna.gate.engine import Engine
from langchain_vluna.gate.spec import OpenRun, RunSpec, UsageBody

__all__ = ["Work"]

logger = logging.getLogger("langchain_vluna")


class Work:
    """A gated run around a block of code: admitted on entry, charged on exit, cancelled on error. For one entry.

    Work that records nothing is cancelled, with a warning: nothing unknown is
    charged as zero, or at all.
    """

    def __init__(self, spec: RunSpec, engine: Engine) -> None:
        rules.labels(spec.labels)  # now, for they are sent when the work is done
        self.spec = spec
        self._engine = engine
        self._open: OpenRun | None = None
        self._entered = threading.Lock()
        self._quantity = 0
        self._meters: Counter[str] = Counter()
        self._source = "reported"

    def record(self, quantity: int, meters: Mapping[str, int] | None = None, *, estimated: bool = False) -> None:
        """Add usage: a quantity in the feature's unit, and how it splits over meters.

        Raises:
            ConfigurationError: A quantity is no positive integer; what was recorded before stays.
        """
        wire.commit_body(feature_code=self.spec.feature_code, quantity=quantity, meters=meters)
        if self._quantity and bool(meters) != bool(self._meters):
            msg = "record either always with meters or never: one commit cannot mix both"
            raise ConfigurationError(msg)
        self._quantity += quantity
        self._meters.update(meters or {})
        if estimated:
            self._source = "estimated"

    def __enter__(self) -> Self:
        with self._entering():
            self._open = self._engine.client.perform(self._begin(None))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._engine.client.perform(self._end(kind))

    async def __aenter__(self) -> Self:
        with self._entering():
            self._open = await self._engine.client.aperform(self._begin(asyncio.get_running_loop()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        import anyio

        with anyio.CancelScope(shield=True):
            await self._engine.client.aperform(self._end(kind))

    @contextmanager
    def _entering(self) -> Iterator[None]:
        """Let one in, and nobody after: what a second entry recorded would add to what the first was charged."""
        if not self._entered.acquire(blocking=False):
            msg = f"this run of {self.spec.feature_code!r} was entered before; make one with gate.run() for each block"
            raise ConfigurationError(msg)
        try:
            yield
        except BaseException as error:
            self._entered.release()
            if isinstance(error, VlunaError):
                raise blocking(error) from error.__cause__
            raise

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> Flow[OpenRun | None]:
        return self._engine.start(self.spec, meter=self, loop=loop)

    def _end(self, failure: type[BaseException] | None) -> Flow[None]:
        if self._open is None:
            return
        used = None if failure else self.partial()
        if used is not None:
            yield from self._engine.book.used(self._open, used)
            return
        if failure is None:
            logger.warning("work on feature %r recorded no usage and is not charged", self.spec.feature_code)
        yield from self._engine.book.failed(self._open, failure.__name__ if failure else "no usage recorded")

    def partial(self) -> UsageBody | None:
        """What was recorded so far."""
        if not self._quantity:
            return None
        body = wire.commit_body(
            feature_code=self.spec.feature_code,
            quantity=self._quantity,
            meters=self._meters or None,
            labels={**self.spec.labels, "usage_source": self._source},
        )
        return UsageBody(body, self._source)
