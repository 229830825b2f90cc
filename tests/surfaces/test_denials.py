"""A no of the gate, for whatever reason, stops the provider from being called, in every shape and mode."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_vluna import ConfigurationError, GateDenied, GateRejected, GateUnavailable, RetryPolicy, VlunaError
from tests.support.billing import CUSTOMER, GRANT, MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import QUESTIONS, SHAPES, run

CASES = [
    pytest.param(name, mode, id=f"{name}-{mode}")
    for name, shape in SHAPES.items()
    for mode in shape.modes()
    if mode != "astream_events"
]
SINGLE_MODES = ("invoke", "ainvoke", "stream", "astream")


@pytest.fixture
def calls_left_behind() -> Iterator[None]:
    """Collect what langchain-core leaves un-awaited before another test is blamed for it.

    It prepares the calls of all handlers, and never gets to those behind one that raises.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine 'ahandle_event' was never awaited", RuntimeWarning)
        yield
        gc.collect()


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_an_empty_balance_stops_the_provider_from_being_called(make_till: MakeTill, name: str, mode: str) -> None:
    """A 402 reaches the caller as GateDenied before any provider call, and the gate is asked once."""
    assert_denied(make_till(grant=0), name, mode)


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_balance_stops_an_event_stream(make_till: MakeTill, name: str) -> None:
    """A 402 reaches whoever reads an event stream."""
    assert_denied(make_till(grant=0), name, "astream_events")


def assert_denied(till: Till, name: str, mode: str) -> None:
    shape = SHAPES[name]
    model = shape.model()
    with pytest.raises(GateDenied) as caught:
        run(shape, shape.build(model), mode, till.unwitnessed())
    assert ("funding", 402, MODEL, CUSTOMER) == (
        caught.value.reason,
        caught.value.status,
        caught.value.feature_code,
        caught.value.principal_id,
    )
    assert 0 == model.calls
    assert 1 == till.asked
    till.assert_nothing_charged()


def unavailable(till: Till) -> None:
    till.ledger.fault("reset", on="authorize", times=RetryPolicy().attempts)


def no_entitlement(till: Till) -> None:
    till.ledger.feature(MODEL, entitlement_required=True)


def no_rate(till: Till) -> None:
    till.ledger.rate(MODEL, 0, 86_400)


def no_quota(till: Till) -> None:
    till.ledger.quota(MODEL, 0, 86_400)


def inactive(till: Till) -> None:
    till.ledger.feature(MODEL, active=False)


Change = Callable[[Till], None]
REFUSALS = {
    "entitlement": (no_entitlement, {}, GateDenied, 403),
    "rate": (no_rate, {}, GateDenied, 429),
    "quota": (no_quota, {}, GateDenied, 402),
    "unavailable": (unavailable, {}, GateUnavailable, None),
    "inactive": (inactive, {}, GateRejected, 422),
    "nobody_pays": (lambda _: None, {"principal_id": None}, ConfigurationError, None),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("mode", ["invoke", "astream"])
@pytest.mark.parametrize("name", ["model", "agent_executor", "sync_node", "create_agent"])
def test_whatever_the_refusal_the_provider_is_not_called(
    make_till: MakeTill, name: str, mode: str, refusal: str
) -> None:
    """Every refusal reaches the caller in its own class, with its status, and no work is done."""
    change, options, kind, status = REFUSALS[refusal]
    till, shape = make_till(replays=refusal not in {"unavailable", "nobody_pays"}), SHAPES[name]
    change(till)
    model = shape.model()
    with pytest.raises(VlunaError) as caught:
        run(shape, shape.build(model), mode, till.unwitnessed(till.handler(**options)))
    assert isinstance(caught.value, kind)
    assert status == caught.value.status
    if isinstance(caught.value, GateDenied):
        assert refusal == caught.value.reason
    assert 0 == model.calls
    till.assert_nothing_charged()


@pytest.mark.parametrize("mode", SINGLE_MODES)
@pytest.mark.parametrize("name", ["agent_executor", "react_agent", "create_agent"])
def test_a_denied_tool_does_not_run(make_till: MakeTill, name: str, mode: str) -> None:
    """A denied tool stops the agent after the model's first answer, which is charged; the tool never runs."""
    till, shape = make_till(), SHAPES[name]
    till.ledger.feature("tool.add", entitlement_required=True)
    model = shape.model()
    with pytest.raises(GateDenied, match=r"tool\.add") as caught:
        run(shape, shape.build(model), mode, till.config())
    assert "entitlement" == caught.value.reason
    assert 1 == model.calls
    till.assert_exact(asked=2)


@pytest.mark.parametrize("mode", ["batch", "abatch"])
@pytest.mark.parametrize("name", ["model", "chain", "create_agent"])
def test_a_batch_with_return_exceptions_holds_the_denials(make_till: MakeTill, name: str, mode: str) -> None:
    """A batch that returns exceptions returns one GateDenied per question, from one question to the gate."""
    till, shape = make_till(grant=0), SHAPES[name]
    model = shape.model()
    inputs = [shape.ask(question) for question in QUESTIONS]
    runnable: Any = shape.build(model)
    if mode == "batch":
        results = runnable.batch(inputs, till.unwitnessed(), return_exceptions=True)
    else:
        results = asyncio.run(runnable.abatch(inputs, till.unwitnessed(), return_exceptions=True))
    assert [GateDenied] * len(QUESTIONS) == [next(b for b in type(r).__mro__ if b is GateDenied) for r in results]
    assert 0 == model.calls
    assert 1 == till.asked


def test_a_top_up_is_seen_at_once() -> None:
    """A denial is remembered only until the local gate changes."""
    till, shape = Till("tutorial", grant=0), SHAPES["model"]
    model = shape.model()
    with pytest.raises(GateDenied):
        model.invoke("hi", till.unwitnessed())
    till.ledger.grant(CUSTOMER, GRANT)
    model.invoke("hi", till.config())
    till.assert_exact(asked=2)
    till.close()


def test_another_customer_is_asked_for_anew(make_till: MakeTill) -> None:
    """A remembered denial is that of one customer."""
    till, shape = make_till(grant=0), SHAPES["model"]
    till.ledger.grant("customer_2", 10**9, till.user)
    model = shape.model()
    with pytest.raises(GateDenied):
        model.invoke("hi", till.unwitnessed())
    assert model.invoke("hi", till.unwitnessed(metadata={"vluna_principal_id": "customer_2"})).content
    assert (1, 2) == (model.calls, till.asked)
