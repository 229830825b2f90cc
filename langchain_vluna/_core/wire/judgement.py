"""What a refusal means, by HTTP status first, then code, then message and hints; and what to do about it.

The order matters: the gate denies an empty balance with 402 and the code `SERVER.CONFIG`, which by itself
looks like an outage.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from langchain_vluna._core.errors import (
    DenialReason,
    GateDenied,
    GateProtocolError,
    GateRejected,
    GateUnavailable,
    IdempotencyConflict,
    VlunaError,
)
from langchain_vluna._core.types import Call
from langchain_vluna._core.wire.answers import Reply

__all__ = ["details", "judge", "passed_authentication", "retryable", "subject"]

_LONGEST_QUOTE = 300

_BY_CODE = {
    "AUTH.SERVICE_KEY_NOT_FOUND": "the gate does not know this service key id; check VLUNA_SERVICE_KEY_ID",
    "AUTH.SERVICE_KEY_REALM_FORBIDDEN": "this service key belongs to another realm; check VLUNA_REALM_ID",
    "AUTH.SERVICE_KEY_DISABLED": "this service key is disabled; issue a new one",
    "AUTH.SERVICE_KEY_EXPIRED": "this service key has expired; issue a new one",
    "AUTH.UNKNOWN_REALM": "the gate does not know this realm; check VLUNA_REALM_ID",
    "AUTH.MISSING_SERVICE_BINDINGS": "the gate wants a principal_id",
    "AUTH.MISSING_RUNTIME_BINDINGS": "the gate wants both principal_id and user_id; pass both, or set wire='user'",
}

_BY_STATUS = {
    HTTPStatus.BAD_REQUEST: "the gate cannot read the request; check VLUNA_REALM_ID and the values sent",
    HTTPStatus.UNAUTHORIZED: "the gate does not accept the credentials; check VLUNA_SERVICE_KEY_ID and its secret",
    HTTPStatus.FORBIDDEN: "the service key may not do this; check its rights and VLUNA_REALM_ID",
    HTTPStatus.NOT_FOUND: "nothing is there; check path and host of VLUNA_SERVICE_BASE_URL",
    HTTPStatus.CONFLICT: "the idempotency key was used before with another body; use one key per operation",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request is too large; send fewer items or shorter labels",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the gate refuses a value; the quoted reason names it",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the headers are too large; shorten idempotency key or identity",
}

_DENIALS: dict[DenialReason, str] = {
    "funding": "the balance is used up; top it up",
    "quota": "the quota of this window is used up; wait for the next window or raise it",
    "budget": "the budget is used up; raise it or use another",
    "entitlement": "the plan does not include this feature; entitle the customer or use another feature",
    "rate": "too many calls in this window; wait and try again",
    "unknown": "payment is required",
}


def retryable(reply: Reply) -> bool:
    """Return whether the same request may get another answer."""
    return reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR or reply.status == HTTPStatus.TOO_MANY_REQUESTS


def passed_authentication(reply: Reply) -> bool:
    """Return whether only the gate itself, having verified the signature, answers like this."""
    return reply.ok or reply.status in {
        HTTPStatus.PAYMENT_REQUIRED,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }


def judge(call: Call, reply: Reply, *, request_id: str) -> VlunaError:
    """Return the error that a reply without success is."""
    facts = details(call, request_id) | {
        "status": reply.status,
        "code": reply.code,
        "hints": reply.hints,
        "retry_after": reply.retry_after,
    }
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        text = f"{subject(call)}: the gate fails{_quoted(reply)}; try again later"
        return GateUnavailable(text, outcome_unknown=True, **facts)
    reason = _denial(reply)
    if reason is not None:
        text = f"{subject(call)} denied ({reason}): {_DENIALS[reason]}{_quoted(reply)}"
        return GateDenied(text, reason=reason, **facts)
    if reply.status < HTTPStatus.MULTIPLE_CHOICES:
        text = f"{subject(call)}: the answer is not a gate's{_quoted(reply)}; check VLUNA_SERVICE_BASE_URL"
        return GateProtocolError(text, **facts)
    kind = IdempotencyConflict if reply.status == HTTPStatus.CONFLICT else GateRejected
    return kind(f"{subject(call)} refused: {_remedy(reply)}{_quoted(reply)}", **facts)


def _denial(reply: Reply) -> DenialReason | None:
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate"
    code = reply.code or ""
    if reply.status == HTTPStatus.FORBIDDEN and code.startswith("ENTITLEMENT."):
        return "entitlement"
    return _payment_reason(reply) if reply.status == HTTPStatus.PAYMENT_REQUIRED else None


def _payment_reason(reply: Reply) -> DenialReason:
    words: tuple[tuple[str, DenialReason], ...] = (
        ("budget", "budget"),
        ("quota", "quota"),
        ("fund", "funding"),
        ("balance", "funding"),
        ("credit", "funding"),
    )
    # Each source on its own, best first: a budget hint may ride along with a denial for funding.
    for source in (reply.code or "", reply.message or "", " ".join(hint.type for hint in reply.hints)):
        for word, reason in words:
            if word in source.lower():
                return reason
    return "unknown"


def _remedy(reply: Reply) -> str:
    if reply.signature_mismatch:
        return (
            "the signature does not match; check VLUNA_SERVICE_KEY_SECRET, and that `wire` names the gate's"
            " generation ('tutorial' signs otherwise than 'user' and 'lease', which need a user_id)"
        )
    if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST:
        return "the gate redirects, which is not followed; set VLUNA_SERVICE_BASE_URL to where it points"
    by_status = {int(status): text for status, text in _BY_STATUS.items()}
    return _BY_CODE.get(reply.code or "") or by_status.get(reply.status, "the gate refuses the request")


def _quoted(reply: Reply) -> str:
    said = [str(reply.status), reply.code, reply.message and repr(reply.message[:_LONGEST_QUOTE])]
    return f" [{' '.join(part for part in said if part)}]"


def subject(call: Call) -> str:
    """Return what an error is about, for its message."""
    feature = call.body.get("feature_code")
    about = f" of {feature!r}" if feature else ""
    return f"{call.verb}{about} for principal {call.identity.principal_id!r}"


def details(call: Call, request_id: str) -> dict[str, Any]:
    """Return what every error about `call` carries."""
    return {
        "idempotency_key": call.idempotency_key,
        "feature_code": call.body.get("feature_code"),
        "principal_id": call.identity.principal_id,
        "request_id": request_id,
    }
