"""The fixtures' assertions: each passes on what is right, and fails on each way of being wrong."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from langchain_core.messages.ai import UsageMetadata

from langchain_vluna import ConfigurationError, Gate, GateDenied, GateUnavailable, RetryPolicy, VlunaCallbackHandler
from langchain_vluna.testing.kit import NOON, GateKit, LedgerKit, ServerKit
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.bad_days import BAD_DAYS, BadDay, impatient, old_lease, set_up, symptom

FEATURE = "scripted.scripted-1"
USAGE = UsageMetadata(input_tokens=40, output_tokens=9, total_tokens=49)


def model(**settings) -> ScriptedChatModel:
    return ScriptedChatModel(usage=USAGE, **settings)


@pytest.fixture
def shop(vluna_gate: GateKit) -> GateKit:
    """The model has a price and the customer money."""
    vluna_gate.price(FEATURE, f"{FEATURE}.tokens.input", 2)
    vluna_gate.price(FEATURE, f"{FEATURE}.tokens.output", 8)
    vluna_gate.grant("c1", 100_000)
    return vluna_gate


def ask(gate: Gate, **metadata: str) -> UUID:
    run_id = uuid4()
    handler = VlunaCallbackHandler(gate, principal_id="c1")
    model().invoke("Hello?", config={"callbacks": [handler], "run_id": run_id, "metadata": metadata})
    return run_id


def test_a_charged_run_passes_all(shop: GateKit):
    """One finished run satisfies each assertion."""
    run_id = ask(shop, thread_id="t1")
    shop.assert_billed_once(run_id)
    shop.assert_billed_once(run_id, runs=1)
    shop.assert_billed_once(thread="t1")
    shop.assert_tokens(FEATURE, input=40, output=9, total=49, cached=0)
    shop.assert_tokens(FEATURE, principal_id="c1", input=40)
    shop.assert_nothing_open()
    assert shop.gate is shop


def test_runs_below_a_root_count_as_its_own(shop: GateKit):
    """The id of a chain stands for the models in it."""
    handler = VlunaCallbackHandler(shop, principal_id="c1")
    run_id = uuid4()
    (model() | (lambda message: message.content) | model()).invoke(
        "x", config={"callbacks": [handler], "run_id": run_id}
    )
    shop.assert_billed_once(run_id, runs=2)
    with pytest.raises(AssertionError, match=r"3 runs should have been billed, 2 were"):
        shop.assert_billed_once(run_id, runs=3)


def test_nothing_billed_is_a_failure(shop: GateKit):
    """A run that nobody charged fails, by id and by thread."""
    with pytest.raises(AssertionError, match="nothing was billed for run r1"):
        shop.assert_billed_once("r1")
    with pytest.raises(AssertionError, match="nothing was billed for thread 't1'"):
        shop.assert_billed_once(thread="t1")


def test_a_double_charge_is_a_failure(shop: GateKit):
    """Two charges of one run fail, and both are in the table."""
    for _ in range(2):
        shop.ingest(feature_code=FEATURE, principal_id="c1", quantity=5, labels={"run_id": "r1"})
    with pytest.raises(AssertionError, match=r"run r1 of scripted.scripted-1 was charged 2 times") as failure:
        shop.assert_billed_once("r1")
    assert 2 == str(failure.value).count("\n  c1  ")


def test_a_quarantined_charge_is_a_failure_that_says_why(vluna_gate: GateKit):
    """What the gate recorded but did not charge counts as not billed."""
    run_id = ask(vluna_gate)
    with pytest.raises(AssertionError, match=r"not charged: pricing.not_configured; give each of its meters a price"):
        vluna_gate.assert_billed_once(run_id)
    with pytest.raises(AssertionError, match="40 input tokens should have been billed, 0 were"):
        vluna_gate.assert_tokens(FEATURE, input=40)


def test_an_open_lease_is_a_failure(shop: GateKit):
    """A lease that nobody committed or cancelled fails, until it is given back."""
    lease = shop.authorize(feature_code=FEATURE, principal_id="c1")
    with pytest.raises(AssertionError, match=f"lease {lease.lease_id} of {FEATURE} for 'c1' is open"):
        shop.assert_nothing_open()
    shop.cancel(lease)
    shop.assert_nothing_open()


def test_a_waiting_row_is_a_failure(shop: GateKit, monkeypatch: pytest.MonkeyPatch):
    """A charge that the gate has not answered yet fails, with the reason of the last try."""
    with shop.outage("commit"), shop.outage("batch"), monkeypatch.context() as patience:
        run_id = ask(shop)
        patience.setattr("langchain_vluna.testing.kit._SETTLE", 0.3)
        with pytest.raises(AssertionError, match=f"run {run_id} waits in the outbox: committing"):
            shop.assert_nothing_open()
    shop.assert_nothing_open()
    shop.assert_billed_once(run_id)


def test_another_customer_is_another_sum(shop: GateKit):
    """With a customer named, only that customer's charges are added up."""
    ask(shop)
    with pytest.raises(AssertionError, match="40 input tokens should have been billed, 0 were"):
        shop.assert_tokens(FEATURE, principal_id="c2", input=40)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda kit: kit.assert_billed_once(), "takes a run id or thread=..., one of them"),
        (lambda kit: kit.assert_billed_once("r1", thread="t1"), "one of them"),
        (lambda kit: kit.assert_tokens(FEATURE), "needs at least one expected number"),
        (lambda kit: kit.assert_tokens(FEATURE, inputs=3), "knows no inputs; it takes input, output"),
    ],
)
def test_assertions_that_assert_nothing_are_refused(vluna_gate: GateKit, call, words: str):
    """An assertion that could not fail is an error of its own."""
    with pytest.raises(ConfigurationError, match=words):
        call(vluna_gate)


def test_the_clock_stands_until_it_is_moved(shop: GateKit):
    """Time passes only where the test says so, and the gate's windows follow it."""
    assert NOON == shop.now
    shop.rate(FEATURE, 1, 60)
    ask(shop)
    with pytest.raises(GateDenied):
        ask(shop)
    shop.advance(60)
    ask(shop)
    assert 60 == (shop.now - NOON).total_seconds()


@pytest.mark.vluna(timeout=0.2, deny_memo=0, lease_ttl=60)
def test_the_marker_sets_both(vluna_gate: GateKit):
    """Keywords of the gate and of the embedded gate reach each its own."""
    with vluna_gate.outage(), pytest.raises(GateUnavailable):
        vluna_gate.authorize(feature_code="f", principal_id="c1")
    lease = vluna_gate.authorize(feature_code="f", principal_id="c1")
    vluna_gate.advance(200)
    assert ["lease.expired"] == [hint.type for hint in vluna_gate.commit(lease, quantity=1).hints][:1]


def test_server_takes_what_the_environment_says(vluna_server: ServerKit):
    """`Gate.from_env()` reaches the server, and its assertions wait for the background."""
    vluna_server.price("f", "f", 3)
    vluna_server.grant("c1", 1000)
    with Gate.from_env() as gate:
        with gate.run(feature_code="f", principal_id="c1", labels={"thread_id": "t1"}) as run:
            run.record(2)
        vluna_server.assert_billed_once(thread="t1", runs=1)
    vluna_server.assert_nothing_open()
    assert 994 == vluna_server.balance("c1")
    assert {"VLUNA_SERVICE_BASE_URL": vluna_server.url}.items() <= vluna_server.environ.items()


def test_server_waits_before_it_fails(vluna_server: ServerKit, monkeypatch: pytest.MonkeyPatch):
    """An assertion over HTTP fails only after its time is up."""
    monkeypatch.setattr("langchain_vluna.testing.kit._SETTLE", 0.05)
    with pytest.raises(AssertionError, match="nothing was billed for run r1"):
        vluna_server.assert_billed_once("r1")


@pytest.mark.parametrize("day", BAD_DAYS, ids=str)
@pytest.mark.vluna(retry=RetryPolicy(attempts=1), deny_memo=0)
def test_each_kind_of_bad_day_can_be_had(
    vluna_gate: GateKit, vluna_server: ServerKit, day: BadDay, subtests: pytest.Subtests
):
    """Both fixtures make every bad day, in process and over HTTP, and end it."""
    for kit in (vluna_gate, vluna_server):
        with subtests.test(kit=type(kit).__name__), impatient(kit.ledger, vluna_server.url) as other:
            client = vluna_gate if kit is vluna_gate else other
            set_up(kit.ledger)
            lease = old_lease(client)
            _make(kit, day)
            assert day.symptom == symptom(client, kit.ledger, lease)
            kit.mend()
            kit.advance(-kit.ledger.ahead)
            assert "well" == symptom(client, kit.ledger, old_lease(client))


def _make(kit: LedgerKit, day: BadDay) -> None:
    match day.command:
        case "outage":
            kit.outage()
        case "skew":
            kit.advance(day.seconds or 0)
        case "expire":
            kit.expire_leases()
        case _:
            kit.fault(day.kind, on="authorize", seconds=day.seconds)  # type: ignore[arg-type]  # one of its literals


def test_long_ledgers_are_cut(shop: GateKit):
    """The table of a long ledger shows its end and says so."""
    for number in range(60):
        shop.ingest(feature_code=FEATURE, principal_id="c1", quantity=1, labels={"run_id": f"r{number}"})
    text = shop.table()
    assert "(the last 40 ratings)" in text
    assert "r59" in text
    assert "r19 " not in text
