"""Faults on demand, in both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import LocalGate
from tests.support.caller import Caller, Reply

Send = Callable[[HttpRequest], Awaitable[HttpResponse]]


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def gate(slept: list[float]) -> LocalGate:
    return LocalGate(sleep=slept.append)


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest, gate: LocalGate, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Send:
    """Send in either colour."""

    async def pause(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(anyio, "sleep", pause)

    async def send_sync(sent: HttpRequest) -> HttpResponse:
        return gate.send(sent)

    return send_sync if request.param == "sync" else gate.asend


def ingest(gate: LocalGate) -> HttpRequest:
    return Caller(gate).request("ingest", {"feature_code": "chat", "quantity_minor": "1"}, "key")


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "carried_out"), [("drop_answer", 1), ("reset", 0)])
async def test_a_lost_answer_says_that_the_request_was_sent(
    gate: LocalGate, send: Send, kind: Any, carried_out: int
) -> None:
    """A dropped answer comes after the request was carried out, a reset before; the sender cannot tell."""
    gate.fault(kind, on="ingest")

    with pytest.raises(TransportFailure) as failed:
        await send(ingest(gate))
    assert failed.value.sent is True
    assert carried_out == len(gate.ratings())
    assert 200 == (await send(ingest(gate))).status
    assert 1 == len(gate.ratings())
    assert 2 == gate.requests["ingest"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "refusal", "hints"),
    [("status_500", (500, "SERVER.UNEXPECTED"), []), ("status_429", (429, "LIMIT.RATE_EXCEEDED"), ["rate.limit"])],
)
async def test_a_status_is_answered_instead(
    gate: LocalGate, send: Send, kind: Any, refusal: tuple[int, str], hints: list[str]
) -> None:
    """A status on demand is answered as often as it was armed, and nothing is carried out."""
    gate.fault(kind, on="*", times=2, seconds=7)
    replies = [Reply.of(await send(ingest(gate))) for _ in range(3)]

    assert [refusal, refusal] == [reply.refusal[:2] for reply in replies[:2]]
    assert hints == replies[0].hints
    assert [7] * len(hints) == [hint["seconds"] for hint in replies[0].body.get("hints", ())]
    assert 200 == replies[2].status


@pytest.mark.anyio
async def test_a_delay_answers_late(gate: LocalGate, send: Send, slept: list[float]) -> None:
    """A delay shorter than the timeout only takes its time."""
    gate.fault("delay", on="ingest", seconds=2)

    assert 200 == (await send(ingest(gate))).status
    assert [2] == slept


@pytest.mark.anyio
async def test_a_delay_beyond_the_timeout_is_no_answer(gate: LocalGate, send: Send, slept: list[float]) -> None:
    """A request that times out is carried out all the same."""
    gate.fault("delay", on="ingest", seconds=60)

    with pytest.raises(TransportFailure, match="no answer within 30 s"):
        await send(ingest(gate))
    assert [30] == slept
    assert 1 == len(gate.ratings())


def test_a_fault_hits_its_verb_only(gate: LocalGate) -> None:
    """A fault on one verb leaves the others alone and waits for its own."""
    fault = gate.fault("status_500", on="cancel")

    assert 200 == Caller(gate).authorize().status
    assert 1 == fault.remaining
    assert "Fault('status_500', on='cancel', remaining=1, seconds=1.0)" == repr(fault)


def test_a_fault_ends_with_its_block(gate: LocalGate) -> None:
    """As a context manager a fault is disarmed at the end, used up or not."""
    with gate.fault("status_500", on="authorize", times=5):
        inside = Caller(gate).authorize().status
    with gate.fault("status_500", on="authorize"):
        used_up = Caller(gate).authorize().status

    assert [500, 500, 200] == [inside, used_up, Caller(gate).authorize().status]


def test_faults_are_used_in_their_order(gate: LocalGate) -> None:
    """The first armed fault hits first."""
    gate.fault("status_500", on="authorize")
    gate.fault("status_429", on="*")

    assert [500, 429, 200] == [Caller(gate).authorize().status for _ in range(3)]
