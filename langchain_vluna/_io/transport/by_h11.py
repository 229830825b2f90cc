"""HTTP/1.1 by h11: what the core install speaks."""

from __future__ import annotations

import h11

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.transport.codec import ProtocolError, RequestError, joined, with_length

__all__ = ["H11Codec"]


class H11Codec:
    """In Python alone. Knows CONNECT too, whose answer ends where the tunnel begins."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._body: list[bytes] = []

    def request(self, request: HttpRequest) -> bytes:
        self._head, self._body = None, []
        try:
            if self._connection.our_state is h11.DONE:
                self._connection.start_next_cycle()
            headers = list(with_length(request).items())
            sent = self._connection.send(h11.Request(method=request.method, target=request.target, headers=headers))
            sent = (sent or b"") + (self._connection.send(h11.Data(data=request.content)) or b"")
            self._connection.send(h11.EndOfMessage())
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise RequestError(str(error)) from error
        return sent

    def receive(self, data: bytes) -> HttpResponse | None:
        try:
            self._connection.receive_data(data)
            while (event := self._connection.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    self._head = event
                elif isinstance(event, h11.Data):
                    self._body.append(bytes(event.data))
                elif isinstance(event, h11.ConnectionClosed):
                    msg = "the connection was closed before there was an answer"
                    raise ProtocolError(msg)
                elif self._head is not None:  # its end, or the tunnel
                    return HttpResponse(self._head.status_code, joined(self._head.headers), b"".join(self._body))
        except h11.RemoteProtocolError as error:
            raise ProtocolError(str(error)) from error
        return None

    @property
    def reusable(self) -> bool:
        # Bytes that nobody asked for: whatever they are, the connection is not to be trusted.
        return self._connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE} and not any(
            self._connection.trailing_data
        )
