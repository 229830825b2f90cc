"""The local gate over HTTP."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import HttpRequest
from langchain_vluna._io.local import LocalGate
from langchain_vluna.server import create_app
from tests.support.caller import Caller
from tests.support.gate_server import serve


@pytest.fixture
def gate() -> LocalGate:
    return LocalGate()


@pytest.fixture
def connection(gate: LocalGate) -> Iterator[http.client.HTTPConnection]:
    with serve(gate) as base_url:
        parts = urlsplit(base_url)
        assert "/mgt/v1" == parts.path
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        yield connection
        connection.close()


def post(connection: http.client.HTTPConnection, request: HttpRequest) -> tuple[int, dict[str, object]]:
    connection.request(request.method, request.target, request.content, dict(request.headers))
    response = connection.getresponse()
    assert "application/json; charset=utf-8" == response.headers["content-type"]
    return response.status, json.loads(response.read())


def ingest(gate: LocalGate, key: str = "key") -> HttpRequest:
    return Caller(gate).request("ingest", {"feature_code": "chat", "quantity_minor": "1"}, key)


def test_requests_reach_the_gate_as_they_were_sent(gate: LocalGate, connection: http.client.HTTPConnection) -> None:
    """Path, query, headers and body arrive byte for byte: the signature holds."""
    path = {"method": "POST", "path": "/gate/ingest/?a=%20b&a=c"}
    request = Caller(gate).request("raw", {"feature_code": "chat", "quantity_minor": 2}, http=path)

    assert 200 == post(connection, request)[0]
    assert [2] == [rating.quantity for rating in gate.ratings()]


def test_health_is_answered(connection: http.client.HTTPConnection) -> None:
    """The host says that it lives."""
    assert (200, {"status": "ok"}) == post(connection, HttpRequest("GET", "/health", {}, b"", 1))


def test_other_paths_are_not_found(connection: http.client.HTTPConnection) -> None:
    """What is no route of the gate gets the gate's own 404."""
    status, body = post(connection, HttpRequest("GET", "/elsewhere?x=1", {}, b"", 1))

    assert (404, "Cannot GET /elsewhere?x=1") == (status, body["message"])


def test_a_lost_answer_closes_the_connection(gate: LocalGate, connection: http.client.HTTPConnection) -> None:
    """A dropped answer is one over HTTP too: the client gets no body, and the request was carried out."""
    gate.fault("drop_answer", on="ingest")
    request = ingest(gate)
    connection.request(request.method, request.target, request.content, dict(request.headers))

    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    assert 1 == len(gate.ratings())
    connection.close()
    assert 200 == post(connection, ingest(gate))[0]
    assert 1 == len(gate.ratings())


def test_a_body_that_is_too_large_is_refused(gate: LocalGate, connection: http.client.HTTPConnection) -> None:
    """The server reads no more than it takes to see that a body is too large."""
    request = Caller(gate).request("ingest", None, raw_body='"' + "x" * 1_500_000 + '"')
    status, body = post(connection, request)

    assert (413, "Request body is too large") == (status, body["message"])


def test_the_server_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starlette the error says what to install."""
    monkeypatch.setitem(sys.modules, "starlette.applications", None)

    with pytest.raises(ConfigurationError, match=r"langchain-vluna\[server\]"):
        create_app(LocalGate())
