"""Who may see and use the page: people on this machine, from the page itself.

The API behind the page has no password. What protects it is that only this machine reaches it, and that no other
website in the same browser does: a foreign name for this machine shows in `Host`, a foreign page in `Origin` and
`Sec-Fetch-Site`, and the header that every change needs cannot be sent from elsewhere without asking first.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["API", "HEADER", "Guard"]

API: Final = "/ui/api/"
HEADER: Final = "x-vluna-page"
"""What every change must carry, whatever its value."""

_READING: Final = frozenset({"GET", "HEAD"})
_PROTECTION: Final = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        objection = _objection(scope, Headers(scope=scope))

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_PROTECTION)
            await send(message)

        if objection is None:
            await self._app(scope, receive, protected)
        else:
            await JSONResponse({"error": objection}, 403)(scope, receive, protected)


def _objection(scope: Scope, headers: Headers) -> str | None:
    client = scope.get("client")
    if client is not None and not _is_loopback(client[0]):
        return f"the page is for this machine only, and {client[0]} is another; use a tunnel, such as ssh -L"
    host = headers.get("host", "")
    if not _is_local_name(host):
        return f"the page answers to localhost only, not to {host!r}; open it as http://localhost:PORT/"
    if not scope["path"].startswith(API):
        return None
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if (origin is not None and origin != f"{scope['scheme']}://{host}") or site not in {None, "same-origin", "none"}:
        return f"another website ({origin or site}) asks; only the page itself may"
    if scope["method"] not in _READING and HEADER not in headers:
        return f"a change needs the header {HEADER!r}"
    return None


def _is_local_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
