"""The server against its own OpenAPI document: whatever the document allows, or forbids, never fails the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from requests import PreparedRequest
from schemathesis import Case, openapi
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from langchain_vluna._core.config import Settings
from langchain_vluna._core.signing import authorization_header, canonical_string, content_digest, sign
from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.guard import HEADER
from langchain_vluna.server.listening import serving
from langchain_vluna.server.openapi import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

schema = openapi.from_dict(document()).exclude(path="/ui/api/stream")


class Signed:
    """Signs what schemathesis made up for the gate, so that it is looked at and not only turned away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        target = request.path_url
        if not target.startswith("/mgt/"):
            request.headers.setdefault(HEADER, "1")
            return request
        body = request.body or b""
        content = body if isinstance(body, bytes) else str(body).encode()
        request.headers.update({"x-realm-id": self._settings.realm_id, "content-digest": content_digest(content)})
        request.headers["x-principal-id"] = "acme"
        headers = {
            name.lower(): value if isinstance(value, str) else value.decode("latin-1")
            for name, value in request.headers.items()
        }
        canonical = canonical_string(
            "v2" if headers.get("x-user-id") else "v1",
            method=request.method or "",
            target=target,
            ts="t",
            nonce="n",
            content_digest=headers["content-digest"],
            content_type=headers.get("content-type", ""),
            realm_id=headers["x-realm-id"],
            principal_id="acme",
            user_id=headers.get("x-user-id"),
            idempotency_key=headers.get("idempotency-key"),
        )
        signature = sign(self._settings.service_key_secret.get_secret_value(), canonical)
        key_id = self._settings.service_key_id
        authorization = authorization_header(key_id=key_id, signature=signature, ts="t", nonce="n")
        request.headers["authorization"] = authorization
        return request


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[LocalGate, str]]:
    gate = LocalGate()
    gate.price("chat", "chat", 1)
    gate.grant("acme", 10**9)
    with serving(gate) as url:
        yield gate, url.removesuffix("/mgt/v1")


@schema.parametrize()
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_no_request_of_the_document_fails_the_server(case: Case, served: tuple[LocalGate, str]):
    """No answer is a server error, and each status is one that the document names."""
    gate, url = served
    response = case.call(base_url=url, auth=Signed(gate.settings))
    gate.mend()
    case.validate_response(response, checks=[not_a_server_error, status_code_conformance])
