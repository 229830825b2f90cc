"""The ASGI application: the gate's own wire, and beside it the page with its API.

What belongs to the gate goes to it byte for byte, on the shortest way there is. Everything else is Starlette's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from langchain_vluna._core.errors import ConfigurationError, TransportFailure
from langchain_vluna._core.types import HttpRequest, Transport
from langchain_vluna._io.local import LocalGate

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from langchain_vluna.server.site import Site

__all__ = ["GateApp", "create_app"]

_TIMEOUT: Final = 60.0
_LONGEST_BODY: Final = 1024 * 1024
_PAGES: Final = frozenset({"/", "/openapi.json"})
_PARTS: Final = "/ui/"


def create_app(local_gate: Transport) -> GateApp:
    """Serve `/mgt/v1/*` and `/health` from a local gate, or from any other transport; a local gate has a page, too.

    Raises:
        ConfigurationError: The extra `server` is not installed.
    """
    try:
        import starlette.applications  # noqa: F401 -- where the site was imported once, this still tells

        from langchain_vluna.server.site import Site
    except ImportError as error:
        msg = "the HTTP server needs the extra `server`: pip install 'langchain-vluna[server]'"
        raise ConfigurationError(msg) from error
    return GateApp(local_gate, Site(local_gate) if isinstance(local_gate, LocalGate) else None)


class GateApp:
    def __init__(self, transport: Transport, site: Site | None) -> None:
        self._transport = transport
        self._site = site

    def close_streams(self) -> None:
        """End what would keep a server from stopping: pages that listen."""
        if self._site is not None:
            self._site.close_streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Starlette declines websockets and takes part in a server's lifespan.
            if self._site is not None:
                await self._site(scope, receive, send)
            return
        path: str = scope["path"]
        if self._site is not None and (path in _PAGES or path.startswith(_PARTS)):
            await self._site(scope, receive, send)
        else:
            await self._ask_gate(scope, receive, send)

    async def _ask_gate(self, scope: Scope, receive: Receive, send: Send) -> None:
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
