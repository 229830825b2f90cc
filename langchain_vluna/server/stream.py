"""The journal as it grows, as server-sent events.

Each listener follows the database by itself: other processes write to it too, and whoever is slow delays only himself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from langchain_vluna._io.local import LocalGate
from langchain_vluna._io.local.views import Filter
from langchain_vluna.server.models import Follow, parse_query

__all__ = ["Stream"]

_PAUSE: Final = 0.2
_MOST: Final = 200
"""Entries at a time. Who is further behind is told how many he missed: nobody reads thousands as they pass."""
_ALIVE_AFTER: Final = 75
"""Pauses with nothing to say after which a comment shows that the stream still lives."""
_LISTENERS: Final = 32


class Stream:
    def __init__(self, gate: LocalGate) -> None:
        self._gate = gate
        self._listeners = 0
        self._closing = False
        self.route = Route("/ui/api/stream", self._follow, methods=["GET"])

    def close(self) -> None:
        self._closing = True

    async def _follow(self, request: Request) -> Response:
        query = parse_query(Follow, request)
        if self._listeners >= _LISTENERS:
            return JSONResponse({"error": f"{_LISTENERS} pages listen already; close some"}, 503)
        seen = request.headers.get("last-event-id", "")
        after = int(seen) if seen.isdecimal() and seen.isascii() and len(seen) < len(str(2**63)) else query.after
        headers = {"cache-control": "no-store"}
        return StreamingResponse(self._events(query.filter(), after), media_type="text/event-stream", headers=headers)

    async def _events(self, where: Filter, after: int | None) -> AsyncIterator[str]:
        self._listeners += 1
        try:
            last = await self._last() if after is None else after
            yield f"retry: 1000\nid: {last}\n\n"
            quiet = 0
            while not self._closing:
                text, last = await anyio.to_thread.run_sync(self._news, where, last)
                quiet = 0 if text else quiet + 1
                if text:
                    yield text
                elif quiet % _ALIVE_AFTER == 0:
                    yield ": still here\n\n"
                await anyio.sleep(_PAUSE)
        finally:
            self._listeners -= 1

    async def _last(self) -> int:
        return await anyio.to_thread.run_sync(self._gate.views.last)

    def _news(self, where: Filter, last: int) -> tuple[str, int]:
        """Return what is new as text for the wire, and the number up to which that is."""
        newest = self._gate.views.last()
        if newest <= last:
            return "", last
        entries = self._gate.views.journal(where, after=last, before=newest + 1, limit=_MOST, newest_first=True)
        lines = [f"id: {entry['seq']}\nevent: entry\ndata: {json.dumps(entry)}\n\n" for entry in reversed(entries)]
        if len(entries) == _MOST:
            skipped = entries[-1]["seq"] - last - 1
            lines.insert(0, f"event: missed\ndata: {skipped}\n\n")
        return "".join(lines), newest
