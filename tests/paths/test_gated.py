"""`with gated(handler) as bill`: on for everything inside, with no config passed."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tracers.context import _configure_hooks
from langgraph.graph import END, START, StateGraph

from langchain_vluna import ConfigurationError, Gate, GateDenied, VlunaCallbackHandler, gated
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, GRANT, Till
from tests.surfaces.shapes import SHAPES, run


def answering(**options: object) -> ScriptedChatModel:
    return SHAPES["model"].model(**options)


@pytest.mark.parametrize("shape_name", SHAPES)
def test_everything_inside_is_charged_and_billed(till: Till, shape_name: str):
    """Each shape of use is charged as reported with only a witness in its config, and the bill is the ledger's sum."""
    shape = SHAPES[shape_name]
    with gated(till.handler()) as bill:
        asked = run(shape, shape.build(shape.model()), shape.modes()[0], {"callbacks": [till.witness]})
    till.assert_exact()
    assert (asked * (shape.models + shape.tools), 0) == (bill.runs, bill.pending)
    assert GRANT - till.balance() == bill.amount_xusd


def test_outside_of_the_block_nothing_is_gated(till: Till):
    """Before and after the block the handler is off."""
    model = answering()
    model.invoke("before")
    with gated(till.handler()):
        model.invoke("inside")
    model.invoke("after")
    assert 1 == len(till.ratings())


def test_a_handler_that_is_passed_as_well_charges_once(till: Till):
    """The same handler, or another one of the same gate, in the config changes nothing."""
    model, handler = answering(), till.handler()
    with gated(handler) as bill:
        model.invoke("one", till.config(handler))
        model.invoke("two", till.config(till.handler()))
        model.batch(["three", "four"], till.config(handler))
    till.assert_exact()
    assert (4, 0) == (bill.runs, bill.pending)


async def test_tasks_and_threads_that_copy_the_context_are_inside(till: Till):
    """Tasks, `to_thread`, LangChain's executor and a copied context in a raw thread all are gated."""
    model = answering()
    with gated(till.handler()) as bill:
        await asyncio.gather(model.ainvoke("a task"), asyncio.create_task(model.ainvoke("another")))
        await asyncio.to_thread(model.invoke, "a thread")
        with ContextThreadPoolExecutor() as pool:
            list(await asyncio.to_thread(pool.map, model.invoke, ["one", "two"]))
        thread = threading.Thread(target=contextvars.copy_context().run, args=(model.invoke, "raw"))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert (6, 6) == (len(await asyncio.to_thread(till.ratings)), bill.runs)


class State(TypedDict):
    text: str


async def test_a_node_that_drops_callbacks_is_inside(till: Till):
    """A graph's node that calls its model with `callbacks=[]` is gated all the same, in both colours."""
    model = answering()

    def node(state: State) -> State:
        return {"text": str(model.invoke(state["text"], {"callbacks": []}).content)}

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    app: Any = graph.compile()
    with gated(till.handler()) as bill:
        await asyncio.to_thread(app.invoke, {"text": "sync"})
        await app.ainvoke({"text": "async"})
    assert (2, 2) == (len(await asyncio.to_thread(till.ratings)), bill.runs)


def test_of_blocks_in_each_other_the_inner_handler_pays_and_both_bill(till: Till):
    """Inside an inner block its customer pays; the outer bill covers both, the inner one its own."""
    till.ledger.grant("customer_2", GRANT)
    model = answering()
    with gated(till.handler()) as outer:
        model.invoke("first")
        with gated(till.handler(principal_id="customer_2")) as inner:
            model.invoke("second")
        model.invoke("third")
    assert {CUSTOMER: 2, "customer_2": 1} == Counter(rating.principal_id for rating in till.ratings())
    assert (3, 1) == (outer.runs, inner.runs)
    assert GRANT - till.ledger.balance("customer_2") == inner.amount_xusd
    assert GRANT - till.balance() + inner.amount_xusd == outer.amount_xusd


async def test_blocks_side_by_side_have_bills_of_their_own(till: Till):
    """Ten concurrent tasks in blocks of one handler are billed apart, each with its own tokens."""
    handler, model = till.handler(), answering()

    async def one(number: int) -> tuple[int, int]:
        with gated(handler) as bill:
            answer = await model.ainvoke("x" * number)
        assert answer.usage_metadata is not None
        return answer.usage_metadata["total_tokens"], bill.tokens

    pairs = await asyncio.gather(*(one(number) for number in range(1, 11)))
    assert [reported for reported, _ in pairs] == [billed for _, billed in pairs]
    assert 10 == len({billed for _, billed in pairs})


def test_parallel_branches_are_on_one_bill(till: Till):
    """Branches that run in threads are all on the bill of the block around them."""
    model = answering()
    branches = RunnableParallel({name: RunnableLambda(str) | model for name in "abcd"})
    with gated(till.handler()) as bill:
        branches.invoke("question")
    assert (4, 4) == (len(till.ratings()), bill.runs)


async def test_a_denial_blocks_inside(make_till):
    """Without balance a model inside is not called, in either colour; after a top-up it is."""
    till = make_till(grant=0)
    model = answering()
    with gated(till.handler()) as bill:
        with pytest.raises(GateDenied):
            await model.ainvoke("no")
        with pytest.raises(GateDenied):
            await asyncio.to_thread(model.invoke, "no")
        assert (0, 0) == (model.calls, bill.runs)
        till.ledger.grant(CUSTOMER, 10**6)
        await model.ainvoke("yes")
    assert (1, 1) == (model.calls, bill.runs)


async def test_a_cancelled_call_is_settled_at_once(make_till):
    """A cancelled `ainvoke` in a task that goes on leaves no open lease: no callback told of it, the block did."""
    till = make_till()
    model = answering(hang_after=0)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            with gated(till.handler()) as bill:
                await model.ainvoke("hangs")
    assert 0 == await till.gate.aflush(5.0)
    assert ["canceled"] == [lease.state for lease in till.ledger.leases()]
    assert (1, 0, 0) == (bill.runs, bill.pending, bill.amount_xusd)


async def test_a_cancelled_stream_is_charged_for_what_it_delivered(till: Till):
    """A stream that is cancelled inside the block is billed for its delivered part, once."""
    model = answering(hang_after=2)

    async def read() -> None:
        with gated(till.handler()):
            async for _ in model.astream("hangs"):
                pass

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.05)
    await till.gate.aflush(5.0)
    (rating,) = till.ledger.ratings()
    assert "estimated" == rating.labels["usage_source"]
    assert [] == [lease for lease in till.ledger.leases("active") if not lease.commits]


async def test_an_error_in_a_task_leaves_other_runs_alone(till: Till):
    """A cancellation that leaves one block does not settle a run that another task has open."""
    handler, slow, stuck = till.handler(), answering(hang_after=0), answering(hang_after=0)

    async def other() -> None:
        with gated(handler):
            await slow.ainvoke("slow")

    task = asyncio.create_task(other())
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            with gated(handler):
                await stuck.ainvoke("stuck")
    slow.release()
    await task
    assert 1 == len(await asyncio.to_thread(till.ratings))


def test_uses_register_no_further_hook(till: Till):
    """However often a block is used, LangChain knows one hook of this package."""
    handler = till.handler()
    before = len(_configure_hooks)
    for _ in range(5):
        with gated(handler):
            pass
    assert before == len(_configure_hooks)


async def test_a_generator_closed_from_elsewhere_ends_quietly(till: Till):
    """A block inside an async generator that another task closes raises nothing."""
    model = answering()

    async def stream() -> AsyncGenerator[str, None]:
        with gated(till.handler()):
            async for chunk in model.astream("question"):
                yield str(chunk.content)

    generator = stream()
    await anext(generator)
    await asyncio.create_task(generator.aclose())
    await till.gate.aflush(5.0)
    assert 1 == len(till.ledger.ratings())


def test_a_bill_stays_live_however_many_others_there_are(till: Till):
    """The bill of a block still moves after thousands of other bills were asked for."""
    model = answering()
    with gated(till.handler()) as bill:
        model.invoke("first")
        for number in range(2_500):
            till.gate.bill(run_id=f"other_{number}")
        model.invoke("second")
    till.ratings()
    assert (2, 0) == (bill.runs, bill.pending)
    assert GRANT - till.balance() == bill.amount_xusd


def test_what_is_no_handler_is_refused(till: Till):
    """A gate instead of a handler is a configuration error that says what is wanted."""
    with pytest.raises(ConfigurationError, match="VlunaCallbackHandler"), gated(till.gate):  # type: ignore[arg-type]
        pass


def test_works_as_a_decorator():
    """A function can be gated as a whole."""
    with Gate.local() as gate:
        gate.local_gate.grant(CUSTOMER, GRANT)

        @gated(VlunaCallbackHandler(gate, principal_id=CUSTOMER))
        def ask() -> None:
            answering().invoke("question")

        ask()
        ask()
        assert 2 == gate.bill(principal_id=CUSTOMER).runs
