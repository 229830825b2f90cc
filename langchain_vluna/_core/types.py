"""Frozen values that every layer shares.

Quantities are `int` in minor units (tokens, calls), money is `int` in XUSD
(1 XUSD = 0.000001 USD). `None` means unknown, `0` means zero; neither ever
stands for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = [
    "BatchItem",
    "BatchOutcome",
    "Call",
    "Commit",
    "CommitLine",
    "Hint",
    "HintLevel",
    "HttpRequest",
    "HttpResponse",
    "Identity",
    "Lease",
    "Limits",
    "Preflight",
    "Transport",
    "Usage",
    "UsageSource",
    "Verb",
]

Verb = Literal["authorize", "commit", "cancel", "batch", "ingest", "preflight", "limits", "meters"]
UsageSource = Literal["reported", "estimated"]
HintLevel = Literal["info", "warning", "alarm"]

_ALARMS = frozenset(
    {"feature.meter_not_allowed", "lease.closed_at_commit", "policy.window_not_found", "pricing.not_configured"}
)
_INFOS = frozenset({"pricing.changed"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who pays: the stable billing owner, and the user where the wire has users."""

    principal_id: str
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """Advice the gate attached to an answer."""

    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All other fields as sent; numbers are JSON numbers."""

    @property
    def quarantines(self) -> bool:
        """Whether a commit that carries this hint was recorded but not charged."""
        if self.type == "lease.expired":
            return self.fields.get("exceeded_grace") is True
        return self.type in _ALARMS

    @property
    def level(self) -> HintLevel:
        """`alarm`: nothing was charged; `info`: no action needed; else `warning`."""
        if self.quarantines:
            return "alarm"
        return "info" if self.type in _INFOS else "warning"


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to do one piece of work, as `authorize` grants it."""

    handle: str = field(repr=False)
    """Secret: `lease_token`, or `lease` in the newest wire generation."""
    feature_code: str
    """In the gate's canonical form."""
    identity: Identity
    lease_id: str | None = None
    feature_family_code: str | None = None
    window_start: str | None = None
    window_end: str | None = None
    """End of the first quota window; not the expiry of the lease."""
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitLine:
    """One priced line of a commit."""

    meter_code: str
    quantity: int
    amount_xusd: int | None
    """`None` where the gate has no price for the meter."""
    unit_price_xusd: int | None = None
    """Per block of units; 0 where it is free, or where the gate shows a missing price so."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The gate's answer to a commit or an ingest."""

    commit_id: str | None
    amount_xusd: int | None
    """Computed price; when `quarantined`, nothing of it was charged."""
    lines: tuple[CommitLine, ...] = ()
    hints: tuple[Hint, ...] = ()
    budget_id: str | None = None

    @property
    def quarantined(self) -> bool:
        """Whether any hint says that the commit was recorded but not charged."""
        return any(hint.quarantines for hint in self.hints)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One commit of a batch; the key protects it wherever it is sent."""

    lease: Lease
    quantity: int
    idempotency_key: str
    meters: Mapping[str, int] | None = None
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of the item at `index`."""

    index: int
    status: str
    """`committed`, `invalid` (a single commit would be 422) or `failed`."""
    commit: Commit | None = None
    """Never carries hints, so it cannot show a quarantine."""
    error_type: str | None = None
    error_details: str | None = None


@dataclass(frozen=True, slots=True)
class Preflight:
    """What authorize would say, without a lease (generation `lease` only)."""

    feature_code: str
    feature_family_code: str | None = None
    window_start: str | None = None
    window_end: str | None = None
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Quotas, rates and meters of one feature, as `GET /gate/limits` lists them."""

    feature_code: str
    feature_family_code: str | None = None
    unit: str | None = None
    quotas: tuple[Mapping[str, Any], ...] = ()
    rates: tuple[Mapping[str, Any], ...] = ()
    meters: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model run. Detail counts are parts of input or output, never added to them."""

    input_tokens: int
    """Includes `cached_tokens`, `cache_write_tokens` and `audio_input_tokens`."""
    output_tokens: int
    """Includes `reasoning_tokens` and `audio_output_tokens`."""
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    source: UsageSource = "reported"
    model: str | None = None
    """The model that served the call, where the provider said so."""
    extra: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Work beside tokens that the provider says it did, such as `web_search`; see `langchain_vluna.usage.extra`."""

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Call:
    """One logical call of the gate, before any wire generation shaped it.

    `body` uses the neutral names `lease` and `budget`; the wire renames them.
    It is encoded once per generation and sent unchanged on every attempt.
    """

    verb: Verb
    identity: Identity
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    idempotency_key: str | None = None
    query: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One signed attempt: what a transport puts on the wire, byte for byte."""

    method: str
    target: str
    """Path with prefix and, if any, `?` and the raw query: what was signed."""
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    timeout: float
    """Seconds for the whole attempt."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


class Transport(Protocol):
    """Carries one request to a gate and brings its answer, in both colours.

    A failure to get an answer raises `TransportFailure`, never a foreign error.
    """

    def send(self, request: HttpRequest) -> HttpResponse:
        """Send, blocking."""

    async def asend(self, request: HttpRequest) -> HttpResponse:
        """Send without blocking the event loop."""

    def close(self) -> None:
        """Release connections; a later `send` may open them again."""

    async def aclose(self) -> None:
        """Release connections of the running event loop."""
