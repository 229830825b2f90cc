"""HTTP/1.1 as far as a gate needs it: one request into bytes, one answer out of bytes. No I/O.

Both colours share it. It is narrow by intent: requests have a body of known length, nothing is compressed,
pipelined or upgraded. What an answer may be is taken strictly from RFC 9112, and whatever is not that breaks the
connection: half an answer must never be read as a whole one, or as the beginning of the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from langchain_vluna._core.types import HttpResponse

__all__ = ["Answer", "ProtocolError", "request_bytes"]

_LONGEST_HEAD = 64 * 1024
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?")
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?")
_BODILESS = frozenset({204, 304})


class ProtocolError(Exception):
    """The other side does not speak HTTP/1.1, or stopped in the middle of it."""


def request_bytes(method: str, target: str, headers: Mapping[str, str], content: bytes) -> bytes:
    """Return a request as it goes over the wire.

    Raises:
        ProtocolError: A value would break out of its line.
    """
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if content or method != "GET":
        lines.append(f"content-length: {len(content)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or not head.isascii():
        msg = "a header holds a line break or a character that is not ASCII"
        raise ProtocolError(msg)
    return f"{head}\r\n\r\n".encode() + content


class Answer:
    """One answer, from bytes as they arrive: `feed` until it is whole."""

    def __init__(self, *, bodiless: bool = False) -> None:
        """`bodiless` is the answer to a CONNECT, after which everything belongs to the tunnel."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reusable = False
        """Whether the connection can carry another request, once the answer is whole."""
        self._bodiless = bodiless
        self._bytes = b""
        self._body: list[bytes] = []
        self._length: int | None = None
        """Bytes of the body; `None` where it is chunked, or ends with the connection."""
        self._chunked = False

    def feed(self, data: bytes) -> bool:
        """Take in bytes; true when the answer is whole. Not to be called again then."""
        self._bytes += data
        while not self.status:
            if not self._read_head():
                return False
        if self._length is not None:
            return self._read_length(self._length)
        return self._chunked and self._read_chunks()

    def end(self) -> None:
        """The other side closed the connection.

        Raises:
            ProtocolError: In the middle of the answer, or before it.
        """
        self.reusable = False
        if not self.status or self._length is not None or self._chunked:
            msg = "the connection was closed before the answer was whole"
            raise ProtocolError(msg)
        self._body.append(self._bytes)

    def response(self) -> HttpResponse:
        """Return the whole answer."""
        return HttpResponse(self.status, self.headers, b"".join(self._body))

    def _read_head(self) -> bool:
        """Read a status line and headers; false when they are not there yet. Interim answers leave `status` at 0."""
        end = self._bytes.find(b"\r\n\r\n")
        if end < 0:
            if len(self._bytes) > _LONGEST_HEAD:
                msg = f"the answer's head is longer than {_LONGEST_HEAD} bytes"
                raise ProtocolError(msg)
            return False
        first, *lines = self._bytes[:end].decode("latin-1").split("\r\n")
        self._bytes = self._bytes[end + 4 :]
        found = _STATUS_LINE.fullmatch(first)
        if found is None:
            msg = f"the answer begins with {first[:60]!r}, which is not HTTP/1.1"
            raise ProtocolError(msg)
        status = int(found[2])
        if status >= 200:  # noqa: PLR2004 -- what is below is said on the way to the answer
            self.status, self.headers = status, _headers(lines)
            self._frame(version=found[1])
        elif status == 101:  # noqa: PLR2004 -- nobody asked to switch protocols
            msg = "the answer switches protocols"
            raise ProtocolError(msg)
        return True

    def _frame(self, *, version: str) -> None:
        """Find out where the body ends."""
        connection = self.headers.get("connection", "").lower()
        self.reusable = version == "1" and "close" not in connection
        encoding = self.headers.get("transfer-encoding")
        length = self.headers.get("content-length")
        if self._bodiless or self.status in _BODILESS:
            self._length = 0
        elif encoding is not None:
            if encoding.lower() != "chunked":
                msg = f"the answer has the transfer encoding {encoding!r}"
                raise ProtocolError(msg)
            self._chunked = True
        elif length is not None:
            if not (length.isascii() and length.isdecimal()):
                msg = f"the answer has the content length {length!r}"
                raise ProtocolError(msg)
            self._length = int(length)
        else:
            self.reusable = False

    def _read_length(self, length: int) -> bool:
        if len(self._bytes) < length:
            return False
        self._body.append(self._bytes[:length])
        self._finish(length)
        return True

    def _read_chunks(self) -> bool:
        at = 0
        while (end := self._bytes.find(b"\r\n", at)) >= 0:
            line = _CHUNK_LINE.fullmatch(self._bytes[at:end])
            if line is None:
                msg = "the answer's body is not in chunks, as it says it is"
                raise ProtocolError(msg)
            size = int(line[1], 16)
            if not size:
                # What may follow the last chunk are trailers, each a line, and an empty line.
                whole = self._bytes.find(b"\r\n\r\n", end)
                if whole < 0:
                    break
                self._finish(whole + 4)
                return True
            if len(self._bytes) < end + 2 + size + 2:
                break
            self._body.append(self._bytes[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
        self._bytes = self._bytes[at:]
        return False

    def _finish(self, used: int) -> None:
        # Bytes after an answer that nobody asked for: whatever they are, the connection is not to be trusted.
        self.reusable = self.reusable and len(self._bytes) == used


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            msg = f"the answer has a header line {line[:60]!r}"
            raise ProtocolError(msg)
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
