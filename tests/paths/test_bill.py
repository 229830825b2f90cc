"""What work cost: by root run, thread, customer; by feature, meter and model."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console

from langchain_vluna import Bill, ConfigurationError, gated
from langchain_vluna._core.types import Commit, Identity
from langchain_vluna._io.outbox import Row
from langchain_vluna._io.relay import Outcome, RelayTimes
from langchain_vluna.gate.bill import Bills
from langchain_vluna.gate.hints import Advice
from langchain_vluna.gate.observers import Observers
from langchain_vluna.gate.spec import RunSpec, UsageBody
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CALL_XUSD, CUSTOMER, GRANT, INPUT_XUSD, MODEL, OUTPUT_XUSD, Till
from tests.surfaces.shapes import add, calling

USAGE = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
PRICE = 20 * INPUT_XUSD + 5 * OUTPUT_XUSD


def model(**options: object) -> ScriptedChatModel:
    return ScriptedChatModel(**{"responses": ["Yes."], "usage": USAGE, **options})  # type: ignore[arg-type]


def test_a_bill_says_what_a_root_run_cost(till: Till):
    """The bill of a run id is told apart by feature, meter and model, and its amount is the ledger's."""
    run_id = uuid4()
    handler = till.handler()
    agent: Any = create_agent(ScriptedChatModel(responses=[calling]), [add])
    agent.invoke({"messages": [("user", "2 + 3?")]}, till.config(handler, run_id=run_id))
    ratings = till.ratings()
    bill = handler.bill(run_id)
    tokens = sum(rating.quantity for rating in ratings if rating.feature_code == MODEL)
    assert {MODEL: tokens, "tool.add": 1} == bill.by_feature
    assert {"scripted-1": tokens} == bill.by_model
    assert tokens == bill.tokens == bill.by_meter[f"{MODEL}.tokens.input"] + bill.by_meter[f"{MODEL}.tokens.output"]
    assert CALL_XUSD == bill.amount_by_feature["tool.add"] == bill.amount_by_meter["tool.add"]
    assert sum(bill.amount_by_feature.values()) == sum(bill.amount_by_meter.values()) == bill.amount_xusd
    assert (3, 0, 0, GRANT - till.balance()) == (bill.runs, bill.pending, bill.alarmed, bill.amount_xusd)


def test_a_run_is_pending_until_the_gate_has_answered(make_till):
    """A finished run that is not settled is pending with its tokens and no amount; settled, it has an amount."""
    till = make_till(options={"relay": RelayTimes(linger=1.0)})
    model().invoke("question", till.config())
    bill = till.gate.bill(principal_id=CUSTOMER)
    assert (1, 25, 0) == (bill.pending, bill.tokens, bill.amount_xusd)
    till.ratings()
    assert (0, 25, PRICE) == (bill.pending, bill.tokens, bill.amount_xusd)


def test_a_flush_ends_when_bills_and_alarms_are_told(make_till):
    """When `flush` returns, whoever learns of a settlement has been told, however long that takes."""
    told: list[int] = []

    def slow(_: object) -> None:
        threading.Event().wait(0.2)
        told.append(till.gate.bill(principal_id=CUSTOMER).pending)

    till = make_till(options={"on_alarm": slow})
    model(model="unpriced").invoke("question", till.config())
    assert 0 == till.gate.flush()
    assert [1] == told
    assert (0, 1) == (till.gate.bill(principal_id=CUSTOMER).pending, till.gate.bill(principal_id=CUSTOMER).alarmed)


def test_a_running_model_is_pending(till: Till):
    """While a model runs, its run is admitted and pending."""
    seen: list[int] = []

    def look(_: object) -> AIMessage:
        bill = till.gate.bill(principal_id=CUSTOMER)
        seen.extend([bill.runs, bill.pending, bill.tokens])
        return AIMessage("Yes.")

    model(responses=[look]).invoke("question", till.config())
    assert [1, 1, 0] == seen


def test_threads_and_customers_have_bills(till: Till):
    """Calls of one LangGraph thread add up on its bill, those of a customer on the customer's."""
    agent: Any = create_agent(model(), [], checkpointer=InMemorySaver())
    for thread in ("a", "b", "a"):
        agent.invoke({"messages": [("user", "?")]}, till.config(configurable={"thread_id": thread}))
    till.ratings()
    bills = [till.gate.bill(thread_id="a"), till.gate.bill(thread_id="b"), till.gate.bill(principal_id=CUSTOMER)]
    assert [2, 1, 3] == [bill.runs for bill in bills]
    assert [2 * PRICE, PRICE, 3 * PRICE] == [bill.amount_xusd for bill in bills]


def test_nested_and_parallel_runs_are_on_the_root_runs_bill(till: Till):
    """Branches, and chains inside chains, are on the bill of the run that was started."""
    run_id = uuid4()
    inner: Any = RunnableLambda(lambda text: model().invoke(str(text)))
    RunnableParallel(a=inner, b=RunnableLambda(str) | model(), c=model()).invoke("?", till.config(run_id=run_id))
    till.ratings()
    assert (3, 3 * PRICE) == (till.gate.bill(run_id=str(run_id)).runs, till.gate.bill(run_id=str(run_id)).amount_xusd)


def test_what_is_not_charged_is_alarmed_on_the_bill(make_till):
    """A run on a meter without a price costs nothing, is not pending, and is counted as alarmed."""
    till = make_till()
    model(model="unpriced").invoke("question", till.config())
    till.gate.flush()
    bill = till.gate.bill(principal_id=CUSTOMER)
    assert (1, 0, 0, 1) == (bill.runs, bill.pending, bill.amount_xusd, bill.alarmed)
    assert "pricing.not_configured" in {hint.type for hint in bill.hints}
    assert "1 runs were not charged" in str(bill)


def test_a_cancelled_run_costs_nothing(till: Till):
    """A run that failed is on the bill as a run, with nothing pending and nothing used."""
    with pytest.raises(RuntimeError):
        model(responses=[RuntimeError("provider")]).invoke("question", till.config())
    till.ratings()
    bill = till.gate.bill(principal_id=CUSTOMER)
    assert (1, 0, 0, 0) == (bill.runs, bill.pending, bill.tokens, bill.amount_xusd)
    assert {} == bill.by_feature


def test_an_end_after_the_run_was_given_up_is_on_the_bill(till: Till):
    """What is ingested for a run that was cancelled as an orphan before is added, and pending until then."""

    def give_up(_: object) -> AIMessage:
        till.gate.engine.watch.settle_all("the test says so")
        till.gate.flush()
        return AIMessage("Late.")

    model(responses=[give_up]).invoke("question", till.config())
    (rating,) = till.ratings()
    bill = till.gate.bill(principal_id=CUSTOMER)
    assert ("ingest", PRICE) == (rating.source, rating.amount_xusd)
    assert (1, 0, 25, PRICE) == (bill.runs, bill.pending, bill.tokens, bill.amount_xusd)


def test_usage_told_after_its_settlement_is_on_the_bill():
    """The relay may settle a run before the thread that ran it has told its bills: nothing is lost or counted twice."""
    bills, spec = (
        Bills(),
        RunSpec(run_id="1", parent_id=None, root_id="1", kind="work", identity=Identity(CUSTOMER), feature_code="a.b"),
    )
    advice = Advice(None, brief=1.0, clock=lambda: 0.0, revision=lambda: 0)
    observers = Observers(bills, advice, None, lambda _: None)
    observers.admitted("attempt", spec, ())
    body = {"feature_code": "a.b", "quantity_minor": "7"}
    row = Row(attempt="attempt", identity=spec.identity, run_id="1", root_id="1", ask=body, usage=body)
    for _ in range(2):
        observers.outcome(Outcome(row, "charged", Commit("id", 70)))
    for _ in range(2):
        observers.used("attempt", UsageBody(body, "reported"))
    bill = bills.get(("principal", CUSTOMER))
    assert (1, 0, 70, {"a.b": 7}) == (bill.runs, bill.pending, bill.amount_xusd, bill.by_feature)


def test_a_bill_prints_and_is_plain_data(till: Till):
    """A bill is one line per meter as text, a table with rich, and a dict of plain data."""
    with gated(till.handler()) as bill:
        model().invoke("question")
    till.ratings()
    assert f"1 runs, 25 tokens, {PRICE} XUSD\n  {MODEL}.tokens.input: 20\n  {MODEL}.tokens.output: 5" == str(bill)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(bill)
    assert all(text in captured.get() for text in (f"{MODEL}.tokens.output", "75", f"{PRICE} XUSD"))
    assert {
        "amount_xusd": PRICE,
        "pending": 0,
        "runs": 1,
        "alarmed": 0,
        "tokens": 25,
        "by_feature": {MODEL: 25},
        "by_meter": {f"{MODEL}.tokens.input": 20, f"{MODEL}.tokens.output": 5},
        "by_model": {"scripted-1": 25},
        "amount_by_feature": {MODEL: PRICE},
        "amount_by_meter": {f"{MODEL}.tokens.input": 60, f"{MODEL}.tokens.output": 75},
        "hints": [],
    } == bill.as_dict()


def test_an_unknown_run_has_an_empty_bill(till: Till):
    """Nothing known is a bill of nothing, not an error."""
    bill = till.gate.bill(run_id="unheard of")
    assert isinstance(bill, Bill)
    assert "0 runs, 0 tokens, 0 XUSD" == str(bill)


@pytest.mark.parametrize("keys", [{}, {"run_id": "a", "thread_id": "b"}])
def test_a_bill_is_of_one_thing(till: Till, keys: dict[str, str]):
    """None or two of run, thread and customer is a configuration error."""
    with pytest.raises(ConfigurationError, match="exactly one"):
        till.gate.bill(**keys)
