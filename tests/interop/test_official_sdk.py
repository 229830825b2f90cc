"""Our client and our gate against the official SDK: they must be interchangeable."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from langchain_vluna._core.config import Settings
from langchain_vluna._core.exchange import Sources
from langchain_vluna._core.types import BatchItem, Identity, Lease
from langchain_vluna._io.client import Client
from langchain_vluna._io.local import LocalGate
from tests.interop.conftest import Sdk
from tests.support.gate_server import serve
from tests.support.scripted_transport import ScriptedTransport, answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

generations = pytest.mark.parametrize(
    ("generation", "requirement"),
    [("tutorial", "vlunaai==0.1.2"), ("user", "vlunaai==0.1.4"), ("lease", "vlunaai")],
)
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SETTINGS = Settings(
    base_url="https://gate.example/mgt/v1",
    realm_id="realm-default",
    service_key_id="pk-aB3dE4fG5hJ6kLmN",
    service_key_secret=SECRET,  # type: ignore[arg-type]
)
NOW = datetime(2026, 1, 10, 0, 0, 0, 123456, tzinfo=UTC)
NONCE = "00112233445566778899aabbccddeeff"
LEASE = Lease(
    "lease.0b7e6c1e-5f0a-4c3e-9f57-8b1f4a2d9c11.9f8e7d6c5b4a3f2e", "openai.gpt-4o", Identity("acme, Inc.", "u1")
)


def our_requests(generation: Any) -> ScriptedTransport:
    """Make every call that posts, and return what was sent."""
    committed = answer({"commit_id": "c", "amount_xusd": "1"})
    leased = answer({"lease_token": "t", "feature_code": "f"})
    batch = answer({"items": [{"index": 0, "status": "committed"}, {"index": 1, "status": "committed"}]})
    last = answer({"feature_code": "f", "cancelled": True})
    transport = ScriptedTransport(leased, committed, committed, committed, batch, last)
    sources = Sources(clock=lambda: NOW, monotonic=lambda: 0.0, nonce=lambda: NONCE, random=lambda: 0.0)
    client = Client(transport, SETTINGS, wire=generation, sources=sources)
    who: dict[str, Any] = {"principal_id": LEASE.identity.principal_id, "user_id": LEASE.identity.user_id}
    client.authorize(
        feature_code="openai.gpt-4o",
        feature_family_code="llm.standard",
        estimated_quantity=1200,
        budget=str(uuid.UUID(int=1)),
        labels={"city": "Zürich"},
        **who,
    )
    client.commit(LEASE, quantity=345, meters={"openai.gpt-4o.in": 300, "openai.gpt-4o.out": 45}, labels={"a": "b"})
    client.commit(LEASE, quantity=1)
    client.ingest(
        feature_code="tool.search",
        quantity=2,
        occurred_at="2026-01-10T00:00:00.123456Z",
        metadata={"n": [1, None]},
        **who,
    )
    client.commit_batch([BatchItem(LEASE, 1, "i1"), BatchItem(LEASE, 2, "i2", meters={"m": 2}, labels={"a": "b"})])
    if generation == "lease":
        client.preflight(feature_code="openai.gpt-4o", budget="team-a", **who)
    else:
        client.cancel(LEASE)
    return transport


def job_of(mode: str, transport: ScriptedTransport, generation: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "base_url": SETTINGS.base_url,
        "realm_id": SETTINGS.realm_id,
        "key_id": SETTINGS.service_key_id,
        "secret": SECRET,
        "ts": NOW.isoformat(),
        "nonce": NONCE,
        "calls": [
            {
                "path": request.target.removeprefix("/mgt/v1/gate/"),
                "content": request.content.decode(),
                "principal_id": LEASE.identity.principal_id,
                "user_id": None if generation == "tutorial" else LEASE.identity.user_id,
                "key": request.headers["idempotency-key"],
            }
            for request in transport.requests
        ],
    }


@generations
def test_our_requests_are_the_sdks_requests(generation: str, requirement: str, sdk: Sdk):
    """The same call at the same time with the same nonce leaves with the same headers, signature included."""
    transport = our_requests(generation)
    theirs = sdk(requirement, job_of("sign", transport, generation))
    free = {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length"}
    assert [
        (
            request.method,
            request.target,
            request.content.decode(),
            {name: value for name, value in request.headers.items() if name != "x-request-id"},
        )
        for request in transport.requests
    ] == [
        (
            request["method"],
            request["target"],
            request["content"],
            {name: value for name, value in request["headers"].items() if name not in free},
        )
        for request in theirs
    ]


@generations
def test_our_bodies_are_what_the_sdks_models_send(generation: str, requirement: str, sdk: Sdk):
    """The SDK's models take our bodies and lose nothing of them."""
    transport = our_requests(generation)
    assert transport.bodies == sdk(requirement, job_of("model", transport, generation))


@generations
def test_the_sdk_talks_to_the_local_gate(generation: Any, requirement: str, sdk: Sdk):
    """Lease, commit, replay, ingest, batch, limits and a denial: the SDK understands every answer, and is billed."""
    user_id = None if generation == "tutorial" else "u1"
    handle = "lease" if generation == "lease" else "lease_token"
    gate = LocalGate(generation=generation)
    gate.price("chat", "chat.input", 3)
    gate.price("chat", "chat.output", 15)
    gate.grant("acme", 1_000_000, user_id=user_id)
    usage = {
        "feature_code": "chat",
        "quantity_minor": "30",
        "meters": [
            {"meter_code": "chat.input", "quantity_minor": "20"},
            {"meter_code": "chat.output", "quantity_minor": "10"},
        ],
        "labels": {"run": "r1"},
    }

    def call(path: str, key: str, principal: str = "acme", **rest: Any) -> dict[str, Any]:
        return {"path": path, "principal_id": principal, "user_id": user_id, "key": key, **rest}

    ending = (
        call("preflight", "k7", body={"feature_code": "chat"})
        if generation == "lease"
        else call("cancel", "k7", body={"lease_token": "$6.data.lease_token"})
    )
    calls = [
        call("authorize", "k0", body={"feature_code": "chat", "estimated_quantity_minor": "30"}),
        call("commits", "k1", body={handle: f"$0.data.{handle}", **usage}),
        call("commits", "k1", body={handle: f"$0.data.{handle}", **usage}),
        call("ingest", "k3", body=usage),
        call("authorize", "k4", body={"feature_code": "chat"}),
        call("commits/batch", "k5", body={"items": [{handle: f"$4.data.{handle}", **usage, "idempotency_key": "i"}]}),
        call("authorize", "k6", body={"feature_code": "chat"}),
        ending,
        call("limits", "k8", query={"feature_code": "chat"}),
        call("authorize", "k9", principal="broke", body={"feature_code": "chat"}),
    ]
    with serve(gate) as url:
        settings = gate.settings
        answers = sdk(
            requirement,
            {
                "mode": "talk",
                "base_url": url,
                "realm_id": settings.realm_id,
                "key_id": settings.service_key_id,
                "secret": settings.service_key_secret.get_secret_value(),
                "calls": calls,
            },
        )
    assert [True] * 9 == [reply["ok"] for reply in answers[:9]], json.dumps(answers, indent=1)
    assert answers[1]["data"] == answers[2]["data"]
    assert "210" == answers[1]["data"]["amount_xusd"]
    assert 1 == answers[5]["data"]["committed_count"]
    assert (False, "SERVER.CONFIG") == (answers[9]["ok"], answers[9]["code"])
    assert [("commit", 30, 210), ("commit", 30, 210), ("ingest", 30, 210)] == sorted(
        (rating.source, rating.quantity, rating.amount_xusd) for rating in gate.ratings("acme")
    )
    assert 1_000_000 - 630 == gate.balance("acme", user_id)
    gate.close()
