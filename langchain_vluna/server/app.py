"""An ASGI application that hands requests to a local gate, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from langchain_vluna._core.errors import ConfigurationError, TransportFailure
from langchain_vluna._core.types import HttpRequest, Transport

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

__all__ = ["create_app"]

_TIMEOUT: Final = 60.0
_LONGEST_BODY: Final = 1024 * 1024


def create_app(local_gate: Transport) -> Starlette:
    """Serve `/mgt/v1/*` and `/health` from a local gate, or from any other transport.

    Raises:
        ConfigurationError: The extra `server` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Mount
    except ImportError as error:
        msg = "the HTTP server needs the extra `server`: pip install 'langchain-vluna[server]'"
        raise ConfigurationError(msg) from error
    return Starlette(routes=[Mount("/", app=_Endpoint(local_gate))])


class _Endpoint:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(
            method=scope["method"],
            target=_target(scope),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            content=await _content(receive),
            timeout=_TIMEOUT,
        )
        try:
            answer = await self._transport.asend(request)
        except TransportFailure:
            await _break_off(send)
            return
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        headers.append((b"content-length", str(len(answer.content)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})


def _target(scope: Scope) -> str:
    """Return path and query as they were sent: that is what is signed."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


async def _content(receive: Receive) -> bytes:
    """Read the body, but no more of it than it takes to see that it is too large."""
    content = b""
    while len(content) <= _LONGEST_BODY:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            break
    return content


async def _break_off(send: Send) -> None:
    """Promise a body and send none: the server closes the connection, and the client has no answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
