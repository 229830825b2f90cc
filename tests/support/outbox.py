"""Rows as a run leaves them in an outbox, and a few moves of a run, without a gate. Knows nothing of pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_vluna._core.run import Event, State
from langchain_vluna._core.types import Identity
from langchain_vluna._io.outbox import Outbox, Row, Transition, rows

__all__ = ["CUSTOMER", "advance", "end", "intend", "opened", "read", "usage"]

CUSTOMER = Identity("customer_1")


def usage(quantity: int = 7, feature: str = "model") -> dict[str, Any]:
    """Return what a run used, as it is stored."""
    return {"feature_code": feature, "quantity_minor": str(quantity)}


def intend(outbox: Outbox, attempt: str, **fields: Any) -> Row:
    """Write the intent of a run."""
    values: dict[str, Any] = {
        "attempt": attempt,
        "identity": CUSTOMER,
        "run_id": f"run-{attempt}",
        "root_id": f"run-{attempt}",
        "ask": {"feature_code": "model"},
        "owner": outbox.owner_id,
        "created": outbox.clock(),
        "due": outbox.clock(),
    }
    row = Row(**(values | fields))
    outbox.apply(lambda db: rows.begin(db, row))
    return row


def opened(outbox: Outbox, attempt: str, **fields: Any) -> Row:
    """Write a run that has its lease."""
    return intend(outbox, attempt, state=State.OPEN, handle=f"lease.{attempt}", **fields)


def advance(outbox: Outbox, attempt: str, event: Event, **changes: Any) -> State | None:
    """Take a step of a run; returns where it led."""
    moved: Transition = outbox.apply(lambda db: rows.advance(db, attempt, event, changes))
    return moved.target


def end(outbox: Outbox, attempt: str, used: Mapping[str, Any] | None = None) -> State | None:
    """End a run with usage."""
    return advance(outbox, attempt, Event.USED, usage=used or usage(), due=outbox.clock())


def read(outbox: Outbox, attempt: str) -> Row | None:
    """Return a row."""
    return outbox.apply(lambda db: rows.read(db, attempt))
