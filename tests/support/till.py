"""A ledger, an outbox and what settles between them, with a clock that tests move. Knows nothing of pytest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from langchain_vluna._core import wire
from langchain_vluna._core.config import RetryPolicy
from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import HttpRequest, HttpResponse, Identity, Transport
from langchain_vluna._io.client import Client
from langchain_vluna._io.local import LocalGate
from langchain_vluna._io.outbox import Outbox, Row, rows
from langchain_vluna._io.relay import Outcome, Settlement
from tests.support.outbox import CUSTOMER, opened, usage

__all__ = ["Recorded", "Workbench"]


class Recorded:
    """Passes requests on to a gate and keeps them."""

    def __init__(self, gate: Transport) -> None:
        self.gate = gate
        self.requests: list[HttpRequest] = []

    @property
    def verbs(self) -> list[str]:
        """Last parts of the paths that were called."""
        return [request.target.rpartition("/")[2] for request in self.requests]

    def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return self.gate.send(request)

    async def asend(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return await self.gate.asend(request)

    def close(self) -> None:
        self.gate.close()

    async def aclose(self) -> None:
        await self.gate.aclose()


class Workbench:
    """What a relay works with, without its threads."""

    def __init__(self, **ledger: Any) -> None:
        self.now = 1_700_000_000.0
        self.ledger = LocalGate(clock=lambda: self.now, **ledger)
        self.ledger.price("model", "model", 2)
        self.ledger.grant(CUSTOMER.principal_id, 10**9)
        self.wire = Recorded(self.ledger)
        self.outbox = Outbox(":memory:", clock=lambda: self.now)
        self.client = Client(
            self.wire, self.ledger.settings, wire="tutorial", retry=RetryPolicy(attempts=1), sleep=lambda _: None
        )
        self.outcomes: list[Outcome] = []
        self.settlement = Settlement(self.client, self.outbox, self.outcomes.append)

    @property
    def kinds(self) -> list[str]:
        """What became of rows, in order."""
        return [outcome.kind for outcome in self.outcomes]

    def lease(self, attempt: str, feature: str = "model", identity: Identity = CUSTOMER) -> Row:
        """Begin a run: its row is open, and its lease active."""
        call = wire.authorize_call(identity=identity, feature_code=feature, idempotency_key=f"{attempt}-a")

        def ask() -> Any:
            return wire.parse_lease((yield from self.client.exchange(call)), identity).handle

        handle = self.client.perform(ask())
        row = opened(self.outbox, attempt, ask={"feature_code": feature}, identity=identity)
        self.outbox.apply(lambda db: db.execute("UPDATE run SET handle = ? WHERE attempt = ?", (handle, attempt)))
        return replace(row, handle=handle)

    def used(self, attempt: str, quantity: int = 7, feature: str = "model", **more: Any) -> Row:
        """Begin a run and end it with usage: its row is due."""
        self.lease(attempt, feature, **more)
        return self.end(attempt, usage(quantity, feature))

    def end(self, attempt: str, used: Any = None) -> Row:
        """End a run, with usage or without."""
        event, changes = (Event.FAILED, {}) if used is None else (Event.USED, {"usage": used})
        self.outbox.apply(lambda db: rows.advance(db, attempt, event, {**changes, "due": self.now}))
        return self.row(attempt)

    def row(self, attempt: str) -> Row:
        """Return a row that must be there."""
        row = self.outbox.apply(lambda db: rows.read(db, attempt))
        assert row is not None
        return row

    def state(self, attempt: str) -> State | None:
        """Return where a run stands; `None` where its row is gone."""
        row = self.outbox.apply(lambda db: rows.read(db, attempt))
        return None if row is None else row.state

    def settle(self, *settled: Row) -> None:
        """Settle one row, or several in a batch."""
        flow = self.settlement.one(settled[0]) if len(settled) == 1 else self.settlement.batch(settled)
        self.client.perform(flow)

    def applied(self) -> dict[str, int]:
        """Return what was charged, by attempt and verb."""
        return {r.idempotency_key: r.quantity for r in self.ratings() if r.status == "applied"}

    def ratings(self) -> list[Rating]:
        return self.ledger.ratings()
