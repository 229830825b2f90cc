"""What every test stands on: a clean environment, one event loop backend, repeatable examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

_FOREIGN = ("VLUNA_", "OPENAI_", "ANTHROPIC_", "OLLAMA_", "LANGCHAIN_", "LANGSMITH_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the machine's own keys and settings, and its user's state directory."""
    for name in os.environ:
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)
    state = tmp_path_factory.getbasetemp() / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


@pytest.fixture(autouse=True)
def nothing_blocks_an_event_loop() -> Iterator[None]:
    """Raise where this package makes a blocking call on an event loop.

    SQLite is left out: a write of some microseconds runs where it is called, on purpose. So are locks: they guard
    microseconds as well, and to watch them is to exchange a method of a built-in type under running threads.
    """
    with blockbuster_ctx("langchain_vluna") as watch:
        for name, function in watch.functions.items():
            if name.startswith(("sqlite3.", "threading.Lock.")):
                function.deactivate()
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's own folder."""
    return Path(__file__).resolve().parent.parent
