"""The client of one gate: settings, wire generation and transport behind the verbs."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.exchange import Endpoint, Flow, Sources, exchange
from langchain_vluna._core.types import Call, Transport
from langchain_vluna._core.wire import Reply, WireState
from langchain_vluna._io.client.drivers import adrive, drive
from langchain_vluna._io.client.turnstile import Turnstiles
from langchain_vluna._io.client.verbs import Verbs

if TYPE_CHECKING:
    from langchain_vluna._core.config import RetryPolicy, Settings, Wire

__all__ = ["Client", "system_sources"]

T = TypeVar("T")


def system_sources() -> Sources:
    """Return the real time and randomness."""
    return Sources(
        clock=lambda: datetime.now(UTC),  # noqa: TID251 -- the one default of the clock
        monotonic=time.monotonic,
        nonce=lambda: os.urandom(16).hex(),
        random=random.random,  # noqa: TID251 -- the one default of the jitter
    )


async def _asleep(seconds: float) -> None:
    import anyio

    await anyio.sleep(seconds)


class Client(Verbs):
    """Calls of one gate over one transport. Knows the wire, and nothing of runs or outboxes."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        *,
        wire: Wire | WireState = "auto",
        timeout: float = 10.0,
        retry: RetryPolicy | None = None,
        sources: Sources | None = None,
        sleep: Callable[[float], None] = time.sleep,  # noqa: TID251 -- the one default of the wait
        asleep: Callable[[float], Awaitable[None]] = _asleep,
    ) -> None:
        """`timeout` bounds a whole call in seconds, with all its attempts and waits."""
        from langchain_vluna._core.config import RetryPolicy

        if not 0 < timeout < math.inf:
            msg = f"timeout must be a positive number of seconds, got {timeout!r}"
            raise ConfigurationError(msg)
        self.state = wire if isinstance(wire, WireState) else WireState(wire)
        """What is known about the gate's generation; shared by all calls."""
        self._transport = transport
        self._endpoint = Endpoint.of(settings)
        self._timeout = timeout
        self._retry = RetryPolicy() if retry is None else retry
        self._sources = system_sources() if sources is None else sources
        self._sleep = sleep
        self._asleep = asleep
        self._turnstiles = Turnstiles()

    def __repr__(self) -> str:
        return f"Client(realm={self._endpoint.realm_id!r}, key={self._endpoint.key_id!r}, {self.state!r})"

    def exchange(self, call: Call, retry: RetryPolicy | None = None) -> Flow[Reply]:
        return exchange(
            call,
            endpoint=self._endpoint,
            state=self.state,
            sources=self._sources,
            policy=self._retry if retry is None else retry,
            timeout=self._timeout,
        )

    def perform(self, flow: Flow[T]) -> T:
        return drive(flow, self._transport, self._sleep)

    async def aperform(self, flow: Flow[T]) -> T:
        return await adrive(flow, self._transport, self._asleep, self._turnstiles.turn)
