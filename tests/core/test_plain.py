"""Plain data as JSON, with and without orjson."""

from __future__ import annotations

import importlib

import pytest

from langchain_vluna._core import plain

BODY = {"feature_code": "openai.gpt-4o", "quantity_minor": "49", "labels": {"city": "Zürich"}, "items": [{"n": 1}]}
TEXT = '{"feature_code":"openai.gpt-4o","quantity_minor":"49","labels":{"city":"Zürich"},"items":[{"n":1}]}'


@pytest.fixture(params=["orjson", "json"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        if request.param == "json":
            patch.setattr("importlib.util.find_spec", lambda _: None)
        else:
            pytest.importorskip("orjson")
        yield importlib.reload(plain)
    importlib.reload(plain)


def test_both_write_the_same(module: object):
    """One process may send what another one stored, whichever library each has."""
    assert TEXT.encode() == plain.dump(BODY)
    assert BODY == plain.load(TEXT) == plain.load(TEXT.encode())


@pytest.mark.parametrize("text", [b"", b"<html>", b'{"a":1} x', b"\xff"])
def test_what_is_no_json_is_a_value_error(module: object, text: bytes):
    """Proxies answer with anything."""
    with pytest.raises(ValueError):
        plain.load(text)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": "\ud800"}])
def test_what_cannot_be_sent_is_refused(module: object, value: dict[str, object]):
    """Objects and halves of characters have no JSON."""
    with pytest.raises((TypeError, ValueError)):
        plain.dump(value)
