"""The life of one gated run, from the question to the last answer of the gate.

Rules:

1. Everything that decides what a run may still do is in `_TRANSITIONS`. A row of the
   outbox holds the state; nobody changes it but by a compare-and-set of one step of
   this table, so what is decided once is decided for every thread and process.
2. A settlement is decided once: the first of `USED`, `FAILED` moves the run out of
   `OPEN`, and only the gate's answer moves it on. No cancel is reachable once usage
   was recorded; no commit is reachable once a cancel was decided: usage that arrives
   then is ingested.
3. A step in `_DUPLICATES` is legal and changes nothing: LangChain delivers events
   twice, processes take rows over, answers come late. Any other pair is an error that
   names event and state and changes nothing.

    (none) ── ASK ──> ASKING ── ADMITTED ──> OPEN ── USED ────> COMMITTING ── COMMITTED ──> DONE
                        │                      │                  │  │  └─ REJECTED ─> DEAD
                        │                      │                  │  └ LEASE_GONE ──> INGESTING
                        │                      └─ FAILED ──> CANCELING ── CANCELED_ ──> CANCELED
                        │                                      └ USED ─> RECANTING ─> INGESTING
                        ├─ REFUSED ───> DONE                                            (USED)
                        ├─ ABANDONED ─> VOIDING ── VOIDED ──> DONE
                        └─ ALLOWED ───> UNGATED ── USED ──> INGESTING ── INGESTED ──> DONE

`CANCELED` rows stay for a while, without their handle, to catch usage that comes late.
"""

from __future__ import annotations

from enum import StrEnum

from langchain_vluna._core.errors import RunStateError

__all__ = ["UNSETTLED", "Event", "State", "step"]


class State(StrEnum):
    """Where a run stands; the value is what the outbox stores."""

    ASKING = "asking"
    """The intent is recorded; authorize may have reached the gate."""
    OPEN = "open"
    """Leased; the work may be running."""
    UNGATED = "ungated"
    """The gate could not be asked and policy lets the work run."""
    COMMITTING = "committing"
    CANCELING = "canceling"
    RECANTING = "recanting"
    """Being cancelled when usage arrived: cancel, then ingest."""
    INGESTING = "ingesting"
    VOIDING = "voiding"
    """A lease may exist that nobody works on: find it and cancel it."""
    CANCELED = "canceled"
    DEAD = "dead"
    """The gate refuses the settlement for good: for a person to look at."""
    DONE = "done"


class Event(StrEnum):
    """What happened to a run."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    ABANDONED = "abandoned"
    """The work will not run, and the gate may have granted a lease for it."""
    ALLOWED = "allowed"
    USED = "used"
    """The work ended, or was cut short after delivering something: there is usage to charge."""
    FAILED = "failed"
    """The work ended with nothing to charge."""
    COMMITTED = "committed"
    CANCELED_ = "canceled"
    INGESTED = "ingested"
    VOIDED = "voided"
    LEASE_GONE = "lease_gone"
    """The lease can no longer carry a charge, and nothing was charged on it."""
    REJECTED = "rejected"
    RECOMMIT = "recommit"
    """Somebody looked at a dead row and has it tried again, as the next one."""
    REINGEST = "reingest"


UNSETTLED = frozenset({State.COMMITTING, State.CANCELING, State.RECANTING, State.INGESTING, State.VOIDING})
"""States in which the gate owes an answer."""

_TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.ASKING, Event.ADMITTED): State.OPEN,
    (State.ASKING, Event.REFUSED): State.DONE,
    (State.ASKING, Event.ABANDONED): State.VOIDING,
    (State.ASKING, Event.ALLOWED): State.UNGATED,
    (State.OPEN, Event.USED): State.COMMITTING,
    (State.OPEN, Event.FAILED): State.CANCELING,
    (State.OPEN, Event.ABANDONED): State.CANCELING,
    (State.UNGATED, Event.USED): State.INGESTING,
    (State.UNGATED, Event.FAILED): State.DONE,
    (State.UNGATED, Event.ABANDONED): State.DONE,
    (State.COMMITTING, Event.COMMITTED): State.DONE,
    (State.COMMITTING, Event.LEASE_GONE): State.INGESTING,
    (State.COMMITTING, Event.REJECTED): State.DEAD,
    (State.CANCELING, Event.CANCELED_): State.CANCELED,
    (State.CANCELING, Event.REJECTED): State.CANCELED,
    (State.CANCELING, Event.USED): State.RECANTING,
    (State.RECANTING, Event.CANCELED_): State.INGESTING,
    (State.RECANTING, Event.REJECTED): State.INGESTING,
    (State.CANCELED, Event.USED): State.INGESTING,
    (State.INGESTING, Event.INGESTED): State.DONE,
    (State.INGESTING, Event.REJECTED): State.DEAD,
    (State.VOIDING, Event.VOIDED): State.DONE,
    (State.VOIDING, Event.REJECTED): State.DONE,
    (State.DEAD, Event.RECOMMIT): State.COMMITTING,
    (State.DEAD, Event.REINGEST): State.INGESTING,
}

_RUNNING = frozenset({State.ASKING, State.OPEN, State.UNGATED})
_USED_OR_GONE = frozenset({State.COMMITTING, State.RECANTING, State.INGESTING, State.DEAD, State.DONE, State.VOIDING})
_ANSWERS = frozenset({Event.COMMITTED, Event.CANCELED_, Event.INGESTED, Event.VOIDED, Event.LEASE_GONE, Event.REJECTED})

_DUPLICATES: frozenset[tuple[State, Event]] = frozenset(
    {(state, Event.USED) for state in _USED_OR_GONE}
    | {(state, Event.FAILED) for state in _USED_OR_GONE | {State.CANCELING, State.CANCELED}}
    # An answer to a call that another process, or an earlier attempt, already saw answered.
    | {(state, event) for state in State for event in _ANSWERS if state not in _RUNNING} - _TRANSITIONS.keys()
    # A process that was taken for dead and comes back: its row was voided or cancelled meanwhile.
    | {(state, event) for state in (State.VOIDING, State.DONE) for event in (Event.REFUSED, Event.ABANDONED)}
    | {(state, Event.ABANDONED) for state in (State.CANCELING, State.CANCELED)}
    # Two people look at the same dead row.
    | {
        (state, event)
        for state in (State.COMMITTING, State.INGESTING, State.DONE)
        for event in (Event.RECOMMIT, Event.REINGEST)
    }
)


def step(state: State, event: Event) -> State | None:
    """Return the state that `event` leads to, or `None` where it changes nothing.

    Raises:
        RunStateError: The event cannot happen in this state.
    """
    target = _TRANSITIONS.get((state, event))
    if target is None and (state, event) not in _DUPLICATES:
        msg = f"event {event.name} is impossible in state {state.name}"
        raise RunStateError(msg)
    return target
