"""How a row is settled: which call it takes, and what the gate's answer means for it.

Rules:

- The key and the body of a call come from the row, so every try is the same operation.
- A batch is trusted for what it says is committed and nothing else: it carries no hints.
  Whatever it leaves open is sent as a single commit under the same key, which answers
  with the same commit and its hints.
- A charge that the lease can no longer carry is ingested; one that the gate refuses for
  good becomes a dead letter. Neither is silent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from langchain_vluna._core import wire
from langchain_vluna._core.errors import (
    GateDenied,
    GateProtocolError,
    GateRejected,
    GateUnavailable,
    VlunaError,
)
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import Call, Commit
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import Outbox, Row, rows
from langchain_vluna._io.relay.verdicts import Verdicts

__all__ = ["Outcome", "Settlement", "Unsettled"]

_LEASE_LIFE = 12 * 3600.0
_OLD = 11 * 3600.0
_FINAL_STATUS = frozenset({400, 409, 413, 422, 431})
"""Refusals of what was sent. Whatever else refuses is not the gate, or does not know us."""
_UNPROCESSABLE = 422
_VOID_TRIES = 8

OutcomeKind = Literal["charged", "released", "ingested", "quarantined", "lease_gone", "dead"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row; handed to the gate's observers."""

    row: Row
    kind: OutcomeKind
    commit: Commit | None = None
    error: VlunaError | None = None


class Unsettled(Exception):
    """No answer that settles: the relay tries again later."""

    def __init__(self, error: VlunaError) -> None:
        super().__init__(str(error))
        self.error = error


class Settlement:
    """Flows that settle rows of one outbox. `Unsettled` is raised where trying again may help."""

    def __init__(self, client: Client, outbox: Outbox, observe: Callable[[Outcome], None]) -> None:
        self.outbox = outbox
        self._client = client
        self._observe = observe
        self._verdicts = Verdicts(outbox.clock)

    def one(self, row: Row) -> Flow[None]:
        """Settle one row with calls of its own."""
        match row.state:
            case State.COMMITTING:
                yield from self._commit(row)
            case State.CANCELING | State.RECANTING:
                yield from self._cancel(row)
            case State.INGESTING:
                yield from self._ingest(row)
            case State.VOIDING:
                yield from self._void(row)
            case _:
                return

    def batch(self, batch: Sequence[Row]) -> Flow[None]:
        """Settle commits of one identity in one call; what it leaves open goes singly."""
        call = wire.batch_call(
            identity=batch[0].identity,
            items=[(_with_handle(row), row.key("c")) for row in batch],
            # A batch key that was answered before would repeat that answer: each try has its own.
            idempotency_key=uuid4().hex,
        )
        try:
            outcomes = wire.parse_batch((yield from self._client.exchange(call)), len(batch))
        except (GateRejected, GateProtocolError):
            outcomes = []
        except VlunaError as error:
            raise Unsettled(error) from error
        committed = {o.index: o.commit for o in outcomes if o.status == "committed"}
        clear: list[Outcome] = []
        unclear: list[tuple[Row, Commit | None]] = []
        for index, row in enumerate(batch):
            commit = committed.get(index)
            if commit is not None and self._is_clear(row, commit):
                clear.append(self._charge(row, commit))
            else:
                unclear.append((row, commit))
        yield from self._advance(Event.COMMITTED, *clear)
        for row, commit in unclear:
            # An earlier one may have taught by now what this one's silence means.
            if commit is not None and self._is_clear(row, commit):
                yield from self._advance(Event.COMMITTED, self._charge(row, commit))
            else:
                yield from self._commit(row)

    def wants_single(self, row: Row) -> bool:
        """Whether a batch's silence about hints is not good enough for this row."""
        aged = self.outbox.clock() - row.created > _OLD
        return row.state is not State.COMMITTING or row.taken_over or row.tries > 0 or aged

    def _is_clear(self, row: Row, commit: Commit) -> bool:
        return not self._verdicts.must_ask(row.feature_code, commit)

    def _commit(self, row: Row) -> Flow[None]:
        call = Call("commit", row.identity, _with_handle(row), row.key("c"))
        try:
            commit = wire.parse_commit((yield from self._client.exchange(call)))
        except VlunaError as error:
            if _lease_is_gone(error):
                yield from self._gone(row, None)
            else:
                yield from self._refused(row, error)
            return
        self._verdicts.learn(row.feature_code, commit)
        if _charge_was_lost_with_the_lease(commit):
            yield from self._gone(row, commit)
        elif any(hint.type == "lease.closed_at_commit" for hint in commit.hints):
            # Somebody else charged this lease: whether it was this usage, only a person can tell.
            closed = GateRejected(
                f"commit of {row.feature_code!r} for principal {row.identity.principal_id!r} was not charged:"
                f" another commit had closed its lease [{commit.commit_id}]",
                hints=commit.hints,
            )
            yield from self._dead(row, closed, commit)
        else:
            yield from self._advance(Event.COMMITTED, self._charge(row, commit))

    def _charge(self, row: Row, commit: Commit) -> Outcome:
        quarantined = commit.quarantined or self._verdicts.quarantines(row.feature_code, commit)
        return Outcome(row, "quarantined" if quarantined else "charged", commit)

    def _gone(self, row: Row, commit: Commit | None) -> Flow[None]:
        yield from self._advance(Event.LEASE_GONE, Outcome(row, "lease_gone", commit))
        yield from self._again(row)

    def _cancel(self, row: Row) -> Flow[None]:
        call = Call("cancel", row.identity, {"lease": row.handle}, row.key("x"))
        event, refusal = Event.CANCELED_, None
        try:
            yield from self._client.exchange(call)
        except VlunaError as error:
            self._retry_if_it_helps(error)
            event, refusal = Event.REJECTED, error
        yield from self._advance(event, Outcome(row, "released", error=refusal), due=self.outbox.clock())
        # Usage may have come before the answer.
        yield from self._again(row)

    def _ingest(self, row: Row) -> Flow[None]:
        body = {**(row.usage or {}), "occurred_at": _moment(row.created)}
        call = Call("ingest", row.identity, body, row.key("i"))
        try:
            commit = wire.parse_commit((yield from self._client.exchange(call)))
        except VlunaError as error:
            yield from self._refused(row, error)
            return
        # Ingest never hints: a price of 0 is the only sign that nothing was charged.
        uncharged = self._verdicts.is_unpriced(commit) and not self._verdicts.known_free(row.feature_code, commit)
        yield from self._advance(Event.INGESTED, Outcome(row, "quarantined" if uncharged else "ingested", commit))

    def _void(self, row: Row) -> Flow[None]:
        if self.outbox.clock() - row.created < _LEASE_LIFE:
            try:
                lease = wire.parse_lease((yield from self._client.exchange(row.question)), row.identity)
                cancel = Call("cancel", row.identity, {"lease": lease.handle}, row.key("x"))
                yield from self._client.exchange(cancel)
            except VlunaError as error:
                # A lease that is not shown any more, since its customer is denied by now, charges nobody and expires.
                if not (isinstance(error, GateDenied) and row.tries >= _VOID_TRIES):
                    self._retry_if_it_helps(error)
        yield from self._advance(Event.VOIDED, Outcome(row, "released"))

    def _again(self, row: Row) -> Flow[None]:
        now = self.outbox.apply(lambda db: rows.read(db, row.attempt))
        if now is not None and now.state is not row.state:
            yield from self.one(now)

    def _refused(self, row: Row, error: VlunaError) -> Flow[None]:
        self._retry_if_it_helps(error)
        yield from self._dead(row, error, None)

    def _dead(self, row: Row, error: VlunaError, commit: Commit | None) -> Flow[None]:
        yield from self._advance(Event.REJECTED, Outcome(row, "dead", commit, error), reason=error.message)

    @staticmethod
    def _retry_if_it_helps(error: VlunaError) -> None:
        if isinstance(error, GateUnavailable | GateProtocolError):
            raise Unsettled(error) from error
        if isinstance(error, GateDenied):
            if error.reason != "entitlement":
                raise Unsettled(error) from error
        elif error.status is not None and error.status not in _FINAL_STATUS:
            # Credentials, addresses and proxies are mended by people; the charge waits for them.
            raise Unsettled(error) from error

    def _advance(self, event: Event, *outcomes: Outcome, **changes: Any) -> Flow[None]:
        if not outcomes:
            return

        def moved(db: sqlite3.Connection) -> list[State | None]:
            return [rows.advance(db, o.row.attempt, event, changes, o.row.state).target for o in outcomes]

        targets = yield from self.outbox.record(moved, atomic=len(outcomes) > 1)
        for outcome, target in zip(outcomes, targets, strict=True):
            # A cancelled run that goes on to be charged is not over yet.
            if target is not None and not (outcome.kind == "released" and target is State.INGESTING):
                self._observe(outcome)


def groups(due: Iterable[Row], wants_single: Callable[[Row], bool], size: int) -> list[list[Row]]:
    """Split due rows into what one call can settle: batches of one identity, and singles."""
    batches: dict[object, list[Row]] = {}
    jobs: list[list[Row]] = []
    for row in due:
        if wants_single(row):
            jobs.append([row])
            continue
        open_batch = batches.get(row.identity)
        if open_batch is None or len(open_batch) >= size:
            open_batch = batches[row.identity] = []
            jobs.append(open_batch)
        open_batch.append(row)
    return jobs


def _moment(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat()


def _with_handle(row: Row) -> dict[str, Any]:
    return {"lease": row.handle, **(row.usage or {})}


def _lease_is_gone(error: VlunaError) -> bool:
    # The gate gives one code to unknown leases, unknown features and rolled-over windows; only the message tells.
    return (
        isinstance(error, GateRejected)
        and error.code == "RESOURCE.NOT_FOUND"
        and error.status == _UNPROCESSABLE
        and ("lease not found" in error.message or "policy window not found" in error.message)
    )


def _charge_was_lost_with_the_lease(commit: Commit) -> bool:
    return any(
        (hint.type == "lease.closed_at_commit" and hint.fields.get("state") == "canceled")
        or hint.type == "policy.window_not_found"
        or (hint.type == "lease.expired" and hint.quarantines)
        for hint in commit.hints
    )
