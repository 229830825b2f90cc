"""HTTP/1.1 of one connection, by a library: h11, or httptools where it is installed (extra `fast`). No I/O.

Both colours share it. It is narrow by intent: bodies of requests have a known length, nothing is compressed,
pipelined or upgraded. Half an answer is never read as a whole one, nor as the beginning of the next.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from langchain_vluna._core.types import HttpRequest, HttpResponse

__all__ = ["Codec", "ProtocolError", "RequestError", "codec_class", "joined", "with_length"]


class ProtocolError(Exception):
    """One side does not speak HTTP/1.1, or the other stopped in the middle of it."""


class RequestError(ProtocolError):
    """A request cannot be written down; nothing of it was sent."""


class Codec(Protocol):
    """Turns requests into bytes and bytes into answers, one after the other."""

    def request(self, request: HttpRequest) -> bytes:
        """Return a request as it goes over the wire.

        Raises:
            RequestError: A value would break out of its line.
        """

    def receive(self, data: bytes) -> HttpResponse | None:
        """Take in bytes, none at the end of the connection; returns the answer when it is whole.

        Raises:
            ProtocolError: This is no answer, or its end will never come.
        """

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request, after a whole answer."""


def codec_class(*, fast: bool | None = None) -> Callable[[], Codec]:
    """Return httptools' codec if it is installed, or h11's; `fast` decides otherwise."""
    if fast is None:
        fast = importlib.util.find_spec("httptools") is not None
    if fast:
        from langchain_vluna._io.transport.by_httptools import HttptoolsCodec

        return HttptoolsCodec
    from langchain_vluna._io.transport.by_h11 import H11Codec

    return H11Codec


def with_length(request: HttpRequest) -> Mapping[str, str]:
    """Return the headers with the length of the body, if there can be one."""
    if request.content or request.method == "POST":
        return {**request.headers, "content-length": str(len(request.content))}
    return request.headers


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by lower-case name; what comes twice is joined."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
