"""Rows of the outbox: each step is taken once, whoever takes it, and nothing stays for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from langchain_vluna._core.errors import RunStateError
from langchain_vluna._core.run import Event, State
from langchain_vluna._io.outbox import Outbox, rows, upkeep
from tests.support.outbox import advance, end, intend, opened, read, usage


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox(":memory:", clock=lambda: 1000.0)
    yield box
    box.close()


def test_a_row_comes_back_as_it_was_written(outbox: Outbox):
    """All fields of a row survive the way to SQLite and back."""
    row = opened(outbox, "a", step="t\nns\n1", usage=usage(), source="estimated", tries=3, taken_over=True, reason="x")
    assert row == read(outbox, "a")


def test_keys_of_a_run_differ_by_verb_and_never_by_try(outbox: Outbox):
    """An operation has one key, whatever happens to its row."""
    before = opened(outbox, "a")
    end(outbox, "a")
    after = read(outbox, "a")
    assert after is not None
    assert {v: before.key(v) for v in "acxi"} == {v: after.key(v) for v in "acxi"}
    assert len({before.key(v) for v in "acxi"}) == 4


def test_an_answered_row_is_gone(outbox: Outbox):
    """A charged run leaves no row."""
    opened(outbox, "a")
    assert State.COMMITTING is end(outbox, "a")
    assert State.DONE is advance(outbox, "a", Event.COMMITTED)
    assert None is read(outbox, "a")


def test_events_of_an_unknown_run_change_nothing(outbox: Outbox):
    """An event for a row that is gone is no error and has no effect."""
    assert None is advance(outbox, "nobody", Event.COMMITTED)


def test_an_impossible_event_changes_nothing(outbox: Outbox):
    """An impossible event is an error and leaves the row alone."""
    row = opened(outbox, "a")
    with pytest.raises(RunStateError):
        advance(outbox, "a", Event.COMMITTED)
    assert row == read(outbox, "a")


def test_the_first_usage_stays(outbox: Outbox):
    """A second end does not change what the first recorded."""
    opened(outbox, "a")
    end(outbox, "a", usage(7))
    assert None is end(outbox, "a", usage(99))
    row = read(outbox, "a")
    assert row is not None
    assert usage(7) == row.usage


def test_a_wrong_belief_about_the_state_is_found_out(outbox: Outbox):
    """A caller that believes a run open records its usage where the run really stands."""
    opened(outbox, "a")
    advance(outbox, "a", Event.FAILED)
    changes = {"usage": usage()}
    moved = outbox.apply(lambda db: rows.advance(db, "a", Event.USED, changes, State.OPEN))
    assert State.RECANTING is moved.target


def test_a_cancelled_run_keeps_no_handle(outbox: Outbox):
    """A tombstone has no secret."""
    opened(outbox, "a")
    advance(outbox, "a", Event.FAILED)
    advance(outbox, "a", Event.CANCELED_)
    row = read(outbox, "a")
    assert row is not None
    assert (State.CANCELED, None) == (row.state, row.handle)


def test_only_one_of_many_threads_ends_a_run(outbox: Outbox):
    """However many threads end a run in two ways at once, one of them does."""
    for round_ in range(50):
        attempt = str(round_)
        opened(outbox, attempt)
        won: list[State] = []
        barrier = threading.Barrier(4)

        def race(event: Event, attempt: str = attempt, won: list[State] = won, gate: threading.Barrier = barrier):
            gate.wait()
            # RECANTING is the second thread's usage after the first one's cancel: a step of its own.
            target = advance(outbox, attempt, event, usage=usage())
            if target in {State.COMMITTING, State.CANCELING}:
                won.append(target)

        threads = [threading.Thread(target=race, args=(event,)) for event in (Event.USED, Event.FAILED) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 == len(won)


def test_a_step_is_charged_by_its_first_attempt(outbox: Outbox):
    """Of two attempts at one logical step the second is cancelled, in one transaction with the memory of it."""
    for attempt in "ab":
        opened(outbox, attempt, step="step")

    def use(attempt: str):
        return outbox.apply(lambda db: rows.use(db, attempt, "step", {"usage": usage()}, now=1.0), atomic=True).target

    assert [State.COMMITTING, State.CANCELING] == [use("a"), use("b")]


def test_due_rows_are_those_of_one_owner_whose_time_has_come(outbox: Outbox):
    """Rows of others, open rows, and rows that wait are not due."""
    for attempt in ("mine", "waiting", "open", "others"):
        opened(outbox, attempt, owner="other" if attempt == "others" else "me")
        if attempt != "open":
            advance(outbox, attempt, Event.USED, usage=usage(), due=2000.0 if attempt == "waiting" else 900.0)
    due = outbox.query(lambda db: rows.due_rows(db, owner="me", now=1000.0, limit=10))
    assert ["mine"] == [row.attempt for row in due]
    assert 2000.0 == outbox.query(lambda db: rows.next_due(db, owner="me", now=1000.0))
    assert 2 == outbox.query(lambda db: rows.count_unsettled(db, "me"))
    assert 3 == outbox.query(rows.count_unsettled)


def test_due_rows_are_found_by_an_index(outbox: Outbox):
    """Looking for work reads no row that needs none, however many there are."""
    plans: list[str] = []

    def explain(db):
        db.set_trace_callback(plans.append)
        rows.due_rows(db, owner="me", now=1.0, limit=1)
        rows.next_due(db, owner="me", now=1.0)
        rows.count_unsettled(db, "me")
        db.set_trace_callback(None)
        return [row[3] for statement in plans for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]

    found = outbox.query(explain)
    assert 3 == len(found)
    assert all("INDEX run_due" in line for line in found), found


def test_a_failed_try_is_noted(outbox: Outbox):
    """A row that came back says when it is tried next, how often it was, and why it waits."""
    opened(outbox, "a")
    end(outbox, "a")
    outbox.apply(lambda db: rows.postpone(db, ["a"], 1234.0, "the gate is down"))
    row = read(outbox, "a")
    assert row is not None
    assert (1234.0, 1, "the gate is down") == (row.due, row.tries, row.reason)


def remember(step: tuple[str, float]):
    return lambda db: db.execute("INSERT INTO step VALUES (?, ?)", step)


def test_tombstones_and_steps_are_forgotten_in_time(outbox: Outbox):
    """A day after a cancel, and a week after a step, the outbox forgets."""
    now = 10 * 24 * 3600.0
    for attempt, age in (("fresh", 3600), ("old", 25 * 3600)):
        intend(outbox, attempt, state=State.CANCELED, due=now - age)
        step = (attempt, now - 7 * age)
        outbox.apply(remember(step))
    outbox.clock = lambda: now
    upkeep.forget_old(outbox)
    assert None is read(outbox, "old")
    assert None is not read(outbox, "fresh")
    assert [("fresh",)] == outbox.query(lambda db: db.execute("SELECT key FROM step").fetchall())


def test_too_many_tombstones_are_forgotten_early(outbox: Outbox, monkeypatch: pytest.MonkeyPatch):
    """The newest tombstones stay, the others go, so that many failures do not fill the disk."""
    monkeypatch.setattr(upkeep, "_MOST_CANCELED", 10)
    for number in range(25):
        intend(outbox, f"{number:02}", state=State.CANCELED, due=900.0 + number)
    upkeep.forget_old(outbox)
    left = outbox.query(lambda db: rows.select(db, "state = 'canceled' ORDER BY attempt"))
    assert [f"{number:02}" for number in range(15, 25)] == [row.attempt for row in left]


def test_strays_are_settled_by_what_their_rows_say(outbox: Outbox):
    """A run that its process has lost sight of is voided, cancelled, or charged by its fallback."""
    intend(outbox, "asking")
    opened(outbox, "open")
    opened(outbox, "fallback", usage=usage())
    intend(outbox, "ungated", state=State.UNGATED)
    opened(outbox, "ended")
    end(outbox, "ended")
    assert {"asking", "open", "fallback", "ungated"} == set(upkeep.running(outbox))
    upkeep.settle_strays(outbox, ["asking", "open", "fallback", "ungated", "ended", "gone"])
    states = {a: row.state for a in ("asking", "open", "fallback", "ended") if (row := read(outbox, a))}
    assert {
        "asking": State.VOIDING,
        "open": State.CANCELING,
        "fallback": State.COMMITTING,
        "ended": State.COMMITTING,
    } == states
    assert None is read(outbox, "ungated")
