"""A till per test, on each wire: in process, and over HTTP with signed requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from langchain_vluna.gate import orphans
from tests.support.billing import Stand, Till

MakeTill = Callable[..., Till]


@pytest.fixture(scope="session")
def stand() -> Iterator[tuple[Stand, str]]:
    """One HTTP server for all tests, in front of whichever gate is tested."""
    stand = Stand()
    with stand.serve() as url:
        yield stand, url


@pytest.fixture(params=["in_process", "http"])
def make_till(request: pytest.FixtureRequest, stand: tuple[Stand, str]) -> Iterator[MakeTill]:
    """Open tills on a wire; at the end each has settled and what it sent replays in the scenario grammar."""
    with ExitStack() as tills:

        def make(*, replays: bool = True, **options: Any) -> Till:
            if request.param == "http":
                till = Till("user", url=stand[1], stand=stand[0], **options)
            else:
                till = Till("tutorial", **options)
            tills.callback(till.close)
            if replays:
                tills.callback(till.assert_replays)
            return till

        yield make


@pytest.fixture
def local_till() -> Iterator[Till]:
    """A till in process, for what never reaches a wire."""
    till = Till("tutorial")
    yield till
    till.close()


@pytest.fixture
def till(make_till: MakeTill) -> Till:
    """A till with money."""
    return make_till()


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for orphans at once: the graces are about patience, not about what is right."""
    for name, seconds in {"_LOOK_EVERY": 0.02, "_YOUNG": 0.02, "_GRACE_PARENT": 0.05, "_GRACE_TASK": 0.05}.items():
        monkeypatch.setattr(orphans, name, seconds)
