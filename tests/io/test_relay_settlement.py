"""How rows are settled, one by one and in batches, and what each answer of the gate means for them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from langchain_vluna._core.errors import GateRejected, GateUnavailable
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import HttpResponse, Identity, Lease
from langchain_vluna._io.outbox import rows
from langchain_vluna._io.relay.settlement import Unsettled, groups
from tests.support.outbox import CUSTOMER, intend, usage
from tests.support.till import Workbench


@pytest.fixture
def bench() -> Workbench:
    return Workbench()


def test_usage_is_committed_once(bench: Workbench):
    """A run with usage is charged under its own key and leaves no row."""
    row = bench.used("a", 7)
    bench.settle(row)
    bench.settle(row)
    assert {"a-c": 7} == bench.applied()
    assert None is bench.state("a")
    assert ["charged"] == bench.kinds


def test_a_failed_run_is_cancelled(bench: Workbench):
    """A run without usage gives its lease back and leaves a tombstone without a handle."""
    bench.lease("a")
    bench.settle(bench.end("a"))
    assert ["canceled"] == [lease.state for lease in bench.ledger.leases()]
    assert (State.CANCELED, None) == (bench.state("a"), bench.row("a").handle)
    assert ["released"] == bench.kinds


def test_usage_after_a_cancel_is_ingested(bench: Workbench):
    """An end that comes after its run was cancelled is charged, once, without its lease."""
    bench.lease("a")
    bench.settle(bench.end("a"))
    bench.settle(bench.end("a", usage(9)))
    assert {"a-i": 9} == bench.applied()
    assert ["released", "ingested"] == bench.kinds


def test_usage_while_a_cancel_waits_cancels_then_ingests(bench: Workbench):
    """A run whose cancel is not answered yet is cancelled first, and heard of once, as charged."""
    bench.lease("a")
    bench.end("a")
    bench.settle(bench.end("a", usage(9)))
    assert {"a-i": 9} == bench.applied()
    assert ["canceled"] == [lease.state for lease in bench.ledger.leases()]
    assert ["ingested"] == bench.kinds


def test_usage_while_a_cancel_is_on_its_way_is_ingested(bench: Workbench):
    """Usage that is recorded between the sending of a cancel and its answer is charged at once."""
    bench.lease("a")
    cancel = bench.settlement.one(bench.end("a"))
    send = next(cancel)
    bench.end("a", usage(9))
    answer = bench.ledger.send(send.request)  # type: ignore[union-attr]
    ingest = cancel.send(answer)
    with pytest.raises(StopIteration):
        cancel.send(bench.ledger.send(ingest.request))  # type: ignore[union-attr]
    assert {"a-i": 9} == bench.applied()
    assert ["ingested"] == bench.kinds


def test_ingested_usage_says_when_it_occurred(bench: Workbench):
    """Usage that is charged late bears the time of its run, the same on every try."""
    intend(bench.outbox, "a", state=State.UNGATED)
    row = bench.end("a", usage(9))
    bench.now += 3600
    with pytest.raises(Unsettled), bench.ledger.fault("drop_answer", on="ingest"):
        bench.settle(row)
    bench.now += 3600
    bench.settle(bench.row("a"))
    bodies = {request.content for request in bench.wire.requests}
    assert ["2023-11-14T22:13:20+00:00"] == [json.loads(body)["occurred_at"] for body in bodies]
    assert {"a-i": 9} == bench.applied()


def test_a_lease_that_may_exist_is_found_and_cancelled(bench: Workbench):
    """After a lost answer to authorize the lease is found by its key, and given back."""
    intend(bench.outbox, "a")
    with bench.ledger.fault("drop_answer", on="authorize"), pytest.raises(GateUnavailable):
        bench.lease("a")
    bench.outbox.apply(lambda db: rows.advance(db, "a", Event.ABANDONED, {}))
    bench.settle(bench.row("a"))
    assert ["canceled"] == [lease.state for lease in bench.ledger.leases()]
    assert None is bench.state("a")


def test_a_lease_that_has_expired_is_not_looked_for(bench: Workbench):
    """After the life of a lease there is nothing to find."""
    intend(bench.outbox, "a", state=State.VOIDING)
    bench.now += 13 * 3600
    bench.settle(bench.row("a"))
    assert [] == bench.wire.verbs
    assert None is bench.state("a")


def test_a_customer_who_is_denied_by_now_is_not_asked_for_ever(bench: Workbench):
    """A lease that the gate does not show any more is given up after some tries; it expires by itself."""
    intend(bench.outbox, "a", state=State.VOIDING, identity=Identity("penniless"))
    with pytest.raises(Unsettled):
        bench.settle(bench.row("a"))
    bench.settle(replace(bench.row("a"), tries=8))
    assert None is bench.state("a")


def test_a_lost_answer_is_asked_for_with_the_same_bytes(bench: Workbench):
    """After a commit whose answer was lost, the same request gives the same charge."""
    row = bench.used("a", 7)
    with bench.ledger.fault("drop_answer", on="commit"), pytest.raises(Unsettled):
        bench.settle(row)
    assert State.COMMITTING is bench.state("a")
    bench.settle(row)
    first, second = (request for request in bench.wire.requests if request.target.endswith("/commits"))
    assert (first.content, first.headers["idempotency-key"]) == (second.content, second.headers["idempotency-key"])
    assert {"a-c": 7} == bench.applied()


@pytest.mark.parametrize("fault", ["reset", "status_500", "status_429"])
@pytest.mark.parametrize("verb", ["commit", "cancel", "ingest", "authorize"])
def test_a_row_waits_where_trying_again_may_help(bench: Workbench, fault: Any, verb: Any):
    """An unanswered or busy gate settles nothing, and changes nothing of the row."""
    bench.lease("a")
    state = {
        "commit": State.COMMITTING,
        "cancel": State.CANCELING,
        "ingest": State.INGESTING,
        "authorize": State.VOIDING,
    }[verb]
    bench.outbox.apply(lambda db: db.execute("UPDATE run SET state = ?, usage = ?", (state, json.dumps(usage(7)))))
    with bench.ledger.fault(fault, on=verb), pytest.raises(Unsettled):
        bench.settle(bench.row("a"))
    assert (state, []) == (bench.state("a"), bench.kinds)
    bench.settle(bench.row("a"))
    assert 1 == len(bench.kinds)


def test_wrong_credentials_make_rows_wait(bench: Workbench):
    """What people can mend, such as a secret, costs no charge: the row waits."""
    row = bench.used("a")
    bench.client._endpoint = replace(bench.client._endpoint, key=b"not the key of this gate")
    with pytest.raises(Unsettled, match="signature"):
        bench.settle(row)
    assert State.COMMITTING is bench.state("a")


@pytest.mark.parametrize("status", [302, 404, 405, 407, 408, 421])
def test_an_answer_that_is_not_the_gate_s_makes_rows_wait(bench: Workbench, status: int):
    """A page of a proxy, or a redirect while somebody is at work on the server, is no word on the charge."""
    row, gate = bench.used("a", 7), bench.wire.gate
    bench.wire.gate = _Sending(lambda _: HttpResponse(status, {}, b"<html>"))  # type: ignore[assignment]
    with pytest.raises(Unsettled):
        bench.settle(row)
    assert State.COMMITTING is bench.state("a")
    bench.wire.gate = gate
    bench.settle(row)
    assert {"a-c": 7} == bench.applied()


@pytest.mark.parametrize("how", ["canceled", "expired", "unknown"])
def test_a_charge_that_its_lease_cannot_carry_is_ingested(bench: Workbench, how: str):
    """When the lease is gone and nothing was charged on it, the usage is charged without it."""
    row = bench.used("a", 7)
    if how == "canceled":
        bench.client.perform(bench.client._cancel(_lease(row)))
    elif how == "expired":
        bench.now += 13 * 3600
    else:
        handle = "lease.00000000-0000-4000-8000-000000000000.0123456789abcdef"
        bench.outbox.apply(lambda db: db.execute("UPDATE run SET handle = ?", (handle,)))
    bench.settle(bench.row("a"))
    assert {"a-i": 7} == bench.applied()
    assert ["lease_gone", "ingested"] == bench.kinds


def _lease(row: Any) -> Lease:
    return Lease(row.handle, row.feature_code, row.identity)


def test_a_lease_that_somebody_else_committed_is_for_a_person(bench: Workbench):
    """A lease closed by another commit charges nothing more: a dead letter says why, and keeps the usage."""
    row = bench.used("a", 7)
    bench.client.perform(bench.client._commit(_lease(row), quantity=1, idempotency_key="somebody"))
    bench.settle(row)
    assert (State.DEAD, usage(7)) == (bench.state("a"), bench.row("a").usage)
    assert "another commit had closed its lease" in str(bench.row("a").reason)
    assert ["dead"] == bench.kinds
    assert {"somebody": 1} == bench.applied()


def test_a_key_that_was_used_otherwise_is_for_a_person(bench: Workbench):
    """A conflict is never sent under another key: the row is dead, with its reason."""
    row = bench.used("a", 7)
    bench.client.perform(bench.client._commit(_lease(row), quantity=1, idempotency_key="a-c"))
    bench.settle(row)
    assert State.DEAD is bench.state("a")
    assert "idempotency" in str(bench.row("a").reason)
    assert {"a-c": 1} == bench.applied()


def test_an_inactive_feature_is_for_a_person(bench: Workbench):
    """Usage that the gate refuses for good is a dead letter, which can be tried again when that is mended."""
    row = bench.used("a", 7)
    bench.ledger.feature("model", active=False)
    bench.settle(row)
    assert State.DEAD is bench.state("a")
    bench.ledger.feature("model", active=True)
    bench.outbox.apply(lambda db: rows.advance(db, "a", Event.RECOMMIT, {}))
    bench.settle(bench.row("a"))
    assert {"a-c": 7} == bench.applied()
    assert ["dead", "charged"] == bench.kinds


def test_an_unpriced_commit_is_an_alarm(bench: Workbench):
    """What the gate records without charging is told as such, and its row is done."""
    bench.settle(bench.used("a", 7, "unpriced"))
    assert ["quarantined"] == bench.kinds
    assert ["quarantined"] == [rating.status for rating in bench.ratings()]
    assert None is bench.state("a")


def test_an_ingest_at_price_zero_is_an_alarm(bench: Workbench):
    """Ingest gives no hints, so a price of 0 counts as not charged, unless the meter is known to be free."""
    for attempt, feature in (("a", "unpriced"), ("b", "free")):
        intend(bench.outbox, attempt, state=State.UNGATED, ask={"feature_code": feature})
        bench.end(attempt, usage(7, feature))
    bench.ledger.price("free", "free", 0)
    bench.settle(bench.used("teacher", 1, "free"))
    bench.settle(bench.row("a"))
    bench.settle(bench.row("b"))
    assert ["charged", "quarantined", "ingested"] == bench.kinds


def test_a_little_of_something_cheap_is_no_alarm(bench: Workbench):
    """An amount of 0 below the first block of a price is a charge: the gate carries the rest over."""
    bench.ledger.price("cheap", "cheap", 5, per=1000, rounding="floor")
    intend(bench.outbox, "a", state=State.UNGATED, ask={"feature_code": "cheap"})
    bench.settle(bench.end("a", usage(7, "cheap")))
    assert ["ingested"] == bench.kinds
    assert 0 == bench.outcomes[0].commit.amount_xusd  # type: ignore[union-attr]


def test_a_batch_settles_all_of_one_customer(bench: Workbench):
    """Rows of one customer are charged in one request."""
    batch = [bench.used(attempt, n) for n, attempt in enumerate("abc", start=1)]
    bench.wire.requests.clear()
    bench.settle(*batch)
    assert ["batch"] == bench.wire.verbs
    assert {"a-c": 1, "b-c": 2, "c-c": 3} == bench.applied()
    assert ["charged"] * 3 == bench.kinds
    assert 0 == bench.outbox.apply(rows.count_unsettled)


def test_a_repeated_batch_charges_nothing_twice(bench: Workbench):
    """After a batch whose answer was lost, singles and batches of the same rows repeat the same charges."""
    batch = [bench.used(attempt) for attempt in "ab"]
    with bench.ledger.fault("drop_answer", on="batch"), pytest.raises(Unsettled):
        bench.settle(*batch)
    bench.settle(batch[0])
    bench.settle(*batch)
    assert {"a-c": 7, "b-c": 7} == bench.applied()


def test_each_batch_has_a_key_of_its_own(bench: Workbench):
    """An old batch key would repeat an old answer, so no two batches share one."""
    batch = [bench.used(attempt) for attempt in "ab"]
    for _ in range(2):
        with bench.ledger.fault("status_500", on="batch"), pytest.raises(Unsettled):
            bench.settle(*batch)
    keys = [r.headers["idempotency-key"] for r in bench.wire.requests if r.target.endswith("batch")]
    assert 2 == len(set(keys))


def test_a_batch_that_is_refused_goes_singly(bench: Workbench):
    """When the gate takes no batch, each row is committed by itself."""
    batch = [bench.used(attempt) for attempt in "ab"]
    answer = bench.ledger.send

    def refuse(request: Any) -> Any:
        if request.target.endswith("batch"):
            return replace(answer(request), status=413, content=b"{}")
        return answer(request)

    bench.wire.gate = _Sending(refuse)  # type: ignore[assignment]
    bench.settle(*batch)
    assert {"a-c": 7, "b-c": 7} == bench.applied()


class _Sending:
    def __init__(self, send: Any) -> None:
        self.send = send


def test_a_poisoned_batch_is_undone_and_goes_singly():
    """An item that breaks the gate's database voids the batch: the others are charged, the broken one waits."""
    bench = Workbench(server_flaws=True)
    batch = [bench.used(attempt) for attempt in "abc"]
    body = json.dumps(usage(7) | {"quantity_minor": str(2**64)})
    bench.outbox.apply(lambda db: db.execute("UPDATE run SET usage = ? WHERE attempt = 'b'", (body,)))
    batch[1] = bench.row("b")
    with pytest.raises(Unsettled):
        bench.settle(*batch)
    for row in (batch[0], batch[2]):
        bench.settle(row)
    assert {"a-c": 7, "c-c": 7} == bench.applied()
    assert State.COMMITTING is bench.state("b")


def test_the_silence_of_a_batch_is_asked_about_once(bench: Workbench):
    """Of many rows at price 0 one is committed singly to learn what that means; it holds for all, for a minute."""
    batch = [bench.used(attempt, 7, "unpriced") for attempt in "abcd"]
    bench.wire.requests.clear()
    bench.settle(*batch)
    assert ["batch", "commits"] == bench.wire.verbs
    assert ["quarantined"] * 4 == bench.kinds
    bench.settle(*(bench.used(attempt, 7, "unpriced") for attempt in "ef"))
    assert 1 == bench.wire.verbs.count("commits")
    bench.now += 61
    bench.settle(*(bench.used(attempt, 7, "unpriced") for attempt in "gh"))
    assert 2 == bench.wire.verbs.count("commits")


def test_free_is_not_an_alarm(bench: Workbench):
    """A price of 0 is a price: rows of a free feature are charged, with nothing."""
    bench.ledger.price("free", "free", 0)
    bench.settle(*(bench.used(attempt, 7, "free") for attempt in "abc"))
    assert ["charged"] * 3 == bench.kinds
    assert {"a-c": 7, "b-c": 7, "c-c": 7} == bench.applied()


def test_rows_are_batched_by_customer_and_singly_where_hints_matter(bench: Workbench):
    """A batch has one identity; rows that were taken over, tried before, or are old go singly, as do cancels."""
    other, user = Identity("other"), Identity(CUSTOMER.principal_id, "user")
    for principal in ("other", CUSTOMER.principal_id):
        bench.ledger.grant(principal, 10**6)
    due = [bench.used(attempt) for attempt in "ab"]
    due += [bench.used("c", identity=other), bench.used("d", identity=other), bench.used("e", identity=user)]
    due += [
        replace(due[0], attempt="retried", tries=1),
        replace(due[0], attempt="adopted", taken_over=True),
        replace(due[0], attempt="old", created=bench.now - 11.5 * 3600),
        replace(due[0], attempt="cancel", state=State.CANCELING),
    ]
    jobs = [[row.attempt for row in job] for job in groups(due, bench.settlement.wants_single, 100)]
    assert [["a", "b"], ["c", "d"], ["e"], ["retried"], ["adopted"], ["old"], ["cancel"]] == jobs


def test_a_batch_has_an_end(bench: Workbench):
    """More rows than a batch takes make several."""
    row = bench.used("a")
    due = [replace(row, attempt=str(n)) for n in range(250)]
    assert [100, 100, 50] == [len(job) for job in groups(due, bench.settlement.wants_single, 100)]


def test_a_row_in_no_unsettled_state_is_left_alone(bench: Workbench):
    """Nothing is sent for a run that is open, or dead."""
    row = bench.lease("a")
    bench.wire.requests.clear()
    bench.settle(row)
    bench.settle(replace(row, state=State.DEAD))
    assert [] == bench.wire.verbs


def without_compare_and_set(
    db: sqlite3.Connection, attempt: str, state: State, target: State, changes: Mapping[str, Any]
) -> bool:
    """What rows.py would do if it trusted its memory."""
    if target is State.DONE:
        return db.execute("DELETE FROM run WHERE attempt = ?", (attempt,)).rowcount == 1
    for name, value in {**changes, "state": target}.items():
        stored = json.dumps(value) if isinstance(value, Mapping) else value
        db.execute(f"UPDATE run SET {name} = ? WHERE attempt = ?", (stored, attempt))  # noqa: S608 -- own names
    return True


@pytest.mark.parametrize("compared", [True, False], ids=["compare-and-set", "memory alone"])
def test_two_processes_that_differ_charge_once_by_compare_and_set(
    bench: Workbench, compared: bool, monkeypatch: pytest.MonkeyPatch
):
    """One process ends a run while another gives it up: charged once; by memory alone it would be charged twice."""
    if not compared:
        monkeypatch.setattr(rows, "_compare_and_set", without_compare_and_set)
    bench.lease("a")
    commit = bench.settlement.one(bench.end("a", usage(7)))
    answer = bench.ledger.send(next(commit).request)  # type: ignore[union-attr]  # charged; its answer is on the way
    # Another process, which believes that the run is open, cancels it; then its end is told there.
    bench.outbox.apply(lambda db: rows.advance(db, "a", Event.FAILED, {"due": bench.now}, State.OPEN))
    bench.settle(bench.row("a"))
    if bench.state("a") is not None:
        bench.outbox.apply(lambda db: rows.use(db, "a", None, {"usage": usage(7)}, now=bench.now))
        bench.settle(bench.row("a"))
    with pytest.raises(StopIteration):
        commit.send(answer)
    assert ({"a-c": 7} if compared else {"a-c": 7, "a-i": 7}) == bench.applied()


def test_a_refusal_says_what_it_is_about(bench: Workbench):
    """The reason of a dead letter names feature and customer."""
    row = bench.used("a", 7)
    bench.ledger.feature("model", active=False)
    bench.settle(row)
    (outcome,) = bench.outcomes
    assert isinstance(outcome.error, GateRejected)
    assert "'model'" in str(bench.row("a").reason)
    assert CUSTOMER.principal_id in str(bench.row("a").reason)
