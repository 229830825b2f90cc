"""The pytest plugin, registered by entry point. Imports nothing of this package until a fixture is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from langchain_vluna.testing.kit import GateKit, ServerKit

_MARKER = (
    "vluna(**settings): settings of the `vluna_gate` and `vluna_server` fixtures: keywords of Gate and LocalGate, "
    "such as settle='inline' or lease_ttl=60"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def vluna_gate(request: pytest.FixtureRequest) -> Iterator[GateKit]:
    """A `Gate` over an embedded gate in memory whose clock stands still, with assertions about what was billed."""
    from langchain_vluna.testing.kit import GateKit

    with GateKit(**_settings(request)) as kit:
        yield kit


@pytest.fixture
def vluna_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: str) -> Iterator[ServerKit]:
    """An embedded gate over HTTP on loopback; `Gate.from_env()` reaches it inside the test."""
    from langchain_vluna.testing.kit import ServerKit

    with ServerKit.serve(**_settings(request)) as kit:
        for name, value in kit.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VLUNA_OUTBOX", f"{tmp_path}/vluna.outbox")
        yield kit


def _settings(request: pytest.FixtureRequest) -> dict[str, object]:
    marker = request.node.get_closest_marker("vluna")
    return {} if marker is None else dict(marker.kwargs)
