"""Everything beside the gate's own wire: the page, its API, and the document that describes both."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._io.local import LocalGate
from langchain_vluna.server import openapi
from langchain_vluna.server.api import Api
from langchain_vluna.server.assets import assets
from langchain_vluna.server.guard import Guard
from langchain_vluna.server.stream import Stream

__all__ = ["Site"]


class Site:
    def __init__(self, gate: LocalGate) -> None:
        self._stream = Stream(gate)
        routes = [*Api(gate).routes, self._stream.route, openapi.route(), *assets()]
        self._app = Starlette(
            routes=routes,
            middleware=[Middleware(Guard)],
            exception_handlers={ValidationError: _misread, ConfigurationError: _impossible},
        )

    def close_streams(self) -> None:
        self._stream.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _misread(_: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, ValidationError) else []
    said = "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in problems)
    return JSONResponse({"error": said}, 400)


async def _impossible(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)
