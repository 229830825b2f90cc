"""A gate with a ledger in which runs are begun and ended by hand, without LangChain. Knows nothing of pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_vluna import Gate, LocalGate, RetryPolicy
from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse, Identity
from langchain_vluna._io.outbox import Row, rows
from langchain_vluna._io.relay import RelayTimes
from langchain_vluna.gate.liveness import Caller, find_caller
from langchain_vluna.gate.spec import OpenRun, RunSpec, UsageBody

__all__ = ["CUSTOMER", "QUICK", "Hall", "Measured", "Switched", "body"]

CUSTOMER = "customer_1"
QUICK = RelayTimes(linger=0.01, first_retry=0.02, last_retry=0.2, take_over=0.2, give_up=0.5)


def body(quantity: int = 7, source: str = "reported") -> UsageBody:
    """Return what a run used."""
    return UsageBody({"feature_code": "model", "quantity_minor": str(quantity)}, source)


@dataclass
class Measured:
    """A meter that has seen so much, or nothing."""

    delivered: UsageBody | None = None

    def partial(self) -> UsageBody | None:
        return self.delivered


class Switched:
    """A ledger behind a switch: off, nothing answers."""

    def __init__(self, ledger: LocalGate) -> None:
        self.ledger = ledger
        self.settings = ledger.settings
        self.on = True

    def send(self, request: HttpRequest) -> HttpResponse:
        if not self.on:
            message = "connection refused"
            raise TransportFailure(message, sent=False)
        return self.ledger.send(request)

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return self.send(request)

    def close(self) -> None:
        self.ledger.close()

    async def aclose(self) -> None:
        self.ledger.close()


class Hall:
    """A gate whose runs a test begins and ends."""

    def __init__(self, **options: Any) -> None:
        self.ledger = LocalGate()
        self.ledger.price("model", "model", 2)
        self.ledger.grant(CUSTOMER, 10**9)
        self.line = Switched(self.ledger)
        self.alarms: list[Any] = []
        settings: Mapping[str, Any] = {
            "wire": "tutorial",
            "outbox": ":memory:",
            "relay": QUICK,
            "retry": RetryPolicy(attempts=1),
            "on_alarm": self.alarms.append,
            "deny_memo": 0,
        }
        self.gate = Gate(self.line, **{**settings, **options})
        self.engine = self.gate.engine

    @contextlib.contextmanager
    def open(self) -> Iterator[Hall]:
        """Close the gate at the end."""
        try:
            yield self
        finally:
            self.line.on = True
            self.gate.close(2.0)

    def spec(self, run_id: str | None = None, **fields: Any) -> RunSpec:
        """Describe a run."""
        run_id = run_id or str(uuid4())
        values: dict[str, Any] = {
            "run_id": run_id,
            "parent_id": None,
            "root_id": run_id,
            "kind": "model",
            "identity": Identity(CUSTOMER),
            "feature_code": "model",
        }
        return RunSpec(**(values | fields))

    def starting(self, spec: RunSpec | None = None, **how: Any) -> Any:
        """Return the flow that begins a run."""
        how.setdefault("caller", find_caller())
        how.setdefault("meter", Measured())
        return self.engine.book.start(spec or self.spec(), **how)

    def begin(self, spec: RunSpec | None = None, **how: Any) -> OpenRun:
        """Begin a run."""
        run: OpenRun | None = self.gate.perform(self.starting(spec, **how))
        assert run is not None
        return run

    def use(self, run: OpenRun, quantity: int = 7, **how: Any) -> None:
        """End a run with usage."""
        self.gate.perform(self.engine.book.used(run, body(quantity), **how))

    def fail(self, run: OpenRun) -> None:
        """End a run with nothing to charge."""
        self.gate.perform(self.engine.book.failed(run, "it failed"))

    def applied(self) -> list[int]:
        """What was charged."""
        return [rating.quantity for rating in self.ledger.ratings() if rating.status == "applied"]

    def left(self) -> list[Row]:
        """All rows of the outbox."""
        return self.engine.outbox.query(lambda db: rows.select(db, "1"))

    def elsewhere(self) -> Caller:
        """A place that no call of a test is in."""
        return Caller(-1, None)
