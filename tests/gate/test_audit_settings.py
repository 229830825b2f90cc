"""A wrong value is refused where it is given, by name, and not by the first run that meets it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage

from langchain_vluna import ConfigurationError, Gate, GatedEmbeddings, VlunaCallbackHandler, VlunaMiddleware
from langchain_vluna.testing.models import ScriptedChatModel


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate.local() as gate:
        yield gate


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("orphan_after", "soon"),
        ("orphan_after", None),
        ("deny_memo", "1"),
        ("deny_memo", float("nan")),
        ("max_unsettled", 1.5),
        ("timeout", "10"),
        ("retry", 3),
        ("outbox", 5),
        ("relay", 0.05),
        ("on_hint", "shout"),
        ("on_hint", 5),
        ("on_alarm", "log"),
    ],
)
def test_a_gate_refuses_a_value_of_the_wrong_kind(option: str, value: Any) -> None:
    """Gate names the keyword and the value."""
    with pytest.raises(ConfigurationError, match=rf"{option}.*{re.escape(repr(value))}"):
        Gate.local(**{option: value})


@pytest.mark.parametrize("target", [None, "https://gate.example", object()])
def test_a_gate_refuses_a_target_it_cannot_send_to(target: Any) -> None:
    """What is neither settings nor a transport is refused at once, not taken for one."""
    with pytest.raises(ConfigurationError, match="target"):
        Gate(target)


WRONG: list[tuple[str, object]] = [
    ("principal_id", 5),
    ("principal_id", b"customer"),
    ("user_id", 5),
    ("features", "chat"),
    ("features", ["chat"]),
    ("feature_family_code", 5),
    ("tools", [ScriptedChatModel]),
    ("labels", "team"),
    ("budget", 5),
    ("budget", ""),
]


@pytest.mark.parametrize("kind", [VlunaCallbackHandler, VlunaMiddleware])
@pytest.mark.parametrize(("option", "value"), WRONG)
def test_a_handler_refuses_a_value_of_the_wrong_kind(gate: Gate, kind: Any, option: str, value: object) -> None:
    """Handler and middleware check their keywords when they are made."""
    with pytest.raises(ConfigurationError, match=option.removesuffix("_code").replace("feature_family", "family")):
        kind(gate, **{option: value})


@pytest.mark.parametrize("gate", [None, "gate"])
def test_a_handler_refuses_what_is_no_gate(gate: Any) -> None:
    """A missing gate is told when the handler is made."""
    with pytest.raises(ConfigurationError, match="must be a Gate"):
        VlunaCallbackHandler(gate, principal_id="customer")


def test_a_middleware_refuses_a_fallback_that_is_no_model(gate: Gate) -> None:
    """A fallback is checked before the first denial needs it."""
    with pytest.raises(ConfigurationError, match="fallback_model"):
        VlunaMiddleware(gate, fallback_model=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", ["team", {"team": 1}])
def test_labels_of_a_callable_are_checked_before_the_work(gate: Gate, labels: Any) -> None:
    """A callable that gives impossible labels stops the run, and not its charge."""
    model = ScriptedChatModel(responses=[AIMessage("Hello")])
    handler = VlunaCallbackHandler(gate, principal_id="customer", labels=lambda _: labels)
    with pytest.raises(ConfigurationError, match="label"):
        model.invoke("Hi", {"callbacks": [handler]})
    assert 0 == model.calls


def test_a_deep_copy_of_a_handler_is_the_handler(gate: Gate) -> None:
    """`model_copy(deep=True)` copies a model's callbacks; the copy is gated by the same gate."""
    handler = VlunaCallbackHandler(gate, principal_id="customer")
    assert handler is copy.deepcopy(handler)
    assert handler is copy.deepcopy({"callbacks": [handler]})["callbacks"][0]


@pytest.mark.parametrize("labels", ["team", 5, {"team": 1}])
def test_labels_of_work_are_checked_before_it(gate: Gate, labels: Any) -> None:
    """Labels travel with the commit, so a wrong one would be found when the work is done and cannot be charged."""
    with pytest.raises(ConfigurationError, match="label"):
        gate.run(feature_code="report", principal_id="customer", labels=labels)


def test_labels_that_surround_embeddings_are_checked_before_them(gate: Gate) -> None:
    """The surrounding labels of a wrapper are checked before it calls what it wraps."""
    embeddings = GatedEmbeddings(DeterministicFakeEmbedding(size=2), gate, feature_code="embed", principal_id="me")
    with gate.identity(labels={"team": 1}), pytest.raises(ConfigurationError, match="label"):
        embeddings.embed_query("Hello")
    assert 0 == gate.local_gate.requests["authorize"]
