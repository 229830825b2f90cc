"""Errors, and who is to blame.

    VlunaError (langchain_core ModelError, never retryable)
    ├── GateDenied            the customer's plan says no; `reason` says why
    ├── GateUnavailable       the gate cannot be reached or does not answer
    ├── GateRejected          the gate refused the request: settings, fields, credentials
    │   └── IdempotencyConflict  a key was used before with another body
    ├── GateProtocolError     the gate answered something that is no answer
    ├── ConfigurationError    the caller: a missing or impossible setting or value
    └── RunStateError         us: an event that is impossible in a run's state

Every error that blocks a run must pass through agents unharmed: LangGraph's tool
node, retry middlewares and retry policies swallow or repeat plain exceptions, but
let `GraphBubbleUp` through. `blocking` adds it at raise time, so that langgraph
is neither imported nor required.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from langchain_core.exceptions import ModelError

from langchain_vluna._core.types import Hint

__all__ = [
    "ConfigurationError",
    "DenialReason",
    "GateDenied",
    "GateProtocolError",
    "GateRejected",
    "GateUnavailable",
    "IdempotencyConflict",
    "RunStateError",
    "TransportFailure",
    "VlunaError",
    "blocking",
]

DenialReason = Literal["funding", "quota", "budget", "entitlement", "rate", "unknown"]


class VlunaError(ModelError):
    """Base of all errors of this package. Retrying the same call does not help."""

    is_retryable: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        hints: tuple[Hint, ...] = (),
        idempotency_key: str | None = None,
        feature_code: str | None = None,
        principal_id: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the gate's answer; `None` where there was none."""
        self.code = code
        """The gate's error code."""
        self.hints = hints
        self.idempotency_key = idempotency_key
        self.feature_code = feature_code
        self.principal_id = principal_id
        self.request_id = request_id
        self.retry_after = retry_after
        """Seconds the gate asked to wait, where it did."""
        self.outcome_unknown = outcome_unknown
        """Whether an attempt of the call may have been carried out, although it ended in this error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (_plain_class(type(self)), self.message, dict(vars(self)))


class GateDenied(VlunaError):
    """The gate said no: the work must not run."""

    def __init__(self, message: str, *, reason: DenialReason = "unknown", **details: Any) -> None:
        super().__init__(message, **details)
        self.reason: DenialReason = reason


class GateUnavailable(VlunaError):
    """No usable answer within the retry budget; whether the gate acted is unknown."""

    def __init__(self, message: str, *, outcome_unknown: bool = True, **details: Any) -> None:
        super().__init__(message, outcome_unknown=outcome_unknown, **details)


class GateRejected(VlunaError):
    """The gate refused the request itself; names the field or setting to change."""


class IdempotencyConflict(GateRejected):
    """The idempotency key was used before with another body. Never send it under a new key."""


class GateProtocolError(VlunaError):
    """The gate answered with success, but not with what the contract says."""


class ConfigurationError(VlunaError):
    """A setting or value is missing or impossible; nothing was sent or charged."""


class RunStateError(VlunaError):
    """An event that cannot happen in the run's state; the state is unchanged."""


class TransportFailure(Exception):
    """No answer to one attempt. Raised by transports only and never seen by users."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        """Whether the gate may have received the request."""


def blocking(error: VlunaError) -> VlunaError:
    """Return `error` as an instance that agents neither swallow nor retry.

    Without langgraph in the process it is the same object.
    """
    langgraph_errors = sys.modules.get("langgraph.errors")
    if langgraph_errors is None:
        return error
    bubbling = _bubbling_class(type(error), langgraph_errors.GraphBubbleUp)  # type: ignore[arg-type]  # typeshed doubts that classes are hashable
    revived = bubbling.__new__(bubbling, error.message)
    revived.__dict__.update(vars(error))
    revived.__cause__ = error.__cause__
    return revived


@functools.cache
def _bubbling_class(plain: type[VlunaError], bubble_up: type[Exception]) -> type[VlunaError]:
    if issubclass(plain, bubble_up):
        return plain
    return type(plain.__name__, (plain, bubble_up), {"__doc__": plain.__doc__, "__module__": plain.__module__})


def _plain_class(kind: type[VlunaError]) -> type[VlunaError]:
    return next(base for base in kind.__mro__ if base in _PLAIN)


def _revive(plain: type[VlunaError], message: str, state: Mapping[str, Any]) -> VlunaError:
    error = plain.__new__(plain, message)
    error.__dict__.update(state)
    return blocking(error)


_PLAIN = frozenset(
    {
        VlunaError,
        GateDenied,
        GateUnavailable,
        GateRejected,
        IdempotencyConflict,
        GateProtocolError,
        ConfigurationError,
        RunStateError,
    }
)
