"""What the gate knows and is asked: frozen values, times in milliseconds since the Unix epoch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

__all__ = [
    "DAY_MS",
    "DEFAULT_WINDOW_SEC",
    "Budget",
    "Feature",
    "Form",
    "HeldLease",
    "LeaseState",
    "Line",
    "Meter",
    "MeterLine",
    "Price",
    "Quota",
    "Rate",
    "Rating",
    "Refusal",
    "Rounding",
    "Rules",
    "iso",
    "window_start",
]

Form = Literal["lease_token", "lease", "either"]
"""Which names the bodies use; `lease` is the newest wire generation, `either` a request that both could have sent."""
Rounding = Literal["floor", "nearest", "ceil"]
LeaseState = Literal["active", "closed", "canceled"]

DAY_MS: Final = 86_400_000
DEFAULT_WINDOW_SEC: Final = 86_400
"""Window of the policy that every feature has where no quota is set: unlimited, one UTC day."""


class Refusal(Exception):
    """An answer other than success. The request that got it changes nothing."""

    def __init__(self, status: int, code: str, message: str, hints: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hints = hints

    @classmethod
    def invalid(cls, message: str) -> Refusal:
        return cls(422, "VALIDATION.INVALID_INPUT", message)

    @classmethod
    def not_found(cls, message: str) -> Refusal:
        return cls(422, "RESOURCE.NOT_FOUND", message)

    @classmethod
    def payload(cls, message: str) -> Refusal:
        return cls(422, "WRITE.INVALID_PAYLOAD", message)

    @classmethod
    def conflict(cls, message: str) -> Refusal:
        return cls(409, "WRITE.INVALID_PAYLOAD", message)

    @classmethod
    def unexpected(cls) -> Refusal:
        return cls(500, "SERVER.UNEXPECTED", "Unexpected server error. Please try again later.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What differs from gate to gate."""

    auto_registry: bool = True
    lease_ttl_ms: int = 43_200_000
    grace_ms: int = 60_000
    server_flaws: bool = False
    """Repeat the recorded flaws of the server to the letter instead of doing the sensible thing."""
    refuse_rollover: bool = False
    """Refuse a commit whose quota window has ended since authorize, as generation `tutorial` does."""

    def flaw(self, message: str) -> Refusal:
        """Where the server answers 500 for want of a check: that 500, or a 422 that says what is wrong."""
        return Refusal.unexpected() if self.server_flaws else Refusal.invalid(message)


@dataclass(frozen=True, slots=True)
class Feature:
    code: str
    family: str
    active: bool
    entitlement_required: bool
    """Its own flag, else that of its family."""


@dataclass(frozen=True, slots=True)
class Price:
    """XUSD per block of `per` units. A new version starts a new remainder."""

    xusd: int
    per: int
    rounding: Rounding
    prepaid: bool
    """Blocks are bought whole and used up later, whatever `rounding` says."""
    cost_xusd: int
    version: int
    since_ms: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Meter:
    code: str
    unit: str
    price: Price | None
    attached: bool = True
    """Whether the feature at hand lists it; meters and prices belong to the realm."""


@dataclass(frozen=True, slots=True)
class MeterLine:
    """One line as requested."""

    meter_code: str
    quantity: int
    unit: str | None = None
    client_etag: str | None = None
    client_price: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line as rated."""

    line_id: str
    meter_code: str
    quantity: int
    amount_xusd: int
    cost_xusd: int
    remainder: int
    """The one it started from."""
    unit: str
    price: Price | None


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota and what of it is used in the window at hand."""

    policy_id: int
    limit: int
    window_sec: int
    used: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate and the authorizes admitted in the current window."""

    policy_id: int
    limit: int
    window_sec: int
    used: int


@dataclass(frozen=True, slots=True)
class Budget:
    budget_id: str
    limit_xusd: int
    consumed_xusd: int


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as the ledger keeps it."""

    lease_id: str
    handle: str = field(repr=False)
    feature_code: str
    family: str
    state: LeaseState
    created_ms: int
    expires_ms: int
    window_start_ms: int
    window_sec: int
    budget_id: str | None


@dataclass(frozen=True, slots=True)
class Rating:
    """One recorded commit or ingest."""

    commit_id: str
    principal_id: str
    user_id: str | None
    feature_code: str
    quantity: int
    meters: Mapping[str, int]
    amount_xusd: int
    """The computed price; of a quarantined rating nothing was charged."""
    status: Literal["applied", "quarantined"]
    labels: Mapping[str, str]
    idempotency_key: str
    source: Literal["commit", "ingest"]
    hints: tuple[str, ...] = ()
    """Types of the hints it was answered with; of a quarantined one they say why."""
    created_ms: int = 0
    """When it was recorded."""


def window_start(now_ms: int, window_sec: int) -> int:
    """Windows are aligned to the epoch, so that all principals share their edges."""
    size = window_sec * 1000
    return now_ms - now_ms % size


def iso(time_ms: int) -> str:
    return f"{_to_the_second(time_ms // 1000)}.{time_ms % 1000:03d}Z"


@functools.lru_cache(maxsize=256)
def _to_the_second(time_sec: int) -> str:
    return datetime.fromtimestamp(time_sec, UTC).strftime("%Y-%m-%dT%H:%M:%S")
