"""One connection to a gate, in either colour: open it, carry one request at a time over it, close it.

Whatever goes wrong leaves as `OSError` or `ProtocolError`, and leaves the connection to be closed.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Self, cast
from urllib.parse import SplitResult, unquote, urlsplit

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.transport.codec import Codec, ProtocolError, codec_class

__all__ = ["BlockingConnection", "LoopConnection", "Route"]

_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": f"langchain-vluna/{metadata.version('langchain-vluna')}",
}
_PORTS = {"http": 80, "https": 443}
_ROOM = 16 * 1024
"""Bytes read at once. Room beyond 128 KiB is mapped anew each time, for more than all the rest of a call."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a gate: straight, or through a proxy."""

    host: str
    port: int
    authority: str
    """Host and port as the Host header has them."""
    tls: ssl.SSLContext | None
    address: tuple[str, int]
    """Who is connected to: the gate or the proxy."""
    tunnel: Mapping[str, str] | None = field(repr=False)
    """Headers of the CONNECT that opens a tunnel; `None` where there is none to open."""
    prefix: str = ""
    """What a proxy that forwards wants before the path."""
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What such a proxy wants beside the headers."""

    @classmethod
    def to(cls, url: str, *, proxy: str | None, tls: ssl.SSLContext | None) -> Self:
        """Find the way to the gate at `url`; only its scheme, host and port matter."""
        parts = urlsplit(url)
        host, port = _host(parts), parts.port or _PORTS[parts.scheme]
        authority = parts.netloc.rpartition("@")[2]
        if proxy is None:
            return cls(host, port, authority, tls, (host, port), None)
        relay = urlsplit(proxy)
        headers = {"host": f"{host}:{port}", **_proxy_authorization(relay)}
        address = (_host(relay), relay.port or _PORTS[relay.scheme])
        if tls is not None:
            return cls(host, port, authority, tls, address, headers)
        extra = _proxy_authorization(relay)
        return cls(host, port, authority, None, address, None, f"{parts.scheme}://{authority}", extra)

    def onward(self, request: HttpRequest) -> HttpRequest:
        """Return a request as it goes this way."""
        headers = {"host": self.authority, **_HEADERS, **request.headers, **self.extra}
        return HttpRequest(request.method, self.prefix + request.target, headers, request.content, request.timeout)

    def connect(self) -> HttpRequest:
        """Return the request that opens the tunnel."""
        return HttpRequest("CONNECT", f"{self.host}:{self.port}", self.tunnel or {}, b"", 0.0)


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return host if host.isascii() else host.encode("idna").decode()


def _proxy_authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"proxy-authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def _tunnelled(answer: HttpResponse) -> None:
    if not 200 <= answer.status < 300:  # noqa: PLR2004
        msg = f"the proxy refuses a tunnel with status {answer.status}"
        raise ConnectionError(msg)


class BlockingConnection:
    """A connection that blocks its thread."""

    def __init__(self, stream: socket.socket, codec: Codec) -> None:
        self._socket = stream
        self.codec = codec

    @classmethod
    def open(cls, route: Route, codec: Codec, deadline: float) -> Self:
        stream = socket.create_connection(route.address, timeout=_left(deadline))
        connection = cls(stream, codec)
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if route.tunnel is not None:
                _tunnelled(cls(stream, codec_class(fast=False)()).exchange(route.connect(), deadline))
            if route.tls is not None:
                stream.settimeout(_left(deadline))
                connection._socket = route.tls.wrap_socket(stream, server_hostname=route.host)
        except BaseException:
            connection.close()
            raise
        return connection

    def exchange(self, request: HttpRequest, deadline: float) -> HttpResponse:
        """Send a request and read its answer."""
        content = self.codec.request(request)
        stream = self._socket
        stream.settimeout(_left(deadline))
        stream.sendall(content)
        while True:
            stream.settimeout(_left(deadline))
            answer = self.codec.receive(stream.recv(_ROOM))
            if answer is not None:
                return answer

    @property
    def alive(self) -> bool:
        """Whether it can carry a request: an idle connection that has something to say was closed, or worse."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self._socket.close()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


class LoopConnection(asyncio.BufferedProtocol):
    """A connection of one event loop."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._room = bytearray()

    @classmethod
    async def open(cls, route: Route, codec: Codec, deadline: float) -> Self:
        direct = route.tls if route.tunnel is None else None
        async with asyncio.timeout(_left(deadline)):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: cls(codec), *route.address, ssl=direct, server_hostname=route.host if direct else None
            )
            if route.tunnel is not None:
                await connection._enter_tunnel(route, deadline)  # noqa: SLF001 -- its own
        return connection

    async def _enter_tunnel(self, route: Route, deadline: float) -> None:
        inside, self.codec = self.codec, codec_class(fast=False)()
        try:
            _tunnelled(await self.exchange(route.connect(), deadline))
            if route.tls is not None:
                secured = await self._loop.start_tls(self._transport, self, route.tls, server_hostname=route.host)
                self._transport = cast("asyncio.Transport", secured)
        except BaseException:
            self._transport.abort()
            raise
        self.codec = inside

    async def exchange(self, request: HttpRequest, deadline: float) -> HttpResponse:
        """Send a request and read its answer."""
        content = self.codec.request(request)
        self._answer = self._loop.create_future()
        timer = self._loop.call_later(_left(deadline), self._fail, TimeoutError("the answer takes too long"))
        try:
            self._transport.write(content)
            return await self._answer
        finally:
            timer.cancel()
            self._answer = None

    @property
    def alive(self) -> bool:
        """Whether it can carry a request."""
        return not (self._lost.done() or self._transport.is_closing())

    async def close(self) -> None:
        self._transport.abort()
        await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 -- asyncio's signature
        self._room = bytearray(_ROOM)
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None or self._answer.done():
            # Nobody asked for anything: a goodbye of the other side, or worse.
            self._transport.abort()
        else:
            self._receive(bytes(self._room[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)
        if exc is not None:
            self._fail(exc)
        else:
            self._receive(b"")

    def _receive(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        try:
            answer = self.codec.receive(data)
        except ProtocolError as error:
            self._fail(error)
        else:
            if answer is not None:
                self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
