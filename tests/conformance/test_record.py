"""Recorded exchanges become scenarios that replay, and that notice a difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from langchain_vluna._io.local import Generation
from tests.conformance.record import RecordingGate, replay_problems, scenario_of
from tests.conformance.replay import OWN_SCENARIOS, Replay, load, open_gate


@pytest.fixture(
    params=["happy_two_meters", "batch_mixed", "commit_replay_conflict", "budget_exhausted", "quota_exhausted"]
)
def recorded(request: pytest.FixtureRequest) -> RecordingGate:
    """A gate that a golden scenario was played to, as a client would play it."""
    scenario = next(s for s in load(OWN_SCENARIOS) if s["name"] == request.param)
    gate = RecordingGate()
    assert [] == Replay(scenario, "tutorial", gate, gate.send).run()
    return gate


def test_what_was_sent_replays(recorded: RecordingGate) -> None:
    """What a client sent to a recording gate replays on a fresh gate with the same answers."""
    assert recorded.exchanges
    assert [] == replay_problems(recorded)


def test_a_recording_is_written_in_symbols(recorded: RecordingGate) -> None:
    """A recorded scenario refers to keys, leases and budgets by symbol, not by value."""
    text = json.dumps(scenario_of(recorded, "tutorial")["steps"])

    request, response = recorded.exchanges[0]
    assert request.headers["idempotency-key"] not in text
    assert json.loads(response.content)["data"]["lease_token"] not in text
    assert '"$s1.lease_token"' in text


def test_a_replay_notices_another_answer() -> None:
    """A recorded scenario whose expectation is changed no longer replays."""
    gate = _authorized("tutorial")
    scenario = scenario_of(gate, "tutorial")
    scenario["steps"][0]["expect"]["data"]["feature_code"] = "other"
    fresh = open_gate(scenario, "tutorial")

    problems = Replay(scenario, "tutorial", fresh, fresh.send).run()

    assert ["s1.data.feature_code: expected 'other', got 'chat'"] == problems


@pytest.mark.parametrize("generation", ["tutorial", "user", "lease"])
def test_the_generation_is_told_by_what_was_sent(generation: Generation) -> None:
    """A recording of any generation replays in that generation."""
    assert [] == replay_problems(_authorized(generation))


def test_changes_during_a_recording_are_replayed_in_their_place() -> None:
    """A price or grant that comes between two requests is replayed between them."""
    gate = RecordingGate(generation="tutorial")
    gate.price("chat", "chat", 3)
    player = Replay({"steps": []}, "tutorial", gate, gate.send)
    step = {"op": "authorize", "principal": "acme", "body": {"feature_code": "chat"}}
    denied = gate.send(player.request({**step, "key": "$k1"}))
    gate.grant("acme", 100)
    gate.price("chat", "chat", 5)
    admitted = gate.send(player.request({**step, "key": "$k1"}))

    assert (402, 200) == (denied.status, admitted.status)
    assert [] == replay_problems(gate)


def _authorized(generation: Generation) -> RecordingGate:
    gate = RecordingGate(generation=generation)
    gate.price("chat", "chat", 3)
    gate.grant("acme", 1000)
    player = Replay({"steps": []}, generation, gate, gate.send)
    body: Mapping[str, Any] = {"feature_code": "chat", **({"lease": "run-1"} if generation == "lease" else {})}
    step = {"op": "authorize", "principal": "acme", "user": "u1", "key": "$k1", "body": body}
    assert 200 == gate.send(player.request(step)).status
    return gate
