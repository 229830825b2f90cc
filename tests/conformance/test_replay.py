"""Every golden scenario, in process and over HTTP, in each generation it holds for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import Generation, LocalGate
from tests.conformance.replay import OWN_SCENARIOS, Replay, load, open_gate

ALTERNATIVES = Path(__file__).parent / "alternatives"

Use = Callable[[LocalGate], Callable[[HttpRequest], HttpResponse]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [
        pytest.param(scenario, generation, id=f"{scenario['name']}-{generation}")
        for scenario in load(folder_of(metafunc.config))
        for generation in scenario["generation"]
    ]
    if "scenario" in metafunc.fixturenames:
        metafunc.parametrize(("scenario", "generation"), cases)


def folder_of(config: pytest.Config) -> Path:
    """Return the folder to replay: that of the command line, else the project's own."""
    return Path(config.getoption("--scenarios", default=None) or OWN_SCENARIOS)


def alternative_to(scenario: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what this gate does instead of a recorded quirk of the server."""
    path = ALTERNATIVES / f"{scenario['name']}.json"
    if not path.exists():
        return None
    loaded: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def problems_of(scenario: Mapping[str, Any], generation: Generation, use: Use, *, server_flaws: bool) -> list[str]:
    """Return what differs from the recording, and for a quirk also from the alternative."""
    gate = open_gate(scenario, generation, server_flaws=server_flaws)
    problems = Replay(scenario, generation, gate, use(gate)).run()
    if not problems or "quirk" not in scenario or server_flaws:
        return problems
    alternative = alternative_to(scenario)
    # Of a quirk that is new to this gate nobody has written down what else it does: then it must know the flaw.
    gate = open_gate(scenario, generation, server_flaws=alternative is None)
    return Replay(scenario, generation, gate, use(gate)).run(alternative)


def test_scenario_in_process(scenario: Mapping[str, Any], generation: Generation) -> None:
    """A gate in process answers as recorded, or does what the scenario's quirk says it may do."""
    assert [] == problems_of(scenario, generation, lambda gate: gate.send, server_flaws=False)


def test_scenario_over_http(scenario: Mapping[str, Any], generation: Generation, over_http: Use) -> None:
    """A gate behind an HTTP server answers as recorded, or does what the scenario's quirk says it may do."""
    assert [] == problems_of(scenario, generation, over_http, server_flaws=False)


def test_scenario_with_the_flaws_of_the_server(scenario: Mapping[str, Any], generation: Generation) -> None:
    """A gate that repeats the server's flaws answers every scenario as recorded, quirks included."""
    assert [] == problems_of(scenario, generation, lambda gate: gate.send, server_flaws=True)


def test_the_folder_has_scenarios(pytestconfig: pytest.Config) -> None:
    """A folder without scenario files is a mistake, not a success."""
    assert load(folder_of(pytestconfig))
