"""The journal as it grows."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server import stream
from tests.server.conftest import NOON, Page
from tests.support.caller import Caller


@contextmanager
def listening(page: Page, query: str = "", **headers: str) -> Iterator[Iterator[dict[str, str]]]:
    """Yield the events of a stream, each as its fields, as they come."""
    connection = http.client.HTTPConnection(page.host, timeout=10)
    connection.request("GET", f"/ui/api/stream?{query}", headers=headers)
    response = connection.getresponse()
    assert ("text/event-stream; charset=utf-8", 200) == (response.headers["content-type"], response.status)

    def events() -> Iterator[dict[str, str]]:
        fields: dict[str, str] = {}
        while line := response.readline().decode():
            if line != "\n":
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
            elif fields:
                yield fields
                fields = {}

    try:
        yield events()
    finally:
        response.close()
        connection.close()


def entry(event: dict[str, str]) -> dict[str, Any]:
    return dict(json.loads(event["data"]))


def test_what_happens_is_told_as_it_happens(page: Page, gate: LocalGate):
    """A listener hears of an authorize, a denial and a change, in order, and of nothing from before."""
    gate.grant("early", 1)
    with listening(page) as events:
        assert {"retry": "1000", "id": "1"} == next(events)
        gate.grant("acme", 10)
        Caller(gate, "tutorial", user=None).authorize()
        Caller(gate, "tutorial", principal="initech", user=None).authorize("draw")
        heard = [entry(next(events)) for _ in range(3)]
    assert [("changed", "acme"), ("authorized", "acme"), ("authorized", "initech")] == [
        (one["kind"], one["principal_id"]) for one in heard
    ]


def test_a_listener_that_comes_back_misses_nothing(page: Page, gate: LocalGate):
    """The browser says which entry it had last, and is told the ones after it."""
    for name in ("a", "b", "c"):
        gate.grant(name, 1)
    with listening(page, "after=0", **{"Last-Event-ID": "2"}) as events:
        next(events)
        event = next(events)
    assert ("c", "3") == (entry(event)["principal_id"], event["id"])


@pytest.mark.parametrize("bad", ["x", "-1", "9" * 40, "²"])
def test_a_strange_last_event_is_ignored(page: Page, gate: LocalGate, bad: str):
    """What is no number of an entry counts as none."""
    gate.grant("a", 1)
    with listening(page, "after=0", **{"Last-Event-ID": bad.encode("utf-8").decode("latin-1")}) as events:
        next(events)
        assert "a" == entry(next(events))["principal_id"]


def test_a_listener_can_ask_for_one_customer(page: Page, gate: LocalGate):
    """A filter holds for the stream as for everything else."""
    with listening(page, "principal_id=b&after=0") as events:
        next(events)
        for name in ("a", "b"):
            gate.grant(name, 1)
        assert "b" == entry(next(events))["principal_id"]


def test_who_is_too_slow_is_told_how_much_he_missed(page: Page, gate: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """A flood is not replayed: the newest entries come, and before them the number of the others."""
    monkeypatch.setattr(stream, "_MOST", 2)
    for number in range(5):
        gate.grant(f"c{number}", 1)
    with listening(page, "after=0") as events:
        next(events)
        missed, *rest = [next(events) for _ in range(3)]
    assert {"event": "missed", "data": "3"} == missed
    assert ["c3", "c4"] == [entry(event)["principal_id"] for event in rest]


def test_a_quiet_stream_shows_that_it_lives(page: Page, monkeypatch: pytest.MonkeyPatch):
    """With nothing to say, a comment comes now and then."""
    monkeypatch.setattr(stream, "_ALIVE_AFTER", 1)
    with listening(page) as events:
        next(events)
        assert {"": "still here"} == next(events)


def test_there_is_an_end_to_listeners(page: Page, monkeypatch: pytest.MonkeyPatch):
    """One page too many is told so instead of slowing the others."""
    monkeypatch.setattr(stream, "_LISTENERS", 1)
    with listening(page) as events:
        next(events)
        status, answer, _ = page.ask("GET", "/ui/api/stream")
    assert (503, "1 pages listen already; close some") == (status, answer["error"])


def test_another_process_is_heard_too(tmp_path: Path):
    """A page shows what a program does that uses the same file without the server."""
    from langchain_vluna.server.listening import serving

    path = tmp_path / "shared.db"
    served, embedded = (LocalGate(path, clock=lambda: NOON) for _ in range(2))
    with serving(served) as url:
        page = Page(url.removeprefix("http://").removesuffix("/mgt/v1"))
        with listening(page) as events:
            next(events)
            embedded.grant("acme", 10)
            assert "acme" == entry(next(events))["principal_id"]
    for gate in (served, embedded):
        gate.close()


def test_a_listening_page_does_not_keep_the_server_from_stopping(gate: LocalGate):
    """The stream ends when the server does."""
    from langchain_vluna.server.listening import serving

    with serving(gate) as url:
        page = Page(url.removeprefix("http://").removesuffix("/mgt/v1"))
        connection = http.client.HTTPConnection(page.host, timeout=10)
        connection.request("GET", "/ui/api/stream")
        response = connection.getresponse()
        response.readline()
    assert b"id: 0\n\n" == response.read()
    connection.close()
