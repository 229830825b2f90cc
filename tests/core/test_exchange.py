"""One call, driven by hand: what it sends, what it waits for, and when it gives up."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core import signing, wire
from langchain_vluna._core.config import RetryPolicy, Settings, Wire
from langchain_vluna._core.errors import (
    ConfigurationError,
    GateDenied,
    GateProtocolError,
    GateRejected,
    GateUnavailable,
    IdempotencyConflict,
    TransportFailure,
    VlunaError,
)
from langchain_vluna._core.exchange import Endpoint, Flow, Send, Sources, Wait, backoff, exchange
from langchain_vluna._core.types import Call, HttpRequest, HttpResponse, Identity
from tests.support.scripted_transport import answer, mismatch, refusal

SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SETTINGS = Settings(
    base_url="https://gate.example/mgt/v1",
    realm_id="realm",
    service_key_id="pk",
    service_key_secret=SECRET,  # type: ignore[arg-type]
)
ACME = Identity("acme", "u1")
TOKEN = "lease.0b7e6c1e-5f0a-4c3e-9f57-8b1f4a2d9c11.9f8e7d6c5b4a3f2e"
GRANTED = answer({"lease_token": TOKEN, "feature_code": "chat"})
LOST = TransportFailure("connection reset", sent=True)
UNSENT = TransportFailure("connection refused", sent=False)
Reaction = HttpResponse | TransportFailure


class World:
    """Time that passes only while a flow waits, and nonces that count."""

    def __init__(self) -> None:
        self.now = 0.0
        counter = itertools.count(1)
        self.sources = Sources(
            clock=lambda: datetime(2026, 1, 10, tzinfo=UTC) + timedelta(seconds=self.now),
            monotonic=lambda: self.now,
            nonce=lambda: f"{next(counter):032x}",
            random=lambda: 1.0,
        )
        self.requests: list[HttpRequest] = []
        self.waits: list[float] = []

    def play(self, flow: Flow[wire.Reply], script: Iterator[Reaction], seconds: float = 0.0) -> wire.Reply:
        """Run `flow` against `script`; each attempt takes `seconds`."""
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Send):
                    self.requests.append(effect.request)
                    self.now += min(seconds, effect.request.timeout)
                    reaction = next(script)
                    effect = flow.throw(reaction) if isinstance(reaction, TransportFailure) else flow.send(reaction)
                else:
                    assert isinstance(effect, Wait)
                    self.waits.append(effect.seconds)
                    self.now += effect.seconds
                    effect = next(flow)
        except StopIteration as stop:
            reply: wire.Reply = stop.value
            return reply


def authorize(**overrides: Any) -> Call:
    fields: dict[str, Any] = {"identity": ACME, "feature_code": "chat", "idempotency_key": "key-1"}
    return wire.authorize_call(**fields | overrides)


def commit(handle: str = TOKEN, identity: Identity = ACME) -> Call:
    body = wire.leased(wire.commit_body(feature_code="chat", quantity=3), handle)
    return wire.commit_call(identity=identity, body=body, idempotency_key="key-2")


def play(
    *script: Reaction,
    call: Call | None = None,
    name: Wire = "user",
    state: wire.WireState | None = None,
    policy: RetryPolicy | None = None,
    timeout: float = 10.0,
    seconds: float = 0.0,
) -> tuple[World, wire.Reply | VlunaError]:
    world = World()
    flow = exchange(
        call or authorize(),
        endpoint=Endpoint.of(SETTINGS),
        state=state or wire.WireState(name),
        sources=world.sources,
        policy=policy or RetryPolicy(),
        timeout=timeout,
    )
    reactions = iter(script)
    try:
        outcome: wire.Reply | VlunaError = world.play(flow, reactions, seconds)
    except VlunaError as error:
        outcome = error
    assert [] == list(reactions), "the flow ended before the script did"
    return world, outcome


def version_of(request: HttpRequest) -> str:
    """Which generation signed; fails when neither did."""
    parts = signing.parse_authorization(request.headers["authorization"])
    assert parts is not None
    versions: tuple[signing.SignatureVersion, ...] = ("v1", "v2")
    for version in versions:
        canonical = signing.canonical_string(
            version,
            method=request.method,
            target=request.target,
            ts=parts.ts,
            nonce=parts.nonce,
            content_digest=signing.content_digest(request.content),
            content_type=request.headers["content-type"],
            realm_id=request.headers["x-realm-id"],
            principal_id=request.headers["x-principal-id"],
            user_id=request.headers.get("x-user-id"),
            idempotency_key=request.headers.get("idempotency-key"),
        )
        if signing.verify(SECRET, canonical, parts.signature):
            return version
    pytest.fail("the signature is of no generation")


# --- what is sent ---------------------------------------------------------------------------------


def test_a_request_is_complete():
    """Path with prefix, all headers of the contract, the body's digest, and the seconds that are left."""
    world, outcome = play(GRANTED)
    (request,) = world.requests
    assert isinstance(outcome, wire.Reply)
    assert ("POST", "/mgt/v1/gate/authorize", 10.0) == (request.method, request.target, request.timeout)
    assert {"feature_code": "chat"} == json.loads(request.content)
    headers = dict(request.headers)
    parts = signing.parse_authorization(headers.pop("authorization"))
    assert parts is not None
    assert ("pk", "2026-01-10T00:00:00+00:00", f"{2:032x}") == (parts.key_id, parts.ts, parts.nonce)
    assert {
        "content-digest": signing.content_digest(request.content),
        "content-type": "application/json; charset=utf-8",
        "x-realm-id": "realm",
        "x-principal-id": "acme",
        "x-user-id": "u1",
        "idempotency-key": "key-1",
        "x-request-id": f"{1:032x}",
    } == headers


@pytest.mark.parametrize(("name", "version"), [("tutorial", "v1"), ("user", "v2"), ("lease", "v2")])
def test_each_generation_signs_its_own_way(name: Wire, version: str):
    """The older signature leaves the user out, in text and headers."""
    world, _ = play(GRANTED, name=name)
    assert version == version_of(world.requests[0])
    assert (version == "v2") == ("x-user-id" in world.requests[0].headers)


def test_a_get_signs_the_query_and_has_no_key():
    """What is signed is the raw target; there is nothing to make idempotent."""
    call = wire.limits_call(identity=ACME, feature_code="chat", expand=["quotas"])
    world, _ = play(answer([]), call=call)
    (request,) = world.requests
    assert ("GET", "/mgt/v1/gate/limits?feature_code=chat&expand=quotas", b"") == (
        request.method,
        request.target,
        request.content,
    )
    assert "idempotency-key" not in request.headers
    assert "v2" == version_of(request)


def test_attempts_repeat_the_bytes_and_renew_the_signature():
    """Key, body and request id stay; timestamp, nonce and signature are new, and each verifies."""
    world, _ = play(LOST, refusal(500), GRANTED)
    assert 3 == len(world.requests)
    assert 1 == len({request.content for request in world.requests})
    for name, distinct in {"idempotency-key": 1, "x-request-id": 1, "content-digest": 1, "authorization": 3}.items():
        assert distinct == len({request.headers[name] for request in world.requests}), name
    parts = [signing.parse_authorization(request.headers["authorization"]) for request in world.requests]
    assert 3 == len({part.nonce for part in parts if part})
    assert 3 == len({part.ts for part in parts if part})
    assert ["v2"] * 3 == [version_of(request) for request in world.requests]


def test_secrets_are_in_no_repr():
    """Neither the key, the signature nor the handle show when effects and endpoints are logged."""
    endpoint = Endpoint.of(SETTINGS)
    world, _ = play(answer({"commit_id": "c"}), call=commit())
    shown = repr(endpoint) + repr(Send(world.requests[0])) + repr(SETTINGS)
    raw = signing.decode_secret(SECRET)
    for secret in (SECRET, repr(raw), TOKEN, "sig="):
        assert secret not in shown


def test_a_bad_secret_fails_before_anything_is_sent():
    """An endpoint cannot be made of a secret that is not base64."""
    bad = SETTINGS.model_copy(update={"service_key_secret": type(SETTINGS.service_key_secret)("not base64!")})
    with pytest.raises(ConfigurationError, match="VLUNA_SERVICE_KEY_SECRET"):
        Endpoint.of(bad)


def test_a_missing_user_fails_before_anything_is_sent():
    """The call ends in a configuration error and not in a 401."""
    world, outcome = play(call=authorize(identity=Identity("acme")))
    assert isinstance(outcome, ConfigurationError)
    assert [] == world.requests


def test_cancel_sends_nothing_where_there_is_no_cancel():
    """In the newest generation a lease just expires; the answer is that nothing was cancelled."""
    world, outcome = play(call=wire.cancel_call(identity=ACME, handle="L", idempotency_key="k"), name="lease")
    assert isinstance(outcome, wire.Reply)
    assert wire.parse_cancel(outcome) is False
    assert [] == world.requests


# --- what is tried again --------------------------------------------------------------------------

FINAL = [
    (refusal(400, message="missing_realm"), GateRejected),
    (refusal(401, "AUTH.SERVICE_KEY_NOT_FOUND"), GateRejected),
    (mismatch(), GateRejected),
    (refusal(402, "SERVER.CONFIG", "grant balance exhausted"), GateDenied),
    (refusal(402, "SERVER.CONFIG", "quota limit exhausted"), GateDenied),
    (refusal(403, "ENTITLEMENT.REQUIRED"), GateDenied),
    (refusal(403, "AUTH.SERVICE_KEY_DISABLED"), GateRejected),
    (refusal(404, "RESOURCE.NOT_FOUND"), GateRejected),
    (refusal(409, "WRITE.INVALID_PAYLOAD", "idempotency_conflict"), IdempotencyConflict),
    (refusal(413), GateRejected),
    (refusal(422, "RESOURCE.NOT_FOUND", "feature not found"), GateRejected),
    (refusal(431), GateRejected),
    (HttpResponse(302, {"location": "https://elsewhere"}, b""), GateRejected),
    (HttpResponse(200, {}, b"<html>"), GateProtocolError),
    (HttpResponse(200, {}, b'{"ok": false}'), GateProtocolError),
]


@pytest.mark.parametrize(("reaction", "kind"), FINAL)
def test_other_refusals_are_final(reaction: HttpResponse, kind: type[VlunaError]):
    """They would not heal: one request, no wait, and the error that fits."""
    world, outcome = play(reaction)
    assert kind is type(outcome)
    assert (1, []) == (len(world.requests), world.waits)


@pytest.mark.parametrize(
    "reaction", [LOST, UNSENT, refusal(500), refusal(429), HttpResponse(502, {}, b"<html>"), HttpResponse(503, {}, b"")]
)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_may_heal_is_tried_again(reaction: Reaction, times: int):
    """A new principal's first 500, a lost answer and a full window heal within the budget."""
    world, outcome = play(*[reaction] * times, GRANTED)
    assert isinstance(outcome, wire.Reply)
    assert [0.1, 0.2, 0.4][:times] == world.waits


@pytest.mark.parametrize(
    ("reaction", "kind"), [(LOST, GateUnavailable), (refusal(500), GateUnavailable), (refusal(429), GateDenied)]
)
def test_attempts_are_bounded(reaction: Reaction, kind: type[VlunaError]):
    """After the last attempt there is no wait, only the error."""
    world, outcome = play(*[reaction] * 3, policy=RetryPolicy(attempts=3))
    assert kind is type(outcome)
    assert (3, 2) == (len(world.requests), len(world.waits))


def test_a_full_rate_window_is_a_denial_in_the_end():
    """429 beyond the budget says `rate`, with what the gate advised."""
    busy = refusal(429, "LIMIT.RATE_EXCEEDED", hints=[{"type": "rate.limit", "seconds": 1, "remaining": 0}])
    world, outcome = play(busy, busy, policy=RetryPolicy(attempts=2))
    assert isinstance(outcome, GateDenied)
    assert ("rate", 1.0, 429) == (outcome.reason, outcome.retry_after, outcome.status)
    assert [1.1] == world.waits


@pytest.mark.parametrize(
    "reaction",
    [
        refusal(429, hints=[{"type": "rate.limit", "seconds": 3}]),
        refusal(429, headers={"retry-after": "3"}),
        refusal(503, headers={"retry-after": "3"}),
        refusal(429, error={"retry_after": 3}),
    ],
)
def test_advice_beyond_the_longest_wait_ends_the_call_at_once(reaction: HttpResponse):
    """Nobody is kept waiting for a window that opens too late; the error says when it does."""
    world, outcome = play(reaction, policy=RetryPolicy(maximum=2.0))
    assert isinstance(outcome, VlunaError)
    assert 3.0 == outcome.retry_after
    assert (1, []) == (len(world.requests), world.waits)


def test_the_advice_of_the_gate_comes_first():
    """The wait is never shorter than what the gate asked for."""
    busy = refusal(429, hints=[{"type": "rate.limit", "seconds": 2}])
    world, _ = play(busy, GRANTED, policy=RetryPolicy(maximum=5.0))
    assert [2.1] == world.waits


@pytest.mark.parametrize(
    ("script", "unknown"),
    [
        ([UNSENT, UNSENT], False),
        ([UNSENT, LOST], True),
        ([LOST, UNSENT], True),
        ([refusal(500), UNSENT], True),
        ([refusal(429), UNSENT], True),
        ([UNSENT, refusal(500)], True),
    ],
)
def test_the_outcome_is_unknown_once_anything_may_have_arrived(script: list[Reaction], unknown: bool):
    """Only when no attempt can have reached the gate is it certain that nothing happened."""
    _, outcome = play(*script, policy=RetryPolicy(attempts=2))
    assert isinstance(outcome, GateUnavailable)
    assert unknown == outcome.outcome_unknown
    assert "key-1" == outcome.idempotency_key
    assert f"{1:032x}" == outcome.request_id


# --- the deadline ---------------------------------------------------------------------------------


def test_attempts_get_the_seconds_that_are_left():
    """Each attempt may take what earlier ones and their waits did not."""
    world, _ = play(LOST, LOST, GRANTED, timeout=5.0, seconds=1.0)
    assert [5.0, 3.9, 2.7] == [round(request.timeout, 6) for request in world.requests]


def test_a_wait_that_would_outlast_the_deadline_is_not_begun():
    """The caller learns of the failure at once."""
    world, outcome = play(LOST, timeout=1.0, seconds=0.95)
    assert isinstance(outcome, GateUnavailable)
    assert [] == world.waits


def test_a_batch_gets_more_time():
    """The gate works through a batch item by item."""
    body = wire.leased(wire.commit_body(feature_code="chat", quantity=1), TOKEN)
    call = wire.batch_call(identity=ACME, items=[(body, f"i{n}") for n in range(100)], idempotency_key="k")
    world, _ = play(answer({"items": []}), call=call, timeout=1.0)
    assert 6.0 == world.requests[0].timeout


REACTIONS = st.sampled_from(
    [LOST, UNSENT, GRANTED, refusal(500), refusal(429), mismatch(), refusal(402, message="quota"), refusal(422)]
    + [refusal(429, hints=[{"type": "rate.limit", "seconds": n}]) for n in (0, 1, 5)]
)


@given(
    script=st.lists(REACTIONS, min_size=12, max_size=12),
    attempts=st.integers(1, 6),
    timeout=st.floats(0.1, 20),
    seconds=st.floats(0, 5),
    name=st.sampled_from(["auto", "tutorial", "user", "lease"]),
)
def test_every_call_ends_within_its_bounds(
    script: list[Reaction], attempts: int, timeout: float, seconds: float, name: Wire
):
    """Whatever the gate does: at most `attempts` requests and one probe, and never past the deadline."""
    world = World()
    flow = exchange(
        authorize(),
        endpoint=Endpoint.of(SETTINGS),
        state=wire.WireState(name),
        sources=world.sources,
        policy=RetryPolicy(attempts=attempts),
        timeout=timeout,
    )
    with contextlib.suppress(GateDenied, GateUnavailable, GateRejected):
        assert world.play(flow, iter(script), seconds).ok
    assert len(world.requests) <= attempts + (name == "auto")
    assert world.now <= timeout + 1e-9
    assert 1 == len({(r.headers["idempotency-key"], r.headers["x-request-id"], r.content) for r in world.requests})
    assert len(world.requests) == len({r.headers["authorization"] for r in world.requests})


@given(
    tries=st.integers(1, 40),
    initial=st.floats(0, 5),
    maximum=st.floats(0, 60),
    advised=st.none() | st.floats(0, 100),
    seed=st.integers(0, 2**32),
)
def test_backoff_is_bounded_and_never_below_the_advice(
    tries: int, initial: float, maximum: float, advised: float | None, seed: int
):
    """Waits lie between the advice and the longest wait; longer advice means giving up."""
    policy = RetryPolicy(initial=initial, maximum=maximum)
    wait = backoff(policy, tries, advised, random.Random(seed).random())
    if advised is not None and advised > maximum:
        assert wait is None
    else:
        assert wait is not None
        assert (advised or 0.0) <= wait <= maximum


def test_backoff_doubles_and_jitters_over_its_upper_half():
    """Clients that failed together do not come back together."""
    policy = RetryPolicy(initial=0.1, maximum=100)
    assert [0.05, 0.1, 0.2, 0.4] == [backoff(policy, tries, None, 0.0) for tries in (1, 2, 3, 4)]
    assert [0.1, 0.2, 0.4, 0.8] == [backoff(policy, tries, None, 1.0) for tries in (1, 2, 3, 4)]


# --- finding the generation -----------------------------------------------------------------------


def test_auto_tries_the_other_signature_once_and_remembers_it():
    """One more request at the first call, none at the next; the bytes and the key stay the same."""
    state = wire.WireState("auto")
    world, outcome = play(mismatch(), GRANTED, state=state)
    assert isinstance(outcome, wire.Reply)
    assert ["v2", "v1"] == [version_of(request) for request in world.requests]
    assert 1 == len({request.content for request in world.requests})
    assert [] == world.waits
    world, _ = play(GRANTED, state=state)
    assert ["v1"] == [version_of(request) for request in world.requests]


def test_the_probe_is_not_counted_as_an_attempt():
    """A gate that was mistaken for another still gets all its attempts."""
    world, outcome = play(mismatch(), refusal(500), GRANTED, name="auto", policy=RetryPolicy(attempts=2))
    assert isinstance(outcome, wire.Reply)
    assert ["v2", "v1", "v1"] == [version_of(request) for request in world.requests]


def test_a_second_mismatch_names_the_secret_and_the_generation():
    """When neither signature is accepted, it is the secret, most likely."""
    world, outcome = play(mismatch(), mismatch(), name="auto")
    assert isinstance(outcome, GateRejected)
    assert "VLUNA_SERVICE_KEY_SECRET" in str(outcome)
    assert "wire" in str(outcome)
    assert SECRET not in str(outcome)
    assert 2 == len(world.requests)


def test_without_a_user_only_the_older_signature_is_possible():
    """The refusal says that the newer one needs a user."""
    world, outcome = play(mismatch(), name="auto", call=authorize(identity=Identity("acme")))
    assert isinstance(outcome, GateRejected)
    assert "user_id" in str(outcome)
    assert ["v1"] == [version_of(request) for request in world.requests]


def test_a_gate_that_moved_on_is_found_again():
    """A gate of the first generation may be upgraded under a running process."""
    state = wire.WireState("auto")
    play(mismatch(), GRANTED, state=state)
    world, outcome = play(mismatch(), GRANTED, state=state)
    assert isinstance(outcome, wire.Reply)
    assert ["v1", "v2"] == [version_of(request) for request in world.requests]
    assert "v2" == state.signature


@pytest.mark.parametrize("reaction", [refusal(401, "AUTH.UNAUTHORIZED", "invalid_token"), refusal(403), refusal(400)])
def test_other_refusals_do_not_start_a_probe(reaction: HttpResponse):
    """Only the one answer that a wrong generation gets is worth a second request."""
    world, _ = play(reaction, name="auto")
    assert 1 == len(world.requests)


def test_auto_follows_the_payload_of_the_first_lease():
    """After a lease of the newest generation, commits carry its reference under the new name."""
    state = wire.WireState("auto")
    play(answer({"lease": TOKEN, "feature_code": "chat"}), state=state)
    world, _ = play(answer({"commit_id": "c", "amount_xusd": "1"}), state=state, call=commit())
    assert TOKEN == json.loads(world.requests[0].content)["lease"]
    assert "lease_token" not in json.loads(world.requests[0].content)


def test_a_budget_that_may_not_have_been_looked_at_is_no_yes():
    """The first lease of an unforeseen generation is refused to the caller, the next call is right."""
    state = wire.WireState("auto")
    call = authorize(budget="6f1c1a52-0c0f-4e38-9a8e-6c8a1f4b0001")
    lease = answer({"lease": "L", "feature_code": "chat"})
    _, outcome = play(lease, state=state, call=call)
    assert isinstance(outcome, GateProtocolError)
    assert "wire='lease'" in str(outcome)
    world, outcome = play(lease, state=state, call=call)
    assert isinstance(outcome, wire.Reply)
    assert {"feature_code", "budget"} == json.loads(world.requests[0].content).keys()


def test_a_stored_commit_finds_its_generation_when_its_handle_misleads():
    """A commit from an earlier process that is refused for its form goes out once in the other form."""
    state = wire.WireState("auto")
    refused = refusal(422, "VALIDATION.INVALID_INPUT", "lease is required")
    world, outcome = play(refused, answer({"commit_id": "c"}), state=state, call=commit())
    assert isinstance(outcome, wire.Reply)
    assert ["lease_token", "lease"] == [next(iter(json.loads(r.content))) for r in world.requests]
    assert "lease" == state.payload


def test_a_stored_commit_refused_in_both_forms_reports_the_first():
    """The refusal of the likelier form is the one that means something."""
    first = refusal(422, "RESOURCE.NOT_FOUND", "lease not found")
    second = refusal(422, "VALIDATION.INVALID_INPUT", "lease_token is required")
    world, outcome = play(first, second, name="auto", call=commit())
    assert isinstance(outcome, GateRejected)
    assert "lease not found" in str(outcome)
    assert 2 == len(world.requests)


def test_a_known_payload_is_not_probed():
    """Once the generation is known, a refused commit is simply refused."""
    state = wire.WireState("auto")
    play(GRANTED, state=state)
    world, outcome = play(refusal(422, message="lease not found"), state=state, call=commit())
    assert isinstance(outcome, GateRejected)
    assert 1 == len(world.requests)
