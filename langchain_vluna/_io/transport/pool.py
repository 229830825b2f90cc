"""The transport: connections to one gate, taken and put back.

Idle connections lie on a stack, one for all threads and one for each event loop; a call takes the one used last and
puts it back. A connection whose call did not end well is closed, never reused. There is no upper bound: whoever lets
a thousand runs ask at once wants a thousand answers at once.

Redirects are not followed and proxies of the environment are not used: a request is signed for one gate.
Certificates come from `SSL_CERT_FILE` or `SSL_CERT_DIR` where they are set, else from certifi.
"""

from __future__ import annotations

import asyncio
import collections
import os
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.transport.codec import ProtocolError, RequestError, codec_class
from langchain_vluna._io.transport.connections import BlockingConnection, LoopConnection, Route

__all__ = ["HttpTransport"]

_KEEPALIVE = 60.0
"""Seconds; below the 72 after which a gate closes an idle connection, so that no request runs into it."""
_CONNECT_SHARE = 0.9
"""Of an attempt's time: a host that does not answer must show as such before the attempt is over; then nothing
was sent."""
_FOREIGN = (OSError, ProtocolError)

C = TypeVar("C", BlockingConnection, LoopConnection)


class HttpTransport:
    """Reaches a gate over HTTP. Safe to share between threads and event loops, and across fork.

    A loop that `asyncio.run` ends closes its connections by itself.
    """

    def __init__(
        self,
        base_url: str,
        *,
        proxy: str | None = None,
        verify: ssl.SSLContext | None = None,
        fast: bool | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            base_url: Its scheme and host are where requests go; their path comes with each.
            proxy: URL of an HTTP proxy.
            verify: For certificates that the default context does not accept.
            fast: Whether httptools reads the answers; by default when it is installed.
        """
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._proxy = proxy
        self._verify = verify
        self._codec = codec_class(fast=fast)
        self._prepared: Route | None = None
        self._parents: list[object] = []
        self._start()

    def __repr__(self) -> str:
        return f"HttpTransport({self._origin!r})"

    def _start(self) -> None:
        self._process = os.getpid()
        self._blocking: _Stack[BlockingConnection] = _Stack()
        self._loops: dict[asyncio.AbstractEventLoop, _Stack[LoopConnection]] = {}

    def _after_fork(self) -> None:
        # Kept, not dropped: to close or collect them would speak on connections of the parent.
        self._parents.append((self._blocking, self._loops))
        self._start()

    def send(self, request: HttpRequest) -> HttpResponse:
        if self._process != os.getpid():
            self._after_fork()
        stack, now = self._blocking, time.monotonic()
        try:
            route = self._prepared or self._prepare()
            while (connection := stack.take()) is not None and not connection.alive:
                connection.close()
            if connection is None:
                connection = BlockingConnection.open(route, self._codec(), now + request.timeout * _CONNECT_SHARE)
        except _FOREIGN as error:
            raise _failure(error, sent=False) from error
        try:
            answer = connection.exchange(route.onward(request), now + request.timeout)
        except _FOREIGN as error:
            connection.close()
            raise _failure(error, sent=not isinstance(error, RequestError)) from error
        except BaseException:
            connection.close()
            raise
        for spare in stack.give(connection) if connection.codec.reusable else (connection,):
            spare.close()
        return answer

    async def asend(self, request: HttpRequest) -> HttpResponse:
        if self._process != os.getpid():
            self._after_fork()
        stack = self._loops.get(asyncio.get_running_loop()) or await self._enter_loop()
        now = time.monotonic()
        try:
            route = self._prepared or await self._aprepare()
            while (connection := stack.take()) is not None and not connection.alive:
                await _close(connection)
            if connection is None:
                connection = await LoopConnection.open(route, self._codec(), now + request.timeout * _CONNECT_SHARE)
        except _FOREIGN as error:
            raise _failure(error, sent=False) from error
        try:
            answer = await connection.exchange(route.onward(request), now + request.timeout)
        except _FOREIGN as error:
            await _close(connection)
            raise _failure(error, sent=not isinstance(error, RequestError)) from error
        except BaseException:
            await _close(connection)
            raise
        for spare in stack.give(connection) if connection.codec.reusable else (connection,):
            await _close(spare)
        return answer

    def close(self) -> None:
        stack, self._blocking = self._blocking, _Stack()
        for connection in stack.close():
            connection.close()

    async def aclose(self) -> None:
        stack = self._loops.get(asyncio.get_running_loop())
        if stack is not None and stack.guard is not None:
            await stack.guard.aclose()

    async def _enter_loop(self) -> _Stack[LoopConnection]:
        loop = asyncio.get_running_loop()
        for ended in [known for known in list(self._loops) if known.is_closed()]:
            self._loops.pop(ended, None)
        stack = self._loops[loop] = _Stack()
        stack.guard = self._until_closed(loop, stack)
        await anext(stack.guard)
        return stack

    async def _until_closed(
        self, loop: asyncio.AbstractEventLoop, stack: _Stack[LoopConnection]
    ) -> AsyncGenerator[None, None]:
        """Wait; a generator that still waits when its loop is shut down is closed by the loop, inside the loop."""
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            for connection in stack.close():
                await _close(connection)

    def _prepare(self) -> Route:
        # Without TLS there is nothing to verify, and certificates take 20 ms to load.
        tls = (self._verify or _default_context()) if self._origin.startswith("https:") else None
        self._prepared = Route.to(self._origin, proxy=self._proxy, tls=tls)
        return self._prepared

    async def _aprepare(self) -> Route:
        if not self._origin.startswith("https:"):
            return self._prepare()
        import anyio.to_thread

        # Certificates are read from disk.
        return await anyio.to_thread.run_sync(self._prepare)


def _default_context() -> ssl.SSLContext:
    import certifi

    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return ssl.create_default_context(cafile=file, capath=folder)
    return ssl.create_default_context(cafile=certifi.where())


def _failure(error: Exception, *, sent: bool) -> TransportFailure:
    return TransportFailure(f"{type(error).__name__} {error}".rstrip(), sent=sent)


async def _close(connection: LoopConnection) -> None:
    import anyio

    with anyio.CancelScope(shield=True):
        await connection.close()


class _Stack(Generic[C]):
    """Idle connections, the one used last on top. Safe between threads: each operation is one of the deque's."""

    def __init__(self) -> None:
        self._idle: collections.deque[tuple[float, C]] = collections.deque()
        self._closed = False
        self.guard: AsyncGenerator[None, None] | None = None

    def take(self) -> C | None:
        try:
            return self._idle.pop()[1]
        except IndexError:
            return None

    def give(self, connection: C) -> list[C]:
        """Put one back; returns those to close: one that was not needed for long, or all at the end."""
        now = time.monotonic()
        self._idle.append((now, connection))
        if self._closed:
            return self.close()
        try:
            oldest = self._idle.popleft()
        except IndexError:
            return []
        if now - oldest[0] > _KEEPALIVE:
            return [oldest[1]]
        self._idle.appendleft(oldest)
        return []

    def close(self) -> list[C]:
        """Return what is idle, and from now on whatever is put back."""
        self._closed = True
        idle = []
        while (connection := self.take()) is not None:
            idle.append(connection)
        return idle
