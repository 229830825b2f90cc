"""The bad days that a gate can have on demand, and what a client notices of each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from langchain_vluna import Gate, GateDenied, GateUnavailable, LocalGate, RetryPolicy
from langchain_vluna._core.types import Lease

FEATURE = "f"
LATE = 0.3


@dataclass(frozen=True, kw_only=True)
class BadDay:
    """How to have it from each place, and what comes of it."""

    symptom: str
    """What `symptom` returns."""
    command: str
    """Its name on the command line."""
    kind: str = ""
    """Of the fault that is armed, where it is one."""
    on: str | None = None
    seconds: float | None = None
    button: str = ""
    """On the page, where it is none of the form's."""
    shown: str
    """By the page."""

    def __str__(self) -> str:
        return self.command


def _fault(kind: str, symptom: str, seconds: float | None = None) -> BadDay:
    return BadDay(symptom=symptom, command=kind, kind=kind, on="authorize", seconds=seconds, shown=f"{kind} ")


BAD_DAYS = (
    _fault("drop_answer", "no answer, carried out"),
    _fault("reset", "no answer, not carried out"),
    _fault("status_500", "no answer, not carried out"),
    _fault("status_429", "denied: rate", 2),
    _fault("status_402", "denied: funding"),
    _fault("delay", "late", LATE),
    BadDay(
        symptom="no answer, not carried out",
        command="outage",
        kind="reset",
        button="Outage: break every call",
        shown="until mended",
    ),
    BadDay(
        symptom="expired",
        command="skew",
        seconds=43_261,
        button="12 h 1 min on: leases expire",
        shown="The gate's clock is 12 h ahead.",
    ),
    BadDay(symptom="expired", command="expire", button="Let all open leases expire", shown="1 open lease expired."),
)


def set_up(ledger: LocalGate) -> None:
    ledger.price(FEATURE, FEATURE, 3)
    ledger.grant("acme", 1_000_000)


def impatient(ledger: LocalGate, url: str) -> Gate:
    """Return a client that tries once, so that it notices what goes wrong."""
    settings = ledger.settings.model_copy(update={"base_url": url})
    return Gate(settings, outbox=":memory:", retry=RetryPolicy(attempts=1), deny_memo=0)


def old_lease(gate: Gate) -> Lease:
    return gate.authorize(feature_code=FEATURE, principal_id="acme")


def symptom(gate: Gate, ledger: LocalGate, lease: Lease) -> str:
    """Ask for a lease, then settle an older one; returns what is odd about it."""
    before, start = len(ledger.leases()), time.monotonic()
    try:
        gate.authorize(feature_code=FEATURE, principal_id="acme")
    except GateDenied as denied:
        return f"denied: {denied.reason}"
    except GateUnavailable:
        return f"no answer, {'carried out' if len(ledger.leases()) > before else 'not carried out'}"
    if time.monotonic() - start >= LATE:
        return "late"
    return "expired" if gate.commit(lease, quantity=1).quarantined else "well"
