"""Every pair of state and event of a run, and what no sequence of events can bring about."""

from __future__ import annotations

from itertools import product

import pytest

from langchain_vluna._core.errors import RunStateError
from langchain_vluna._core.run import UNSETTLED, Event, State, step

# One line per event, one column per state: the state it leads to, `.` where it changes nothing, `!` where it is
# impossible.
TABLE = """
           ASKING  OPEN       UNGATED   COMMITTING CANCELING RECANTING INGESTING VOIDING CANCELED  DEAD       DONE
ADMITTED   OPEN    !          !         !          !         !         !         !       !         !          !
REFUSED    DONE    !          !         !          !         !         !         .       !         !          .
ABANDONED  VOIDING CANCELING  DONE      !          .         !         !         .       .         !          .
ALLOWED    UNGATED !          !         !          !         !         !         !       !         !          !
USED       !       COMMITTING INGESTING .          RECANTING .         .         .       INGESTING .          .
FAILED     !       CANCELING  DONE      .          .         .         .         .       .         .          .
COMMITTED  !       !          !         DONE       .         .         .         .       .         .          .
CANCELED_  !       !          !         .          CANCELED  INGESTING .         .       .         .          .
INGESTED   !       !          !         .          .         .         DONE      .       .         .          .
VOIDED     !       !          !         .          .         .         .         DONE    .         .          .
LEASE_GONE !       !          !         INGESTING  .         .         .         .       .         .          .
REJECTED   !       !          !         DEAD       CANCELED  INGESTING DEAD      DONE    .         .          .
RECOMMIT   !       !          !         .          !         !         .         !       !         COMMITTING .
REINGEST   !       !          !         .          !         !         .         !       !         INGESTING  .
"""


def pairs() -> list[tuple[State, Event, str]]:
    head, *lines = TABLE.strip("\n").splitlines()
    states = [State[name] for name in head.split()]
    return [
        (state, Event[name], cell)
        for name, *cells in (line.split() for line in lines)
        for state, cell in zip(states, cells, strict=True)
    ]


def test_the_table_names_every_pair():
    """The table of this test has a cell for each state and each event."""
    assert set(product(State, Event)) == {(state, event) for state, event, _ in pairs()}


@pytest.mark.parametrize(("state", "event", "cell"), pairs(), ids=str)
def test_each_pair_leads_where_the_table_says(state: State, event: Event, cell: str):
    """An event leads to one state, changes nothing, or is an error that names both."""
    if cell == "!":
        with pytest.raises(RunStateError, match=rf"{event.name} .*{state.name}"):
            step(state, event)
        return
    assert (None if cell == "." else State[cell]) == step(state, event)


def reachable(start: State, events: set[Event]) -> set[State]:
    """States that some sequence of these events can lead to."""
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for event in events:
            try:
                target = step(state, event)
            except RunStateError:
                continue
            if target is not None and target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


EVENTS = set(Event)
BY_HAND = {Event.RECOMMIT, Event.REINGEST}


def test_no_cancel_follows_recorded_usage():
    """Once usage is recorded for a commit, nothing leads to a cancel any more."""
    assert not reachable(State.COMMITTING, EVENTS) & {State.CANCELING, State.CANCELED, State.RECANTING, State.VOIDING}


def test_no_commit_follows_a_cancel():
    """Once a cancel was decided, only ingest can charge, unless a person says otherwise."""
    assert State.COMMITTING not in reachable(State.CANCELING, EVENTS - BY_HAND)


def test_nothing_follows_a_denial():
    """A refused run is over: no event leads it anywhere."""
    target = step(State.ASKING, Event.REFUSED)
    assert State.DONE is target
    assert {State.DONE} == reachable(State.DONE, EVENTS)


def test_no_state_that_waits_for_an_answer_is_a_trap():
    """Each state in which the gate owes an answer is left by some answer."""
    answers = {Event.COMMITTED, Event.CANCELED_, Event.INGESTED, Event.VOIDED, Event.LEASE_GONE, Event.REJECTED}
    stuck = {state for state in UNSETTLED if all(step(state, event) is None for event in answers)}
    assert set() == stuck
