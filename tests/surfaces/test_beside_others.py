"""Other handlers on the same run: they may raise, be attached twice, or deny; the books stay right."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from langchain_vluna import ConfigurationError, GateDenied
from langchain_vluna.callbacks.metering import ModelMeter
from langchain_vluna.testing.models import ScriptedChatModel
from langchain_vluna.usage import Delivered
from tests.support.billing import CUSTOMER, MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES, perform, run
from tests.surfaces.waiting import settled, settled_sync, until

pytestmark = pytest.mark.usefixtures("quick_watch")


@pytest.fixture
def calls_left_behind() -> Iterator[None]:
    """Collect what langchain-core leaves un-awaited before another test is blamed for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine 'ahandle_event' was never awaited", RuntimeWarning)
        yield
        gc.collect()


class Aborts(BaseCallbackHandler):
    """Another plugin that does not let a run begin."""

    raise_error = True

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        msg = "not today"
        raise PermissionError(msg)


class AbortsAsync(AsyncCallbackHandler):
    raise_error = True

    async def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        msg = "not today"
        raise PermissionError(msg)


class RaisesAtTheEnd(BaseCallbackHandler):
    raise_error = True
    run_inline = True

    def on_llm_end(self, response: LLMResult, **told: Any) -> None:
        msg = "lost it"
        raise PermissionError(msg)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("name", ["model", "chain", "sync_node", "create_agent"])
def test_a_handler_that_aborts_after_ours_leaves_no_lease(make_till: MakeTill, name: str, colour: str) -> None:
    """A run that another handler stops after it was admitted is cancelled, though nobody tells of its end."""
    till, shape = make_till(), SHAPES[name]
    model = shape.model()
    # A sync node calls the model in a sync run, where errors of async handlers are swallowed.
    other = AbortsAsync() if colour == "async" and name != "sync_node" else Aborts()
    with pytest.raises(PermissionError, match="not today"):
        perform(shape.build(model), shape.ask("q"), colour, {"callbacks": [till.handler(), other]})
    assert [] == settled_sync(till)
    assert (0, ["canceled"]) == (model.calls, [view.state for view in till.ledger.leases()])


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_handler_that_raises_at_the_end_loses_no_charge(make_till: MakeTill, colour: str, ours_first: bool) -> None:
    """An answer that another handler throws away was paid for all the same, and is charged once."""
    till = make_till()
    callbacks = [till.handler(), RaisesAtTheEnd()]
    with pytest.raises(PermissionError, match="lost it"):
        perform(ScriptedChatModel(), "q", colour, {"callbacks": callbacks if ours_first else callbacks[::-1]})
    ratings = settled_sync(till)
    assert (["reported"] if ours_first else []) == [rating.labels["usage_source"] for rating in ratings]


def generate(model: ScriptedChatModel, colour: str, config: Any) -> None:
    """Give the model two prompts in one call."""
    prompts: list[list[BaseMessage]] = [[HumanMessage("What is one?")], [HumanMessage("What is two?")]]
    if colour == "sync":
        model.generate(prompts, **config)
    else:
        asyncio.run(model.agenerate(prompts, **config))


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_two_prompts_one_denied_neither_is_charged(make_till: MakeTill, colour: str) -> None:
    """When the second prompt of one call is denied, no provider is called and the first prompt's lease is cancelled."""
    till = make_till()
    till.ledger.rate(MODEL, 1, 86_400)
    model = ScriptedChatModel()
    config = till.unwitnessed()
    with pytest.raises(GateDenied):
        generate(model, colour, config)
    assert [] == settled_sync(till)
    assert (0, ["canceled"]) == (model.calls, [view.state for view in till.ledger.leases()])


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_two_prompts_one_failing_no_lease_stays_open(make_till: MakeTill, colour: str) -> None:
    """When the provider fails on one of two prompts, what LangChain reports of the other is charged."""
    till = make_till()
    model = ScriptedChatModel(responses=["fine", OverflowError("no")])
    with pytest.raises(OverflowError):
        generate(model, colour, till.config())
    settled_sync(till)
    till.assert_exact(asked=2)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_two_prompts_are_two_runs(till: Till, colour: str) -> None:
    """Two prompts in one call are two runs, each charged its own tokens."""
    generate(ScriptedChatModel(), colour, till.config())
    settled_sync(till)
    assert 2 == len(till.witness.finished("model"))
    till.assert_exact()


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("mode", ["batch", "abatch"])
def test_a_batch_with_one_denied_settles_the_others(make_till: MakeTill, mode: str) -> None:
    """Of a batch whose third call is denied, what ended is charged, and what was cancelled is cancelled."""
    till = make_till()
    till.ledger.rate(MODEL, 2, 86_400)
    model = ScriptedChatModel(delay=0.005)
    config: Any = {**till.config(), "max_concurrency": 2}
    with pytest.raises(GateDenied):
        run(SHAPES["model"], model, mode, config)
    settled_sync(till)
    till.assert_exact(asked=3)


# --- attached more than once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("how", ["twice", "two", "on_model_too", "with_config"])
@pytest.mark.parametrize("name", ["model", "chain", "create_agent"])
def test_however_often_attached_a_run_is_charged_once(till: Till, name: str, how: str, mode: str) -> None:
    """One handler twice, two handlers, and handlers on several levels ask and charge once per run."""
    shape, ours = SHAPES[name], till.handler()
    model = shape.model()
    runnable: Any = shape.build(model)
    config = till.config(ours)
    match how:
        case "twice":
            config["callbacks"].append(ours)
        case "two":
            config["callbacks"].append(till.handler())
        case "on_model_too":
            model.callbacks = [till.handler()]
        case "with_config":
            runnable = runnable.with_config(callbacks=[ours])
    drive(runnable, shape.ask("q"), mode, config)
    settled_sync(till)
    till.assert_exact()


def drive(runnable: Any, asked: Any, mode: str, config: Any) -> None:
    match mode:
        case "invoke":
            runnable.invoke(asked, config)
        case "stream":
            list(runnable.stream(asked, config))
        case "ainvoke":
            asyncio.run(runnable.ainvoke(asked, config))
        case "astream":
            asyncio.run(_read(runnable.astream(asked, config)))


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


def test_a_stream_broken_off_under_two_handlers_counts_each_token_once(till: Till) -> None:
    """What two handlers hear of a broken stream is counted once."""
    config = till.config()
    config["callbacks"].append(till.handler())
    stream: Any = ScriptedChatModel().stream("q", config)
    heard = str(next(stream).content) + str(next(stream).content)
    stream.close()
    ratings = settled_sync(till)
    assert [-(-len(heard) // 4)] == [rating.meters[f"{MODEL}.tokens.output"] for rating in ratings]


def test_two_handlers_of_two_customers_charge_the_first(till: Till) -> None:
    """Two handlers on one run charge it once, to the customer of the one that asked first."""
    other = till.handler(principal_id="customer_2")
    ScriptedChatModel().invoke("q", {"callbacks": [till.handler(), other]})
    assert [CUSTOMER] == [rating.principal_id for rating in till.ratings()]


# --- run ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_run_id_used_again_is_another_run(till: Till, colour: str) -> None:
    """Two calls, one after the other, under one run id of the user's are charged each."""
    model, run_id = ScriptedChatModel(), uuid4()
    for _ in range(2):
        perform(model, "q", colour, till.unwitnessed(run_id=run_id))
    ratings = till.ratings()
    assert [str(run_id)] * 2 == [rating.labels["run_id"] for rating in ratings]
    assert (2, []) == (till.asked, till.open_leases())


def test_a_run_id_in_use_is_refused(make_till: MakeTill) -> None:
    """A second call under a run id whose first call still runs is refused, as one of them would be free."""
    till = make_till()
    slow, run_id = ScriptedChatModel(hang_after=0), uuid4()
    first = threading.Thread(target=lambda: slow.invoke("q", till.unwitnessed(run_id=run_id)))
    first.start()
    while not slow.calls:
        threading.Event().wait(0.001)
    with pytest.raises(ConfigurationError, match="run_id"):
        slow.invoke("q", till.unwitnessed(run_id=run_id))
    slow.release()
    first.join()
    assert (1, 1) == (slow.calls, len(settled_sync(till)))


async def test_a_run_id_in_use_by_another_task_is_refused(make_till: MakeTill) -> None:
    """A second task under a run id whose first task still runs is refused."""
    till = make_till()
    slow, run_id = ScriptedChatModel(hang_after=0), uuid4()
    first = asyncio.create_task(slow.ainvoke("q", till.unwitnessed(run_id=run_id)))
    await until(lambda: slow.calls > 0)

    async def second() -> None:
        await slow.ainvoke("q", till.unwitnessed(run_id=run_id))

    with pytest.raises(ConfigurationError, match="run_id"):
        await asyncio.create_task(second())
    slow.release()
    await first
    assert 1 == len(await settled(till))


# --- the gate's own failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("fault", ["status_500", "reset", "drop_answer"])
def test_a_failing_settlement_takes_no_answer_away(make_till: MakeTill, fault: Any, mode: str) -> None:
    """The caller gets the answer though the gate fails to take the charge, which is made later, once."""
    till = make_till(replays=False, options={"settle": "inline"})
    for verb in ("commit", "batch"):
        till.ledger.fault(fault, on=verb, times=4)
    drive(ScriptedChatModel(), "q", mode, till.config())
    assert 1 == len(till.witness.finished("model"))
    settled_sync(till)
    till.assert_exact()


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_of_a_denied_run_other_handlers_see_no_start(make_till: MakeTill, colour: str) -> None:
    """Handlers behind ours see nothing of a denied run, so none is left with a start that never ends."""
    till = make_till(grant=0)
    with pytest.raises(GateDenied):
        perform(ScriptedChatModel(), "q", colour, till.config())
    assert {} == till.witness.runs


# --- other handlers that stop a run in its middle -------------------------------------------------------------------


class StopsAt(BaseCallbackHandler):
    """A guardrail: stops a stream at a word."""

    raise_error = True
    run_inline = True

    def on_llm_new_token(self, token: Any, **told: Any) -> None:
        if "what" in token:
            msg = "not that word"
            raise PermissionError(msg)


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize("name", ["model", "chain"])
def test_what_another_handler_stops_in_its_middle_is_charged(till: Till, name: str, mode: str) -> None:
    """A stream that a guardrail stops is charged what was delivered until then, estimated."""
    shape = SHAPES[name]
    config = till.config()
    config["callbacks"].append(StopsAt())
    with pytest.raises(PermissionError, match="not that word"):
        drive(shape.build(shape.model()), shape.ask("q"), mode, config)
    ratings = settled_sync(till)
    heard = "".join(till.witness.texts)
    assert heard.endswith("what")
    assert [("estimated", -(-len(heard) // 4))] == [
        (rating.labels["usage_source"], rating.meters[f"{MODEL}.tokens.output"]) for rating in ratings
    ]


# --- when our own code breaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
def test_an_end_that_cannot_be_recorded_takes_no_answer_away(
    make_till: MakeTill, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """An error in the package itself at the end of a run is logged; the caller has the answer, no lease stays open."""

    def breaks(*_: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(ModelMeter, "finished", breaks)
    monkeypatch.setattr(Delivered, "add", breaks)
    till = make_till()
    drive(ScriptedChatModel(), "q", mode, till.config())
    assert 1 == len(till.witness.finished("model"))
    assert [] == settled_sync(till)
    assert "an end event could not be recorded" in caplog.text
    till.unpaid = 1
