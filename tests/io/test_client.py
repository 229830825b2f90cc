"""Verbs and drivers: the same behaviour in both colours, from one definition."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import json
import sys
import threading
import uuid
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any

import pytest

from langchain_vluna._core.config import RetryPolicy, Settings
from langchain_vluna._core.errors import (
    ConfigurationError,
    GateDenied,
    GateProtocolError,
    GateUnavailable,
    TransportFailure,
)
from langchain_vluna._core.exchange import Effect, Flow, Join, Send, Wait
from langchain_vluna._core.types import BatchItem, HttpRequest, Identity, Lease
from langchain_vluna._io.client import Client, Verbs, adrive, drive, system_sources
from langchain_vluna._io.client.turnstile import Turnstiles
from tests.support.scripted_transport import Answer, ScriptedTransport, answer, mismatch, refusal

SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SETTINGS = Settings(
    base_url="https://gate.example/mgt/v1",
    realm_id="realm",
    service_key_id="pk",
    service_key_secret=SECRET,  # type: ignore[arg-type]
)
TOKEN = "lease.0b7e6c1e-5f0a-4c3e-9f57-8b1f4a2d9c11.9f8e7d6c5b4a3f2e"
LEASE = Lease(TOKEN, "chat", Identity("acme", "u1"))
GRANTED = answer({"lease_token": TOKEN, "feature_code": "chat", "lease_id": "id"})
COMMITTED = answer({"commit_id": "c", "amount_xusd": "105", "lines": []})
REQUEST = HttpRequest("POST", "/x", {}, b"", 1.0)
Colour = Callable[..., Any]


def blocking_colour(target: Any, verb: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(target, verb)(*args, **kwargs)


def async_colour(target: Any, verb: str, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(getattr(target, f"a{verb}")(*args, **kwargs))


colours = pytest.mark.parametrize(
    "do", [pytest.param(blocking_colour, id="sync"), pytest.param(async_colour, id="async")]
)


class Drivers:
    """Both drivers, shaped as a verb and its twin."""

    def __init__(self, *script: Answer) -> None:
        self.transport = ScriptedTransport(*script)
        self.waits: list[float] = []

    def drive(self, flow: Flow[Any]) -> Any:
        return drive(flow, self.transport, self.waits.append)

    async def adrive(self, flow: Flow[Any]) -> Any:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return await adrive(flow, self.transport, sleep, Turnstiles().turn)


def client(*script: Answer, **options: Any) -> tuple[Client, ScriptedTransport, list[float]]:
    transport = ScriptedTransport(*script)
    waits: list[float] = []

    async def asleep(seconds: float) -> None:
        waits.append(seconds)

    made = Client(transport, SETTINGS, sleep=waits.append, asleep=asleep, **{"wire": "user", **options})
    return made, transport, waits


# --- verbs ----------------------------------------------------------------------------------------


@colours
def test_authorize_returns_a_lease(do: Colour):
    """Everything asked is sent, and the lease remembers whose it is."""
    gate, transport, _ = client(GRANTED)
    lease = do(
        gate,
        "authorize",
        feature_code="chat",
        principal_id="acme",
        user_id="u1",
        feature_family_code="llm",
        estimated_quantity=12,
        budget=str(uuid.UUID(int=1)),
        labels={"a": "b"},
        idempotency_key="k",
    )
    assert (TOKEN, "chat", Identity("acme", "u1"), "id") == (
        lease.handle,
        lease.feature_code,
        lease.identity,
        lease.lease_id,
    )
    assert [
        {
            "feature_code": "chat",
            "feature_family_code": "llm",
            "estimated_quantity_minor": "12",
            "budget_id": str(uuid.UUID(int=1)),
            "labels": {"a": "b"},
        }
    ] == transport.bodies
    assert "k" == transport.requests[0].headers["idempotency-key"]


@colours
def test_commit_charges_the_lease(do: Colour):
    """Feature, handle and identity come from the lease."""
    gate, transport, _ = client(COMMITTED)
    commit = do(gate, "commit", LEASE, quantity=30, meters={"chat.input": 30}, labels={"a": "b"})
    assert ("c", 105, False) == (commit.commit_id, commit.amount_xusd, commit.quarantined)
    assert [
        {
            "lease_token": TOKEN,
            "feature_code": "chat",
            "quantity_minor": "30",
            "meters": [{"meter_code": "chat.input", "quantity_minor": "30"}],
            "labels": {"a": "b"},
        }
    ] == transport.bodies
    assert ("acme", "u1") == (
        transport.requests[0].headers["x-principal-id"],
        transport.requests[0].headers["x-user-id"],
    )


@colours
@pytest.mark.parametrize("cancelled", [True, False])
def test_cancel_tells_whether_the_lease_was_active(do: Colour, cancelled: bool):
    """A lease that was settled before is not an error."""
    gate, transport, _ = client(answer({"cancelled": cancelled, "released_cap": "0"}))
    assert cancelled is do(gate, "cancel", LEASE)
    assert [{"lease_token": TOKEN}] == transport.bodies


@colours
def test_cancel_sends_nothing_in_the_newest_generation(do: Colour):
    """There is no cancel there: the lease expires."""
    gate, transport, _ = client(wire="lease")
    assert do(gate, "cancel", LEASE) is False
    assert [] == transport.requests


@colours
def test_ingest_charges_without_a_lease(do: Colour):
    """Time and metadata go along."""
    gate, transport, _ = client(COMMITTED)
    commit = do(
        gate,
        "ingest",
        feature_code="chat",
        principal_id="acme",
        user_id="u1",
        meters={"chat.input": 3},
        occurred_at=datetime(2026, 1, 10, tzinfo=UTC),
        metadata={"why": "late"},
    )
    assert 105 == commit.amount_xusd
    assert [
        {
            "feature_code": "chat",
            "meters": [{"meter_code": "chat.input", "quantity_minor": "3"}],
            "occurred_at": "2026-01-10T00:00:00+00:00",
            "metadata": {"why": "late"},
        }
    ] == transport.bodies


@colours
def test_commit_batch_charges_many_leases_in_one_request(do: Colour):
    """Each item keeps its own key; outcomes come in the order of the items."""
    outcome = {"index": 0, "status": "committed", "commit": {"commit_id": "c", "amount_xusd": "1"}}
    gate, transport, _ = client(answer({"items": [outcome, {"index": 1, "status": "invalid"}]}))
    items = [BatchItem(LEASE, 3, "i1", meters={"m": 3}), BatchItem(LEASE, 4, "i2", labels={"a": "b"})]
    assert ["committed", "invalid"] == [o.status for o in do(gate, "commit_batch", items, idempotency_key="b")]
    first, second = transport.bodies[0]["items"]
    assert {
        "lease_token": TOKEN,
        "feature_code": "chat",
        "quantity_minor": "3",
        "meters": [{"meter_code": "m", "quantity_minor": "3"}],
        "idempotency_key": "i1",
    } == first
    assert ("i2", {"a": "b"}) == (second["idempotency_key"], second["labels"])


@colours
def test_an_empty_batch_sends_nothing(do: Colour):
    """There is nothing to charge and nothing to ask."""
    gate, transport, _ = client()
    assert [] == do(gate, "commit_batch", [])
    assert [] == transport.requests


@colours
def test_a_batch_of_two_customers_is_refused(do: Colour):
    """A request is signed for one customer."""
    gate, transport, _ = client()
    other = Lease("L", "chat", Identity("other", "u1"))
    with pytest.raises(ConfigurationError, match="different customers"):
        do(gate, "commit_batch", [BatchItem(LEASE, 1, "i1"), BatchItem(other, 1, "i2")])
    assert [] == transport.requests


@colours
def test_preflight_asks_without_a_lease(do: Colour):
    """The dry run of the newest generation."""
    gate, transport, _ = client(answer({"feature_code": "chat", "window_end": "w"}), wire="lease")
    preflight = do(gate, "preflight", feature_code="chat", principal_id="acme", user_id="u1", budget="team-a")
    assert ("chat", "w") == (preflight.feature_code, preflight.window_end)
    assert "/mgt/v1/gate/preflight" == transport.requests[0].target
    assert [{"feature_code": "chat", "budget": "team-a"}] == transport.bodies


@colours
def test_limits_lists_quotas_and_rates(do: Colour):
    """A question with a query, and a list of answers."""
    gate, transport, _ = client(answer([{"feature_code": "chat", "quotas": [{"limit_minor": "5"}]}]))
    (limits,) = do(gate, "limits", principal_id="acme", user_id="u1", expand=("quotas",))
    assert ("chat", ({"limit_minor": "5"},)) == (limits.feature_code, limits.quotas)
    assert "/mgt/v1/gate/limits?expand=quotas" == transport.requests[0].target


@colours
def test_missing_keys_are_made_and_never_twice_the_same(do: Colour):
    """Every operation without a key gets a uuid of its own."""
    gate, transport, _ = client(GRANTED, GRANTED, COMMITTED)
    do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    do(gate, "commit", LEASE, quantity=1)
    keys = {request.headers["idempotency-key"] for request in transport.requests}
    assert 3 == len(keys)
    assert all(4 == uuid.UUID(key).version for key in keys)


@colours
def test_bad_values_never_reach_the_gate(do: Colour):
    """A negative quantity or a missing user is an error of the caller."""
    gate, transport, _ = client()
    with pytest.raises(ConfigurationError, match="quantity"):
        do(gate, "commit", LEASE, quantity=-1)
    with pytest.raises(ConfigurationError, match="user_id"):
        do(gate, "authorize", feature_code="chat", principal_id="acme")
    assert [] == transport.requests


@colours
def test_a_denial_is_raised(do: Colour):
    """The error carries its reason and the key that was made for the call."""
    gate, transport, _ = client(refusal(402, "SERVER.CONFIG", "grant balance exhausted"))
    with pytest.raises(GateDenied, match="top it up") as caught:
        do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    assert "funding" == caught.value.reason
    assert transport.requests[0].headers["idempotency-key"] == caught.value.idempotency_key


@colours
def test_a_denial_passes_through_graphs(do: Colour):
    """With langgraph in the process the error bubbles up instead of becoming a tool message."""
    from langgraph.errors import GraphBubbleUp

    assert "langgraph.errors" in sys.modules
    gate, _, _ = client(refusal(402, message="quota limit exhausted"))
    with pytest.raises(GraphBubbleUp) as caught:
        do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    assert isinstance(caught.value, GateDenied)
    assert "quota" == caught.value.reason
    assert caught.value.__suppress_context__


@colours
def test_an_answer_that_is_no_lease_blocks(do: Colour):
    """A success without a lease is not taken for leave to go on."""
    gate, _, _ = client(answer({}))
    with pytest.raises(GateProtocolError):
        do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")


# --- calls ----------------------------------------------------------------------------------------


@colours
def test_failures_are_waited_out(do: Colour):
    """The first 500 of a new principal heals, with the waits of the policy."""
    lost = TransportFailure("reset", sent=True)
    gate, transport, waits = client(refusal(500), lost, GRANTED, retry=RetryPolicy(initial=1.0, maximum=9.0))
    do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    assert 3 == len(transport.requests)
    assert 2 == len(waits)
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0


@colours
def test_the_generation_is_found_once_for_all_calls(do: Colour):
    """What one call learns, the next one knows."""
    gate, transport, _ = client(mismatch(), GRANTED, COMMITTED, wire="auto")
    lease = do(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    do(gate, "commit", lease, quantity=1)
    assert [True, False, False] == ["x-user-id" in request.headers for request in transport.requests]


def test_a_call_may_have_its_own_retries():
    """Background work can be more patient than a call that somebody waits for."""
    gate, transport, _ = client(refusal(500))
    call_flow = gate.exchange(_authorize_call(), RetryPolicy(attempts=1))
    with pytest.raises(GateUnavailable):
        gate.perform(call_flow)
    assert 1 == len(transport.requests)


def _authorize_call() -> Any:
    from langchain_vluna._core.wire import authorize_call

    return authorize_call(identity=LEASE.identity, feature_code="chat", idempotency_key="k")


def test_the_clock_and_the_rest_are_real_by_default():
    """Time is aware and UTC, nonces are 32 hex digits and new, jitter lies between 0 and 1."""
    sources = system_sources()
    assert UTC is sources.clock().tzinfo
    assert sources.monotonic() <= sources.monotonic()
    assert 32 == len(sources.nonce()) == len(f"{int(sources.nonce(), 16):032x}")
    assert sources.nonce() != sources.nonce()
    assert 0 <= sources.random() < 1


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_a_positive_number(timeout: float):
    """A call without an end is not possible."""
    with pytest.raises(ConfigurationError, match="timeout"):
        client(timeout=timeout)


def test_the_timeout_bounds_the_attempt():
    """The transport is told how many seconds there are."""
    gate, transport, _ = client(GRANTED, timeout=3.0)
    gate.authorize(feature_code="chat", principal_id="acme", user_id="u1")
    assert 2.5 < transport.requests[0].timeout <= 3.0


def test_a_client_shows_no_secret():
    """Its repr names realm and key id, and what is known of the wire."""
    gate, _, _ = client()
    assert "Client(realm='realm', key='pk', WireState(auto=False, signature=v2, payload=lease_token))" == repr(gate)


VERBS = ["authorize", "cancel", "commit", "commit_batch", "ingest", "limits", "preflight"]


@pytest.mark.parametrize("name", VERBS)
def test_twins_have_one_signature(name: str):
    """Names, signatures and docstrings are for users: no flow shows through."""
    verb, twin = getattr(Verbs, name), getattr(Verbs, f"a{name}")
    assert (name, f"Verbs.a{name}") == (verb.__name__, twin.__qualname__)
    assert inspect.signature(verb) == inspect.signature(twin)
    assert "Flow" not in str(inspect.signature(verb))
    assert verb.__doc__ == twin.__doc__
    assert inspect.iscoroutinefunction(twin)
    assert not inspect.iscoroutinefunction(verb)


# --- drivers --------------------------------------------------------------------------------------


@colours
def test_a_driver_carries_out_what_a_flow_asks_for(do: Colour):
    """Responses are sent in, failures are thrown in, and the flow's return value comes out."""

    def flow() -> Generator[Effect, Any, list[Any]]:
        response = yield Send(REQUEST)
        caught = None
        try:
            yield Send(REQUEST)
        except TransportFailure as failure:
            caught = failure
        nothing = yield Wait(0.5)
        return [response, caught, nothing]

    lost = TransportFailure("reset", sent=True)
    drivers = Drivers(GRANTED, lost)
    assert [GRANTED, lost, None] == do(drivers, "drive", flow())
    assert [0.5] == drivers.waits


@colours
def test_a_flow_without_effects_just_returns(do: Colour):
    """Nothing to do is done at once."""

    def flow() -> Generator[Effect, Any, int]:
        yield from ()
        return 7

    assert 7 == do(Drivers(), "drive", flow())


@colours
@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
def test_a_join_waits_for_whatever_becomes_of_a_future(do: Colour, outcome: str):
    """The flow goes on when the future is done, and looks at it itself."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    started = threading.Event()

    def finish() -> None:
        started.wait(5)
        if outcome == "result":
            future.set_result(7)
        elif outcome == "error":
            future.set_exception(ValueError("theirs"))
        else:
            future.cancel()

    def flow() -> Generator[Effect, Any, tuple[Any, bool]]:
        started.set()
        nothing = yield Join(future)
        return nothing, future.done()

    thread = threading.Thread(target=finish)
    thread.start()
    assert (None, True) == do(Drivers(), "drive", flow())
    thread.join()


def test_who_stops_waiting_for_a_future_leaves_it_to_the_others():
    """A cancelled task does not cancel the work that it joined."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()

    def flow() -> Generator[Effect, Any, None]:
        yield Join(future)

    async def main() -> None:
        task = asyncio.create_task(Drivers().adrive(flow()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not future.cancelled()
    future.set_result(1)


@colours
def test_an_interrupted_flow_is_closed(do: Colour):
    """Its `finally` runs when the user presses Ctrl-C in the middle of a request."""
    closed: list[str] = []

    def interrupt(_: HttpRequest) -> Any:
        raise KeyboardInterrupt

    def flow() -> Generator[Effect, Any, None]:
        try:
            yield Send(REQUEST)
        finally:
            closed.append("closed")

    with pytest.raises(KeyboardInterrupt):
        do(Drivers(interrupt), "drive", flow())
    assert ["closed"] == closed


def test_a_cancelled_task_closes_its_flow():
    """A cancelled wait ends the flow where it stood."""
    closed: list[str] = []

    def flow() -> Generator[Effect, Any, None]:
        try:
            yield Wait(60)
        finally:
            closed.append("closed")

    async def forever(_: float) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(adrive(flow(), ScriptedTransport(), forever, Turnstiles().turn))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ["closed"] == closed


def test_the_default_waits_are_real():
    """Without injected sleeps a retry waits, in both colours."""
    transport = ScriptedTransport(refusal(500), GRANTED, refusal(500), GRANTED)
    gate = Client(transport, SETTINGS, wire="user", retry=RetryPolicy(initial=0.001))
    blocking_colour(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    async_colour(gate, "authorize", feature_code="chat", principal_id="acme", user_id="u1")
    assert 4 == len(transport.requests)
    assert {"feature_code": "chat"} == json.loads(transport.requests[0].content)
