"""The only module that knows httpx: one signed request out, one answer back, in both colours.

A *lane* is an httpx transport that holds one connection. Idle lanes lie on a stack, one for all threads and
one for each event loop; a call takes the lane used last and puts it back. httpx's own pool walks over all
its connections and waiting requests for each request, which at 100 concurrent calls is most of the work;
here it never sees more than one of either. A lane whose call did not end well is closed, never reused.

Redirects are not followed and proxies of the environment are not used: a request is signed for one gate.
Certificates come from `SSL_CERT_FILE` or `SSL_CERT_DIR` where they are set, as everywhere with httpx.
With httpx-aiohttp installed (extra `fast`), the lanes of event loops are aiohttp's, which cost a third.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.util
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpTransport"]

_KEEPALIVE = 60.0
"""Seconds; below the 72 after which a gate closes an idle connection, so that no request runs into it."""

L = TypeVar("L")


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
        """Nothing is imported or opened yet.

        Args:
            base_url: Its scheme and host are where requests go; their path comes with each.
            proxy: URL of an HTTP proxy.
            verify: For certificates that the default context does not accept.
            fast: Whether event loops use aiohttp; by default when httpx-aiohttp is installed.
        """
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._proxy = proxy
        self._verify = verify
        self._fast = importlib.util.find_spec("httpx_aiohttp") is not None if fast is None else fast
        self._tools: _Tools | None = None
        self._parents: list[object] = []
        self._start()

    def __repr__(self) -> str:
        return f"HttpTransport({self._origin!r})"

    def _start(self) -> None:
        self._process = os.getpid()
        self._blocking: _Stack[httpx.BaseTransport] = _Stack()
        self._loops: dict[asyncio.AbstractEventLoop, _Stack[httpx.AsyncBaseTransport]] = {}

    def _after_fork(self) -> None:
        # Kept, not dropped: to close or collect them would speak on connections of the parent.
        self._parents.append((self._blocking, self._loops))
        self._start()

    def send(self, request: HttpRequest) -> HttpResponse:
        if self._process != os.getpid():
            self._after_fork()
        tools = self._tools or self._prepare()
        stack = self._blocking
        lane = stack.take() or tools.blocking.open()
        try:
            with contextlib.closing(lane.handle_request(tools.request(request))) as response:
                answer = HttpResponse(response.status_code, dict(response.headers), response.read())
        except tools.foreign as error:
            lane.close()
            raise tools.blocking.failure(error) from error
        except BaseException:
            lane.close()
            raise
        for spare in stack.give(lane):
            spare.close()
        return answer

    async def asend(self, request: HttpRequest) -> HttpResponse:
        if self._process != os.getpid():
            self._after_fork()
        tools = self._tools or await self._aprepare()
        stack = self._loops.get(asyncio.get_running_loop()) or await self._enter_loop()
        lane = stack.take() or tools.nonblocking.open()
        try:
            async with asyncio.timeout(request.timeout):
                response = await lane.handle_async_request(tools.request(request))
                async with contextlib.aclosing(response):
                    answer = HttpResponse(response.status_code, dict(response.headers), await response.aread())
        except tools.foreign as error:
            await _close(lane)
            raise tools.nonblocking.failure(error) from error
        except asyncio.CancelledError:
            await _close(lane)
            raise
        for spare in stack.give(lane):
            await _close(spare)
        return answer

    def close(self) -> None:
        stack, self._blocking = self._blocking, _Stack()
        for lane in stack.close():
            lane.close()

    async def aclose(self) -> None:
        stack = self._loops.get(asyncio.get_running_loop())
        if stack is not None and stack.guard is not None:
            await stack.guard.aclose()

    async def _enter_loop(self) -> _Stack[httpx.AsyncBaseTransport]:
        loop = asyncio.get_running_loop()
        for ended in [known for known in list(self._loops) if known.is_closed()]:
            self._loops.pop(ended, None)
        stack = self._loops[loop] = _Stack()
        stack.guard = self._until_closed(loop, stack)
        await anext(stack.guard)
        return stack

    async def _until_closed(
        self, loop: asyncio.AbstractEventLoop, stack: _Stack[httpx.AsyncBaseTransport]
    ) -> AsyncGenerator[None, None]:
        """Wait; a generator that still waits when its loop is shut down is closed by the loop, inside the loop."""
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            for lane in stack.close():
                await _close(lane)

    def _prepare(self) -> _Tools:
        self._tools = _Tools.load(self._origin, self._proxy, self._verify, fast=self._fast)
        return self._tools

    async def _aprepare(self) -> _Tools:
        import anyio.to_thread

        # Imports and certificates are read from disk.
        return await anyio.to_thread.run_sync(self._prepare)


async def _close(lane: httpx.AsyncBaseTransport) -> None:
    import anyio

    with anyio.CancelScope(shield=True):
        await lane.aclose()


class _Stack(Generic[L]):
    """Idle lanes, the one used last on top. Safe between threads: each operation is one of the deque's."""

    def __init__(self) -> None:
        self._idle: collections.deque[tuple[float, L]] = collections.deque()
        self._closed = False
        self.guard: AsyncGenerator[None, None] | None = None

    def take(self) -> L | None:
        try:
            return self._idle.pop()[1]
        except IndexError:
            return None

    def give(self, lane: L) -> list[L]:
        """Put a lane back; returns the lanes to close: one that was not needed for long, or all at the end."""
        now = time.monotonic()
        self._idle.append((now, lane))
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

    def close(self) -> list[L]:
        """Return what is idle, and from now on whatever is put back."""
        self._closed = True
        idle = []
        while (lane := self.take()) is not None:
            idle.append(lane)
        return idle


class _Left:
    """The seconds left of an attempt, in place of a mapping of timeouts: each phase asks when it begins."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def get(self, phase: str, _default: object = None) -> float:
        left = max(self._deadline - time.monotonic(), 0.001)
        # A host that does not answer must show as such before the whole attempt times out: then nothing was sent.
        return 0.9 * left if phase == "connect" else left


@dataclass(frozen=True, slots=True)
class _Kind(Generic[L]):
    """How lanes of one colour are opened, and which of their errors mean that nothing was sent."""

    open: Callable[[], L]
    unsent: tuple[type[Exception], ...]

    def failure(self, error: Exception) -> TransportFailure:
        sent = not isinstance(error, self.unsent) and not isinstance(error.__cause__, self.unsent)
        return TransportFailure(f"{type(error).__name__} {error}".rstrip(), sent=sent)


@dataclass(frozen=True, slots=True)
class _Tools:
    """What is made once, when httpx is imported."""

    blocking: _Kind[httpx.BaseTransport]
    nonblocking: _Kind[httpx.AsyncBaseTransport]
    foreign: tuple[type[Exception], ...]
    origin: str
    headers: Mapping[str, str]
    urls: dict[str, httpx.URL] = field(default_factory=dict)

    @classmethod
    def load(cls, origin: str, proxy: str | None, verify: ssl.SSLContext | None, *, fast: bool) -> _Tools:
        import httpx

        settings: dict[str, Any] = {
            # Without TLS there is nothing to verify, and certificates take 20 ms to load.
            "verify": verify or (httpx.create_ssl_context() if origin.startswith("https:") else False),
            "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE),
            "proxy": httpx.Proxy(proxy) if proxy else None,
        }
        unsent = (httpx.ConnectError, httpx.ConnectTimeout)
        return cls(
            blocking=_Kind(lambda: httpx.HTTPTransport(**settings), unsent),
            nonblocking=_aiohttp(settings) if fast else _Kind(lambda: httpx.AsyncHTTPTransport(**settings), unsent),
            # httpx-aiohttp lets some of aiohttp's own through, such as that of a bad status line.
            foreign=(httpx.HTTPError, OSError, *((importlib.import_module("aiohttp").ClientError,) if fast else ())),
            origin=origin,
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": f"langchain-vluna/{metadata.version('langchain-vluna')}",
            },
        )

    def request(self, request: HttpRequest) -> httpx.Request:
        import httpx

        url = self.urls.get(request.target)
        if url is None:
            url = httpx.URL(self.origin + request.target)
            if "?" not in request.target:
                self.urls[request.target] = url
        return httpx.Request(
            request.method,
            url,
            headers={**self.headers, **request.headers},
            content=request.content,
            extensions={"timeout": _Left(request.timeout)},
        )


def _aiohttp(settings: dict[str, Any]) -> _Kind[httpx.AsyncBaseTransport]:
    import aiohttp  # noqa: TID251 -- for what httpx-aiohttp does not pass on, and for its errors
    import httpx_aiohttp

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=_KEEPALIVE, ssl=settings["verify"] or True)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return _Kind(
        lambda: httpx_aiohttp.AiohttpTransport(client=session, **settings),
        # httpx-aiohttp calls every lost connection a connect timeout, although a request may have gone over it.
        (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError),
    )
