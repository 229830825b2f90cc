"""Where the scenarios come from, and one HTTP server for all of them."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from langchain_vluna._core.types import HttpRequest, HttpResponse, Transport
from langchain_vluna._io.local import LocalGate
from tests.support.gate_server import serve


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scenarios", metavar="DIR", help="replay the scenario files of this folder")


class Stand:
    """Passes requests to whichever gate is being tested."""

    gate: Transport

    def send(self, request: HttpRequest) -> HttpResponse:
        return self.gate.send(request)

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return await self.gate.asend(request)

    def close(self) -> None:
        """Keep the gate: the test owns it."""

    async def aclose(self) -> None:
        """Keep the gate: the test owns it."""


@pytest.fixture(scope="session")
def over_http() -> Iterator[Callable[[LocalGate], Callable[[HttpRequest], HttpResponse]]]:
    """Return what sends requests to a given gate through a real HTTP server."""
    stand = Stand()
    with serve(stand) as base_url:
        connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=30)

        def send(request: HttpRequest) -> HttpResponse:
            connection.request(request.method, request.target, request.content, dict(request.headers))
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return HttpResponse(answer.status, headers, answer.read())

        def use(gate: LocalGate) -> Callable[[HttpRequest], HttpResponse]:
            stand.gate = gate
            return send

        yield use
        connection.close()
