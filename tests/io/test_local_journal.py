"""The journal: what is written down of a request, when, and what it never costs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.types import HttpRequest
from langchain_vluna._io.local import LocalGate, tables
from langchain_vluna._io.local.views import Filter
from tests.conformance.replay import START
from tests.support.caller import Caller


@pytest.fixture
def gate() -> LocalGate:
    gate = LocalGate(clock=lambda: START)
    gate.price("chat", "chat", 2)
    gate.grant("acme", 1000)
    return gate


@pytest.fixture
def acme(gate: LocalGate) -> Caller:
    return Caller(gate, "tutorial", user=None)


def journal(gate: LocalGate, **where: str) -> list[dict[str, Any]]:
    return gate.views.journal(Filter(**where), limit=1000)


def kinds(gate: LocalGate) -> list[str]:
    """What was written down since the set-up."""
    return [entry["kind"] for entry in journal(gate)[2:]]


def test_each_verb_leaves_its_kind(gate: LocalGate, acme: Caller):
    """Authorize, commit, a late cancel, a cancel, ingest and a dry run are told apart."""
    first, second = acme.lease(), acme.lease()
    acme.commit(first)
    acme.cancel(first)
    acme.cancel(second)
    acme.ingest()
    Caller(gate, "lease").post("/gate/preflight", {"feature_code": "chat"})
    assert [
        *("authorized", "authorized", "committed", "too_late", "canceled", "ingested", "checked"),
    ] == kinds(gate)


def test_replays_are_told_from_first_answers(gate: LocalGate, acme: Caller):
    """What was asked again under its key reads as answered again, with the lease it is about."""
    lease = acme.authorize(key="a").data["lease_token"]
    acme.authorize(key="a")
    acme.commit(lease, key="c")
    acme.commit(lease, key="c")
    acme.ingest(key="i")
    acme.ingest(key="i")
    acme.cancel(lease, key="x")
    acme.cancel(lease, key="x")
    assert ["authorized", "replayed", "committed", "replayed", "ingested", "replayed", "too_late", "replayed"] == kinds(
        gate
    )
    assert 1 == len({entry["lease_id"] for entry in journal(gate)[2:6]})


def test_items_of_a_batch_are_entries_of_their_own(gate: LocalGate, acme: Caller):
    """Each item is charged, quarantined or refused by itself, under its own key and labels."""
    charged, canceled = acme.lease(), acme.lease()
    acme.cancel(canceled)
    acme.batch(
        [
            acme.usage(charged, labels={"run_id": "r1"}, idempotency_key="i1"),
            acme.usage(canceled, labels={"run_id": "r2"}, idempotency_key="i2"),
            acme.usage("lease.broken", labels={"run_id": "r3"}, idempotency_key="i3"),
        ]
    )
    assert [("committed", "i1", "r1", 200), ("quarantined", "i2", "r2", 200), ("refused", "i3", "r3", 422)] == [
        (entry["kind"], entry["idempotency_key"], entry["run_id"], entry["status"]) for entry in journal(gate)[-3:]
    ]


@pytest.mark.parametrize(
    ("change", "kind", "status"),
    [
        (lambda gate: gate.withdraw("acme"), "denied", 402),
        (lambda gate: gate.rate("chat", 0, 60), "denied", 429),
        (lambda gate: gate.entitle("chat"), "denied", 403),
        (lambda gate: gate.feature("chat", active=False), "refused", 422),
        (lambda gate: gate.fault("status_500", on="authorize"), "fault", 0),
    ],
)
def test_refusals_say_what_they_were(gate: LocalGate, acme: Caller, change: Any, kind: str, status: int):
    """A denial is told from a mistake, and both from a fault on demand."""
    change(gate)
    acme.authorize()
    entry = journal(gate)[-1]
    assert (kind, status, "acme", "chat") == (
        entry["kind"],
        entry["status"],
        entry["principal_id"],
        entry["feature_code"],
    )


def test_whoever_is_not_known_is_written_down_as_he_says_he_is(gate: LocalGate, acme: Caller):
    """A wrong signature leaves an entry, so that a developer sees what arrived."""
    request = acme.request("authorize", {"feature_code": "chat", "labels": {"run_id": "r1"}})
    headers = {**request.headers, "x-principal-id": "mallory"}
    gate.send(HttpRequest(request.method, request.target, headers, request.content, 1))
    (entry,) = journal(gate, run_id="r1")
    assert ("refused", 401, "mallory", "Signature mismatch") == (
        entry["kind"],
        entry["status"],
        entry["principal_id"],
        entry["message"],
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"feature_code": "\\ud800", "labels": {"run_id": "\\udfff"}, "lease_token": 5}',
        b'{"labels": {"a": "\\u0000"}}',
        b"[" * 100_000,
        json.dumps({"labels": {"run_id": "x" * 10_000}}).encode(),
    ],
)
def test_whatever_is_refused_can_be_written_down(gate: LocalGate, acme: Caller, content: bytes):
    """Bodies that no database takes, or that go on for ever, are cut to what one takes."""
    request = acme.request("authorize", {})
    gate.send(HttpRequest("POST", request.target, request.headers, content, 1))
    entry = journal(gate)[-1]
    assert "refused" == entry["kind"]
    assert all(len(value) <= 200 for value in entry["labels"].values())


def test_a_refusal_waits_for_nobody(tmp_path: Path):
    """While another process writes, a denial is answered at once, and written down with the next one."""
    path = tmp_path / "gate.db"
    gate = LocalGate(path, clock=lambda: START)
    gate.grant("acme", 0)
    other = sqlite3.connect(path, isolation_level=None)
    unsigned = HttpRequest("POST", "/mgt/v1/gate/authorize", {"x-realm-id": "realm-local"}, b"{}", 1)
    other.execute("BEGIN IMMEDIATE")
    assert 401 == gate.send(unsigned).status
    other.execute("ROLLBACK")
    other.close()
    assert ["changed"] == [entry["kind"] for entry in journal(gate)]
    gate.send(unsigned)
    assert ["changed", "refused", "refused"] == [entry["kind"] for entry in journal(gate)]
    gate.close()


def test_it_stays_when_the_gate_is_opened_again(tmp_path: Path):
    """Denials and what led to them are there after a restart."""
    path = tmp_path / "gate.db"
    gate = LocalGate(path, clock=lambda: START)
    gate.price("chat", "chat", 2)
    Caller(gate, "tutorial", user=None).authorize()
    gate.close()
    again = LocalGate(path, clock=lambda: START)
    assert ["changed", "denied"] == [entry["kind"] for entry in journal(again)]
    again.close()


def test_it_does_not_grow_for_ever(gate: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """The oldest entries make room."""
    monkeypatch.setattr(tables, "_KEPT", 5)
    monkeypatch.setattr(tables, "_SWEEP", 10)
    for _ in range(18):
        gate.grant("acme", 1)
    assert list(range(16, 21)) == [entry["seq"] for entry in journal(gate)]


def test_no_handle_is_in_it(gate: LocalGate, acme: Caller):
    """A lease is named by its id; what would let somebody commit under it is not written down."""
    lease = acme.lease()
    acme.commit(lease)
    acme.commit(lease, feature="draw")
    tail = lease.rpartition(".")[2]
    assert tail not in json.dumps(journal(gate))


def test_an_item_of_a_batch_sees_what_the_one_before_it_spent(gate: LocalGate, acme: Caller):
    """Two items that cost more than there is take it once; the rest is not covered, and no balance is below 0."""
    items = [acme.usage(acme.lease(), 400, idempotency_key=key) for key in ("i1", "i2")]
    assert 2 == acme.batch(items).data["committed_count"]
    (wallet,) = gate.views.customers(Filter(), limit=10)
    assert (0, 1600, 600) == (wallet["balance_xusd"], wallet["spent_xusd"], wallet["uncovered_xusd"])
    assert 0 == gate.balance("acme")
