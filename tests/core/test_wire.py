"""Calls become requests of each generation, and answers of any form become values or errors that help."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core import wire
from langchain_vluna._core.errors import (
    ConfigurationError,
    GateDenied,
    GateProtocolError,
    GateRejected,
    GateUnavailable,
    IdempotencyConflict,
    VlunaError,
)
from langchain_vluna._core.types import Call, CommitLine, Hint, HttpResponse, Identity

ACME = Identity("acme", "u1")
NOW = datetime(2026, 1, 10, tzinfo=UTC)
TOKEN = "lease.0b7e6c1e-5f0a-4c3e-9f57-8b1f4a2d9c11.9f8e7d6c5b4a3f2e"
BUDGET = "6f1c1a52-0c0f-4e38-9a8e-6c8a1f4b0001"


def sent(call: Call, payload: wire.Payload = "lease_token") -> Any:
    return json.loads(wire.encode(call, payload).content)


def reply_to(status: int, body: Any = None, headers: dict[str, str] | None = None) -> wire.Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return wire.read_reply(HttpResponse(status, headers or {}, content), NOW)


def authorize(**overrides: Any) -> Call:
    fields: dict[str, Any] = {"identity": ACME, "feature_code": "chat", "idempotency_key": "k"}
    return wire.authorize_call(**fields | overrides)


def judged(status: int, **body: Any) -> VlunaError:
    return wire.judge(authorize(), reply_to(status, body), request_id="r" * 32)


# --- requests -------------------------------------------------------------------------------------


def test_authorize_sends_what_was_asked_and_nothing_else():
    """Fields that were not given are not sent; quantities are digit strings; codes are canonical."""
    assert {"feature_code": "openai.gpt-4o"} == sent(authorize(feature_code=" OpenAI.GPT-4o "))
    full = authorize(
        feature_family_code=" LLM-std ".strip().lower(), estimated_quantity=1200, budget=BUDGET, labels={"run": "r"}
    )
    assert {
        "feature_code": "chat",
        "feature_family_code": "llm-std",
        "estimated_quantity_minor": "1200",
        "budget_id": BUDGET,
        "labels": {"run": "r"},
    } == sent(full)
    assert BUDGET == sent(full, "lease")["budget"]


def test_each_generation_names_the_handle_its_own_way():
    """The neutral `lease` is `lease_token` in the older generations, in a batch too, and never both."""
    body = wire.commit_body(feature_code="chat", quantity=30, meters={"chat.input": 10, "chat.output": 20})
    commit = wire.commit_call(identity=ACME, body=wire.leased(body, TOKEN), idempotency_key="k")
    batch = wire.batch_call(identity=ACME, items=[(wire.leased(body, TOKEN), "i")], idempotency_key="k")
    cancel = wire.cancel_call(identity=ACME, handle=TOKEN, idempotency_key="k")
    payloads: tuple[wire.Payload, ...] = ("lease_token", "lease")
    for payload in payloads:
        assert {payload: TOKEN} == sent(cancel, payload)
        assert {
            payload: TOKEN,
            "feature_code": "chat",
            "quantity_minor": "30",
            "meters": [
                {"meter_code": "chat.input", "quantity_minor": "10"},
                {"meter_code": "chat.output", "quantity_minor": "20"},
            ],
        } == sent(commit, payload)
        assert {"items": [sent(commit, payload) | {"idempotency_key": "i"}]} == sent(batch, payload)


def test_a_stored_body_is_sent_with_the_same_bytes():
    """A usage body that went through JSON on disk gives the very bytes of the first attempt."""
    body = wire.commit_body(
        feature_code="chat", quantity=3, meters={"b": 1, "a": 2}, labels={"z": "ü", "a": "\U0001f600"}
    )
    first, again = (
        wire.encode(wire.commit_call(identity=ACME, body=wire.leased(b, TOKEN), idempotency_key="k"), "lease_token")
        for b in (body, json.loads(json.dumps(body)))
    )
    assert first == again


def test_routes_and_query():
    """Every verb has its path; limits is a GET with its question in the query and no body."""
    body = wire.leased(wire.commit_body(feature_code="chat", quantity=1), TOKEN)
    ingest = wire.ingest_body(feature_code="chat", quantity=0)
    calls = [
        authorize(),
        wire.commit_call(identity=ACME, body=body, idempotency_key="k"),
        wire.batch_call(identity=ACME, items=[(body, "i")], idempotency_key="k"),
        wire.cancel_call(identity=ACME, handle=TOKEN, idempotency_key="k"),
        wire.ingest_call(identity=ACME, body=ingest, idempotency_key="k"),
        wire.preflight_call(identity=ACME, feature_code="chat", idempotency_key="k"),
        wire.limits_call(identity=ACME, feature_code="chat", expand=("quotas", "rates")),
    ]
    assert [
        ("POST", "/gate/authorize"),
        ("POST", "/gate/commits"),
        ("POST", "/gate/commits/batch"),
        ("POST", "/gate/cancel"),
        ("POST", "/gate/ingest"),
        ("POST", "/gate/preflight"),
        ("GET", "/gate/limits?feature_code=chat&expand=quotas&expand=rates"),
    ] == [(e.method, e.path) for e in (wire.encode(call, "lease") for call in calls)]
    assert b"" == wire.encode(calls[-1], "lease").content
    assert calls[-1].idempotency_key is None


def test_ingest_takes_zero_a_time_and_metadata():
    """Usage without a lease may be zero, may lie in the past, and carries plain JSON."""
    body = wire.ingest_body(
        feature_code="chat", quantity=0, occurred_at=NOW, budget=BUDGET, labels={"a": "b"}, metadata={"n": [1, None]}
    )
    assert {
        "feature_code": "chat",
        "quantity_minor": "0",
        "occurred_at": "2026-01-10T00:00:00+00:00",
        "budget": BUDGET,
        "labels": {"a": "b"},
        "metadata": {"n": [1, None]},
    } == body
    assert "2026" == wire.ingest_body(feature_code="chat", meters={"m": 1}, occurred_at="2026")["occurred_at"]


def test_zero_meters_are_left_out():
    """A meter line of zero is not sent, because the gate would refuse the whole commit."""
    body = wire.commit_body(feature_code="chat", quantity=5, meters={"in": 5, "out": 0})
    assert [{"meter_code": "in", "quantity_minor": "5"}] == body["meters"]
    assert "meters" not in wire.commit_body(feature_code="chat", quantity=5, meters={})


COMMIT: dict[str, Any] = {"feature_code": "chat", "quantity": 1}


@pytest.mark.parametrize(
    ("build", "arguments", "names"),
    [
        *[
            (wire.commit_body, COMMIT | {"feature_code": code}, "feature_code")
            for code in ("", " ", "a/b", "a:b", "a..b", "a--b", "a._b", "-a", "a-", "ä", "a b", "x" * 129, None, 7)
        ],
        *[
            (wire.commit_body, COMMIT | {"quantity": quantity}, "quantity")
            for quantity in (0, -1, True, False, 1.0, math.nan, "1", None, 2**53)
        ],
        (wire.commit_body, COMMIT | {"meters": {"a/b": 1}}, "meter code"),
        *[(wire.commit_body, COMMIT | {"meters": {"m": q}}, "'m'") for q in (-1, True, 1.5, "1", None)],
        (wire.commit_body, COMMIT | {"meters": {"m": 0, "n": 0}}, "all 0"),
        *[
            (wire.commit_body, COMMIT | {"labels": {"tier": value}}, "'tier'")
            for value in (1, None, True, ["x"], b"x", "a\0b", "\ud800")
        ],
        *[(wire.commit_body, COMMIT | {"labels": {key: "x"}}, "label") for key in ("", " ", 1, None, "a\0")],
        (authorize, {"estimated_quantity": -1}, "estimated_quantity"),
        (authorize, {"feature_family_code": "LLM"}, "feature_family_code"),
        *[(authorize, {"budget": budget}, "budget") for budget in ("", " ", "x" * 256, "a\nb", 5)],
        *[(authorize, {"idempotency_key": key}, "idempotency_key") for key in ("", " k", "k\n", "ü", "k" * 256, None)],
        (wire.leased, {"body": {}, "handle": ""}, "handle"),
        (wire.batch_call, {"identity": ACME, "items": [], "idempotency_key": "k"}, "100"),
        (wire.batch_call, {"identity": ACME, "items": [({}, "i")] * 101, "idempotency_key": "k"}, "split"),
        (wire.batch_call, {"identity": ACME, "items": [({}, "")], "idempotency_key": "k"}, "idempotency_key"),
        (wire.limits_call, {"identity": ACME, "expand": ["quotas", "a b"]}, "'a b'"),
        (wire.ingest_body, {"feature_code": "chat"}, "quantity or meters"),
        (wire.ingest_body, {"feature_code": "chat", "quantity": -1}, "quantity"),
        (wire.ingest_body, {"feature_code": "chat", "quantity": 1, "occurred_at": NOW.replace(tzinfo=None)}, "zone"),
        (wire.ingest_body, {"feature_code": "chat", "quantity": 1, "metadata": {"x": object()}}, "metadata"),
        (wire.ingest_body, {"feature_code": "chat", "quantity": 1, "metadata": {"x": math.nan}}, "metadata"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_sent(build: Any, arguments: Any, names: str):
    """A value the gate would refuse, round or choke on is a configuration error that names it."""
    with pytest.raises(ConfigurationError, match=names):
        build(**arguments)


@pytest.mark.parametrize("principal_id", ["", " acme", "acme ", "akmé", "a\tb", "a\nb", "x" * 301, None])
def test_an_identity_that_no_header_can_carry_is_refused(principal_id: Any):
    """Such a principal would only show as a signature mismatch."""
    with pytest.raises(ConfigurationError, match="principal_id"):
        authorize(identity=Identity(principal_id))


@pytest.mark.parametrize("user_id", ["", " u", "ü", "x" * 301])
def test_a_user_that_no_header_can_carry_is_refused(user_id: str):
    """An empty user is a mistake, not an absent one."""
    with pytest.raises(ConfigurationError, match="user_id"):
        authorize(identity=Identity("acme", user_id))


def test_identities_with_blanks_and_commas_inside_are_fine():
    """Only ends and alphabet matter; the gate takes up to 300 characters."""
    assert "Acme, Inc. " + "x" * 289 == authorize(identity=Identity("Acme, Inc. " + "x" * 289)).identity.principal_id


def test_a_label_value_never_shows_in_an_error():
    """A label may be personal, so that only its name is told."""
    with pytest.raises(ConfigurationError) as caught:
        wire.commit_body(**COMMIT, labels={"mail": "ann@example.org\0"})
    assert "ann@example.org" not in str(caught.value)


def test_a_budget_that_is_no_uuid_needs_the_newest_generation():
    """The older generations take budgets by uuid only."""
    with pytest.raises(ConfigurationError, match="wire='lease'"):
        wire.encode(authorize(budget="team-a"), "lease_token")
    assert "team-a" == sent(authorize(budget="team-a"), "lease")["budget"]


def test_no_secret_is_in_the_repr_of_a_call():
    """The handle of a lease lets anybody cancel it, so it is not logged with its call."""
    call = wire.cancel_call(identity=ACME, handle=TOKEN, idempotency_key="k")
    assert TOKEN not in repr(call)
    assert TOKEN not in repr(wire.encode(call, "lease"))
    assert TOKEN not in repr(reply_to(200, {"data": {"lease_token": TOKEN}}))


# --- generations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "signature", "payload"),
    [("tutorial", "v1", "lease_token"), ("user", "v2", "lease_token"), ("lease", "v2", "lease")],
)
def test_presets(name: Any, signature: str, payload: str):
    """A named generation fixes signature and payload, and no answer changes them."""
    state = wire.WireState(name)
    generation = state.generation_for(authorize())
    assert wire.Generation(signature, payload) == generation  # type: ignore[arg-type]
    state.learn(authorize(), generation, reply_to(200, {"data": {"lease": "x"}}))
    assert generation == state.generation_for(authorize())
    assert state.alternative(authorize(), generation, reply_to(401, {"message": "Signature mismatch"})) is None


def test_an_unknown_wire_is_named():
    """A misspelt generation fails at once, with the names that exist."""
    with pytest.raises(ConfigurationError, match="auto, tutorial, user, lease"):
        wire.WireState("v2")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["user", "lease"])
def test_a_missing_user_is_named_where_the_wire_needs_one(name: Any):
    """Nothing is sent without the user that this generation bills."""
    with pytest.raises(ConfigurationError, match="user_id"):
        wire.WireState(name).generation_for(authorize(identity=Identity("acme")))


def test_a_gate_of_every_generation_is_signed_for_as_each_call_needs():
    """With a user the newer signature, without one the older, and nothing is learnt for the next call."""
    state = wire.WireState.per_call()
    without = authorize(identity=Identity("acme"))
    for call, signature in ((authorize(), "v2"), (without, "v1"), (authorize(), "v2")):
        generation = state.generation_for(call)
        assert (signature, "lease_token") == (generation.signature, generation.payload)
        state.learn(call, generation, reply_to(200, {"data": LEASE_DATA}))


@pytest.mark.parametrize("name", ["tutorial", "user"])
def test_preflight_is_refused_where_it_does_not_exist(name: Any):
    """Only the newest generation has a dry run."""
    call = wire.preflight_call(identity=ACME, feature_code="chat", idempotency_key="k")
    with pytest.raises(ConfigurationError, match="preflight"):
        wire.WireState(name).generation_for(call)
    assert wire.Generation("v2", "lease") == wire.WireState("auto").generation_for(call)


def test_auto_starts_with_what_the_call_allows():
    """With a user the newer signature comes first; without one only the older is possible."""
    state = wire.WireState("auto")
    assert wire.Generation("v2", "lease_token") == state.generation_for(authorize())
    assert wire.Generation("v1", "lease_token") == state.generation_for(authorize(identity=Identity("acme")))


@pytest.mark.parametrize(("handle", "payload"), [(TOKEN, "lease_token"), ("our-own-42", "lease")])
def test_auto_reads_the_generation_off_a_handle_of_an_earlier_process(handle: str, payload: str):
    """A commit may be the first thing a new process sends."""
    body = wire.leased(wire.commit_body(feature_code="chat", quantity=1), handle)
    commit = wire.commit_call(identity=ACME, body=body, idempotency_key="k")
    batch = wire.batch_call(identity=ACME, items=[(body, "i")], idempotency_key="k")
    for call in (commit, batch):
        assert payload == wire.WireState("auto").generation_for(call).payload


def test_auto_learns_from_what_passed_authentication():
    """The first lease shows the payload; the signature is known from the first answer that needed one."""
    state = wire.WireState("auto")
    state.learn(authorize(), wire.Generation("v2", "lease_token"), reply_to(402, {"code": "SERVER.CONFIG"}))
    assert ("v2", None) == (state.signature, state.payload)
    state.learn(authorize(), wire.Generation("v2", "lease_token"), reply_to(200, {"data": {"lease": "x"}}))
    assert ("v2", "lease") == (state.signature, state.payload)
    with pytest.raises(ConfigurationError, match="user_id"):
        state.generation_for(authorize(identity=Identity("acme")))
    assert "signature=v2, payload=lease" in repr(state)


def test_auto_knows_that_the_oldest_signature_has_one_payload():
    """What signs in ten lines speaks of lease tokens."""
    state = wire.WireState("auto")
    state.learn(authorize(), wire.Generation("v1", "lease_token"), reply_to(402, {}))
    assert wire.Generation("v1", "lease_token") == state.generation_for(authorize())


# --- answers --------------------------------------------------------------------------------------

LEASE_DATA = {
    "lease_token": TOKEN,
    "lease_id": "id",
    "feature_code": "chat",
    "feature_family_code": "llm",
    "window_start": "2026-01-10T00:00:00.000Z",
    "window_end": "2026-01-11T00:00:00.000Z",
}


@pytest.mark.parametrize("bare", [False, True])
def test_a_lease_is_read_from_envelope_and_bare_body(bare: bool):
    """Both forms, with hints or without, give the same lease."""
    hints = [{"type": "rate.limit", "seconds": 3, "remaining": 1}]
    body = LEASE_DATA | {"hints": hints} if bare else {"ok": True, "code": "OK", "data": LEASE_DATA, "hints": hints}
    lease = wire.parse_lease(reply_to(200, body), ACME)
    assert (TOKEN, "id", "chat", "llm", ACME) == (
        lease.handle,
        lease.lease_id,
        lease.feature_code,
        lease.feature_family_code,
        lease.identity,
    )
    assert "2026-01-11T00:00:00.000Z" == lease.window_end
    assert (Hint("rate.limit", {"seconds": 3, "remaining": 1}),) == lease.hints
    assert TOKEN not in repr(lease)


def test_a_lease_of_the_newest_generation_has_only_a_reference():
    """`lease` stands for token and id."""
    lease = wire.parse_lease(reply_to(200, {"ok": True, "data": {"lease": "L", "feature_code": "chat"}}), ACME)
    assert ("L", None, ()) == (lease.handle, lease.lease_id, lease.hints)


def test_a_commit_keeps_unknown_apart_from_zero():
    """Money is int; a meter without a price has no amount, and a price of zero has the amount zero."""
    data = {
        "commit_id": "c",
        "amount_xusd": "105",
        "budget_id": BUDGET,
        "lines": [
            {"meter_code": "a", "quantity_minor": "30", "amount_xusd": "105", "rating_status": "priced"},
            {"meter_code": "b", "quantity_minor": 4, "amount_xusd": "0"},
            {"meter_code": "c", "quantity_minor": "1", "amount_xusd": "0", "rating_status": "missing_price"},
            {"meter_code": "d", "quantity_minor": "1", "amount_xusd": True},
            {"meter_code": "e", "quantity_minor": "1", "amount_xusd": "1.5"},
        ],
    }
    commit = wire.parse_commit(reply_to(200, {"ok": True, "data": data}))
    assert ("c", 105, BUDGET, False) == (commit.commit_id, commit.amount_xusd, commit.budget_id, commit.quarantined)
    assert (CommitLine("a", 30, 105), CommitLine("b", 4, 0)) == commit.lines[:2]
    assert [None, None, None] == [line.amount_xusd for line in commit.lines[2:]]


def test_a_quarantined_commit_is_seen():
    """A success that charges nothing shows by its hints only."""
    body = {"ok": True, "data": {"commit_id": "c", "amount_xusd": "1"}, "hints": [{"type": "lease.closed_at_commit"}]}
    assert wire.parse_commit(reply_to(200, body)).quarantined


def test_a_batch_comes_back_in_the_order_of_its_items():
    """Outcomes are matched by their index."""
    items = [
        {"index": 1, "status": "invalid", "error": {"type": "WRITE.INVALID_PAYLOAD", "details": "no"}},
        {"index": 0, "status": "committed", "commit": {"commit_id": "c", "amount_xusd": "5", "lines": []}},
    ]
    first, second = wire.parse_batch(reply_to(200, {"ok": True, "data": {"items": items}}), 2)
    assert (0, "committed", 5) == (first.index, first.status, first.commit and first.commit.amount_xusd)
    assert (1, "invalid", None, "WRITE.INVALID_PAYLOAD", "no") == (
        second.index,
        second.status,
        second.commit,
        second.error_type,
        second.error_details,
    )


def test_a_poisoned_batch_committed_nothing():
    """One item that broke in the database took the others with it, although the gate calls them committed."""
    items = [
        {"index": 0, "status": "committed", "commit": {"commit_id": "never", "amount_xusd": "5"}},
        {"index": 1, "status": "failed", "error": {"type": "SERVER.ERROR", "details": "x"}},
        {"index": 2, "status": "invalid", "error": {"type": "WRITE.INVALID_PAYLOAD"}},
    ]
    outcomes = wire.parse_batch(reply_to(200, {"ok": True, "data": {"items": items}}), 3)
    assert ["failed", "failed", "invalid"] == [o.status for o in outcomes]
    assert [wire.ROLLED_BACK, "SERVER.ERROR", "WRITE.INVALID_PAYLOAD"] == [o.error_type for o in outcomes]
    assert [None, None, None] == [o.commit for o in outcomes]


@pytest.mark.parametrize("items", [None, [], [{"index": 0, "status": "committed"}], [{"index": 5}, {"index": 0}]])
def test_a_batch_that_leaves_items_out_is_no_answer(items: Any):
    """An item nobody spoke of must not pass for settled."""
    with pytest.raises(GateProtocolError, match="outcomes"):
        wire.parse_batch(reply_to(200, {"ok": True, "data": {"items": items}}), 2)


def test_preflight_and_limits_are_read():
    """The remaining verbs give values too."""
    preflight = wire.parse_preflight(reply_to(200, {"ok": True, "data": LEASE_DATA}))
    assert ("chat", "llm") == (preflight.feature_code, preflight.feature_family_code)
    entry = {"feature_code": "chat", "unit": "token", "quotas": [{"limit_minor": "-1"}], "meters": ["chat", {"x": 1}]}
    for data in ([entry, {"no": "code"}], {"items": [entry]}):
        (limits,) = wire.parse_limits(reply_to(200, {"ok": True, "data": data}))
        assert ("chat", "token", ({"limit_minor": "-1"},), ()) == (
            limits.feature_code,
            limits.unit,
            limits.quotas,
            limits.rates,
        )
        assert ({"meter_code": "chat"}, {"x": 1}) == limits.meters
    assert wire.parse_cancel(reply_to(200, {"ok": True, "data": {"cancelled": False}})) is False


@pytest.mark.parametrize(
    "parse",
    [
        lambda reply: wire.parse_lease(reply, ACME),
        wire.parse_commit,
        wire.parse_cancel,
        wire.parse_preflight,
        wire.parse_limits,
        lambda reply: wire.parse_batch(reply, 1),
    ],
)
@pytest.mark.parametrize(
    "body", [{}, {"ok": True}, {"ok": True, "data": None}, {"data": "x"}, {"data": {"y": 1}}, [[]]]
)
def test_a_success_without_its_essentials_is_no_answer(parse: Any, body: Any):
    """An empty success never counts as a lease or a settlement."""
    reply = reply_to(200, body)
    if parse is wire.parse_limits and body == [[]]:
        assert [] == parse(reply)
        return
    with pytest.raises(GateProtocolError, match="200"):
        parse(reply)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{", b"\xff\xfe", b"null"])
def test_a_success_without_json_is_none(content: bytes):
    """The page of a proxy with status 200 is not a yes."""
    reply = reply_to(200, content)
    assert not reply.ok
    assert isinstance(wire.judge(authorize(), reply, request_id="r"), GateProtocolError)


@given(
    st.integers(100, 599),
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["ok", "data", "hints", "error", "code", "message", "items", "type", "retry_after"]),
                inner,
            )
        ),
        max_leaves=12,
    ),
)
def test_no_answer_breaks_the_reader(status: int, body: Any):
    """Whatever JSON comes, reading and judging it never fail in an unforeseen way."""
    reply = reply_to(status, body)
    if reply.ok:
        for parse in (wire.parse_commit, wire.parse_cancel, wire.parse_limits, wire.parse_preflight):
            try:
                parse(reply)
            except GateProtocolError:
                continue
    else:
        assert isinstance(wire.judge(authorize(), reply, request_id="r"), VlunaError)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (402, {"code": "SERVER.CONFIG", "message": "grant balance exhausted"}, "funding"),
        (402, {"code": "SERVER.CONFIG", "message": "quota limit exhausted"}, "quota"),
        (402, {"code": "BUDGET.EXHAUSTED", "message": "x"}, "budget"),
        (402, {"message": "budget has no headroom"}, "budget"),
        (402, {"code": "SERVER.CONFIG", "hints": [{"type": "funding.xusd_shortfall", "shortfall_xusd": 1}]}, "funding"),
        (402, {"hints": [{"type": "quota.remaining", "max_quantity_minor": 0}]}, "quota"),
        (402, {"code": "PAYMENT.SOMETHING", "message": "new"}, "unknown"),
        (402, {}, "unknown"),
        (403, {"code": "ENTITLEMENT.REQUIRED"}, "entitlement"),
        (429, {"code": "LIMIT.RATE_EXCEEDED"}, "rate"),
        (429, {}, "rate"),
    ],
)
def test_denials_have_their_reason(status: int, body: Any, reason: str):
    """The status decides that it is a denial; code, message and hints, in this order, say why."""
    error = judged(status, **body)
    assert isinstance(error, GateDenied)
    assert reason == error.reason


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, {"code": "VALIDATION.INVALID_INPUT", "message": "missing_realm"}, "VLUNA_REALM_ID"),
        (401, {"code": "AUTH.INVALID_SERVICE_SIGNATURE", "message": "Signature mismatch"}, "VLUNA_SERVICE_KEY_SECRET"),
        (401, {"code": "AUTH.INVALID_SERVICE_SIGNATURE", "message": "Signature mismatch"}, "`wire`"),
        (401, {"code": "AUTH.SERVICE_KEY_NOT_FOUND"}, "VLUNA_SERVICE_KEY_ID"),
        (401, {"code": "AUTH.MISSING_RUNTIME_BINDINGS"}, "user_id"),
        (401, {"code": "AUTH.MISSING_SERVICE_BINDINGS"}, "principal_id"),
        (401, {}, "credentials"),
        (403, {"code": "AUTH.SERVICE_KEY_REALM_FORBIDDEN"}, "realm"),
        (403, {"code": "AUTH.SERVICE_KEY_DISABLED"}, "disabled"),
        (403, {}, "rights"),
        (404, {"code": "AUTH.UNKNOWN_REALM"}, "realm"),
        (404, {"message": "Cannot POST /x"}, "VLUNA_SERVICE_BASE_URL"),
        (413, {"message": "Request body is too large"}, "too large"),
        (418, {}, "refuses"),
        (422, {"code": "RESOURCE.NOT_FOUND", "message": "feature not found"}, "feature not found"),
        (431, {}, "headers"),
        (302, {}, "redirect"),
    ],
)
def test_rejections_name_what_to_change(status: int, body: Any, says: str):
    """Everything that is neither denial nor outage is a rejection with a remedy."""
    error = judged(status, **body)
    assert type(error) is GateRejected
    assert says in str(error)


@pytest.mark.parametrize("message", ["idempotency_conflict", "idempotency conflict"])
def test_a_reused_key_is_a_conflict(message: str):
    """409 says that the key stands for something else."""
    assert isinstance(judged(409, code="WRITE.INVALID_PAYLOAD", message=message), IdempotencyConflict)


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"code":"SERVER.UNEXPECTED"}'])
def test_a_failing_gate_is_unavailable_and_its_outcome_unknown(body: bytes):
    """A 5xx is an outage whatever its body, and may have had an effect."""
    error = wire.judge(authorize(), reply_to(502, body), request_id="r")
    assert isinstance(error, GateUnavailable)
    assert error.outcome_unknown


def test_an_error_carries_what_is_needed_to_act():
    """Status, code, hints, key, feature, principal and request id are on the error, and in its words."""
    hint = {"type": "funding.xusd_shortfall", "shortfall_xusd": 7}
    error = judged(402, code="SERVER.CONFIG", message="grant balance exhausted", hints=[hint])
    assert (402, "SERVER.CONFIG", (Hint("funding.xusd_shortfall", {"shortfall_xusd": 7}),)) == (
        error.status,
        error.code,
        error.hints,
    )
    assert ("k", "chat", "acme", "r" * 32) == (
        error.idempotency_key,
        error.feature_code,
        error.principal_id,
        error.request_id,
    )
    assert (
        "authorize of 'chat' for principal 'acme' denied (funding): the balance is used up; top it up"
        " [402 SERVER.CONFIG 'grant balance exhausted']"
    ) == str(error)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, {"hints": [{"type": "rate.limit", "seconds": 7, "until": "2026-01-10T00:00:09.000Z"}]}, 7.0),
        ({"retry-after": "99"}, {"hints": [{"type": "rate.limit", "seconds": 7}]}, 7.0),
        ({}, {"hints": [{"type": "rate.limit", "until": "2026-01-10T00:00:09.500Z"}]}, 9.5),
        ({}, {"hints": [{"type": "rate.limit", "until": "2026-01-09T00:00:00.000Z"}]}, 0.0),
        ({"retry-after": "3"}, {}, 3.0),
        ({"retry-after": "Sat, 10 Jan 2026 00:00:05 GMT"}, {}, 5.0),
        ({}, {"error": {"type": "rate", "retry_after": 4}}, 4.0),
        ({}, {"type": "rate", "retry_after": 4}, 4.0),
        ({"retry-after": "soon"}, {}, None),
        ({"retry-after": "inf"}, {}, None),
        ({"retry-after": "-3"}, {}, 0.0),
        ({}, {"hints": [{"type": "rate.limit", "seconds": True}]}, None),
        ({}, {"hints": "x", "error": "y"}, None),
    ],
)
def test_advice_on_waiting_is_found_wherever_it_is(headers: Any, body: Any, seconds: float | None):
    """The hint comes first, then the header, then the error object; nonsense is no advice."""
    assert seconds == reply_to(429, body, headers).retry_after


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_point_in_time_becomes_the_seconds_until_it(ahead: timedelta):
    """`until` counts from the caller's clock."""
    until = (NOW + ahead).isoformat()
    reply = reply_to(429, {"hints": [{"type": "rate.limit", "until": until}]})
    assert reply.retry_after is not None
    assert math.isclose(ahead.total_seconds(), reply.retry_after, abs_tol=1e-6)
