"""A proxy on a loopback port that does to HTTP what networks, gateways and dying servers do to it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

__all__ = ["KINDS", "Plan", "Proxy"]

KINDS: Final[Mapping[str, int]] = {
    # The request never arrives.
    "reset before": 6,
    "closed before": 3,
    "500 before": 5,
    "502 before": 5,
    "429 before": 5,
    "nonsense before": 3,
    # It arrives, and the answer is lost or replaced.
    "reset after": 8,
    "500 after": 4,
    "502 after": 4,
    "429 after": 4,
    "garbage after": 4,
    "half a head": 3,
    "half a body": 5,
    # It arrives at another time, or more than once.
    "delay": 8,
    "late": 1,
    "twice at once": 6,
    "again later": 6,
}
"""What can go wrong with a request, and how often each does, in parts of all faults."""

_CANNED: Final[Mapping[str, tuple[str, str, bytes]]] = {
    "500": ("500 Internal Server Error", "application/json", b'{"statusCode":500,"message":"Internal server error"}'),
    "502": ("502 Bad Gateway", "text/html", b"<html><body>bad gateway</body></html>"),
    "429": ("429 Too Many Requests", "application/json", b'{"code":"LIMIT.RATE_EXCEEDED","message":"slow down"}'),
}
_NONSENSE: Final = b"\x00\x16\x03SSH-2.0-not_http\r\n\r\n"
_GARBAGE: Final = (b"", b"{", b"null", b"[1,2]", b"<html>welcome</html>", b"\xff\xfe\x00", b'{"items": "many"}')
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_IDLE: Final = 2.0
"""Seconds; below the 5 after which the server closes an idle connection."""

_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Plan:
    """Which fault hits request number 1, 2, 3...: the same for the same seed."""

    seed: int
    rate: float = 0.3
    """Share of requests that are hit."""
    kinds: Mapping[str, int] = field(default_factory=lambda: KINDS)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self._names, self._weights = list(self.kinds), list(self.kinds.values())

    def draw(self) -> str | None:
        """Return the fault of the next request."""
        if self.random.random() >= self.rate:
            return None
        return self.random.choices(self._names, self._weights)[0]


class Proxy:
    """Between a client and the gate at `upstream`, while it is entered; `url` is what the client calls."""

    def __init__(self, upstream: str, plan: Plan, *, patience: float) -> None:
        """`patience` are the seconds after which every client has given up."""
        parts = urlsplit(upstream)
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        self._plan: Plan | None = plan
        self._random = Random(plan.seed + 1)
        self._patience = patience
        self._idle: deque[tuple[float, _Link]] = deque()
        self._later: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.injected: Counter[str] = Counter()
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}{self._path}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)
        self._thread.start()
        self._server = self._within(asyncio.start_server(self._serve, sock=self._listener))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._within(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def calm(self) -> None:
        """No more faults; returns when what was held back has been sent."""
        self._plan = None
        self._within(self._settle())

    def _within(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _settle(self) -> None:
        while self._later:
            await asyncio.wait(self._later)

    async def _stop(self) -> None:
        self._server.close()
        await self._settle()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        while self._idle:
            self._idle.pop()[1][1].close()
        # Transports close in the loop's next rounds.
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (request := await _message(reader)) and await self._handle(request, writer):
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()

    async def _handle(self, request: bytes, client: asyncio.StreamWriter) -> bool:
        """Treat one request as planned; returns whether the connection is of further use."""
        self.requests += 1
        fault = self._plan.draw() if self._plan is not None else None
        if fault == "429 after" and b"/gate/authorize " in request[: request.index(b"\r\n")]:
            # By contract a 429 has granted nothing, and a client need not look for a lease.
            fault = "429 before"
        if fault is not None:
            self.injected[fault] += 1
        match fault:
            case None | "delay":
                await self._pause(0.05 if fault else 0.0)
                client.write(await self._forward(request))
                return True
            case "again later":
                client.write(await self._forward(request))
                self._send_later(request, self._random.uniform(0.0, 0.3))
                return True
            case "twice at once":
                answers = await asyncio.gather(self._forward(request), self._forward(request))
                client.write(self._random.choice(answers))
                return True
            case "late":
                self._send_later(request, self._patience)
                await self._pause(self._patience, exact=True)
                return False
            case _:
                return await self._spoil(fault, request, client)

    async def _spoil(self, fault: str, request: bytes, client: asyncio.StreamWriter) -> bool:
        if fault == "closed before":
            return False
        if fault == "nonsense before":
            client.write(_NONSENSE)
            return False
        what, _, when = fault.partition(" ")
        answer = await self._forward(request) if when != "before" else b""
        if what in _CANNED:
            client.write(_response(*_CANNED[what]))
            return True
        if fault == "garbage after":
            client.write(_response("200 OK", "application/json", self._random.choice(_GARBAGE)))
            return True
        if what == "reset":
            return _reset(client)
        head = answer.index(b"\r\n\r\n") + 4
        client.write(answer[: head // 2] if fault == "half a head" else answer[: head + (len(answer) - head) // 2])
        await client.drain()
        return False

    async def _pause(self, seconds: float, *, exact: bool = False) -> None:
        if seconds:
            await asyncio.sleep(seconds if exact else self._random.uniform(0.0, seconds))

    def _send_later(self, request: bytes, seconds: float) -> None:
        async def send() -> None:
            await self._pause(seconds, exact=True)
            await self._forward(request)

        task = self._loop.create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await self._link()
        writer.write(request)
        answer = await _message(reader)
        self._idle.append((time.monotonic(), (reader, writer)))
        return answer

    async def _link(self) -> _Link:
        while self._idle:
            since, link = self._idle.pop()
            if time.monotonic() - since < _IDLE:
                return link
            link[1].close()
        return await asyncio.open_connection(self._host, self._port)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one request or response; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return b""
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length[1])) if length else head


def _response(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(client: asyncio.StreamWriter) -> bool:
    """Break the connection, so that the other side sees a reset and not an end."""
    client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()
    return False
