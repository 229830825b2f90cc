"""One API call as a generator: it yields what to do and is sent what came of it, so that both colours share it.

Guarantees:

- A call is encoded once per payload form; every attempt sends the same bytes under the same key, with a
  timestamp, nonce and signature of its own.
- Only what may heal is tried again: no answer, 5xx, 429. Advice of the gate comes before our own backoff,
  and advice beyond `RetryPolicy.maximum` ends the call at once, with the advice on the error.
- Nothing goes on past the deadline: an attempt gets the seconds that are left, and a wait that would
  outlast them is not begun.
- With `wire="auto"` a mistaken generation costs one more request, once, and is not counted as an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from langchain_vluna._core import signing, wire
from langchain_vluna._core.errors import GateProtocolError, GateUnavailable, TransportFailure, VlunaError
from langchain_vluna._core.types import Call, HttpRequest

if TYPE_CHECKING:
    from concurrent.futures import Future

    from langchain_vluna._core.config import RetryPolicy, Settings

__all__ = ["Effect", "Endpoint", "Flow", "Join", "Send", "Sources", "Turn", "Wait", "backoff", "exchange"]

_CONTENT_TYPE = "application/json; charset=utf-8"
_SECONDS_PER_ITEM = 0.05
"""What a gate may take for one item of a batch, with room to spare."""


@dataclass(frozen=True, slots=True)
class Send:
    """Carry out one attempt; resumed with an `HttpResponse`, or with `TransportFailure` thrown in."""

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Join:
    """Wait until `future` is done, whatever became of it."""

    future: Future[Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """Let others go first where many begin at once on one event loop."""


Effect = Send | Wait | Join | Turn
T = TypeVar("T")
Flow = Generator[Effect, Any, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a call takes from the world."""

    clock: Callable[[], datetime]
    """Aware, UTC."""
    monotonic: Callable[[], float]
    nonce: Callable[[], str]
    """32 hex digits, never the same twice."""
    random: Callable[[], float]
    """From 0 to 1."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which gate, and who signs."""

    prefix: str
    realm_id: str
    key_id: str
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Take what signing needs; `ConfigurationError` when the secret is not base64."""
        key = signing.decode_secret(settings.service_key_secret.get_secret_value())
        return cls(urlsplit(settings.base_url).path, settings.realm_id, settings.service_key_id, key)


def exchange(
    call: Call,
    *,
    endpoint: Endpoint,
    state: wire.WireState,
    sources: Sources,
    policy: RetryPolicy,
    timeout: float,
) -> Flow[wire.Reply]:
    """Make `call`, within `timeout` seconds and a little per batch item.

    Raises:
        GateDenied: The gate says no, or is still too busy after all attempts.
        GateUnavailable: No usable answer.
        GateRejected: The gate refuses the request itself.
        GateProtocolError: The gate answers something that is no answer.
        ConfigurationError: The call cannot be made in this wire generation; nothing was sent.
    """
    course = _Course(call, endpoint, state, sources, policy)
    if call.verb == "cancel" and course.used.payload == "lease":
        # This generation has no cancel: a lease that is not committed expires.
        return wire.Reply(200, ok=True, data={"cancelled": False})
    deadline = sources.monotonic() + timeout + _SECONDS_PER_ITEM * len(call.body.get("items", ()))
    while True:
        try:
            response = yield Send(course.attempt(deadline))
        except TransportFailure as failure:
            yield Wait(course.pause(course.lost(failure), deadline))
            continue
        reply = wire.read_reply(response, sources.clock())
        if reply.ok:
            return course.accepted(reply)
        error = course.refused(reply)
        if error is not None:
            yield Wait(course.pause(error, deadline))


class _Course:
    """What one call has come to: how it is spoken, how often it was tried, whether it may have arrived."""

    def __init__(
        self, call: Call, endpoint: Endpoint, state: wire.WireState, sources: Sources, policy: RetryPolicy
    ) -> None:
        self._call = call
        self._endpoint = endpoint
        self._state = state
        self._sources = sources
        self._policy = policy
        self._request_id = sources.nonce()
        self._tries = 0
        self._reached = self._unanswered = False
        self._mistaken: VlunaError | None = None
        self._speak(state.generation_for(call))

    def _speak(self, generation: wire.Generation) -> None:
        self.used = generation
        self._encoded = wire.encode(self._call, generation.payload)

    def attempt(self, deadline: float) -> HttpRequest:
        return HttpRequest(
            self._encoded.method,
            self._endpoint.prefix + self._encoded.path,
            self._headers(),
            self._encoded.content,
            timeout=max(0.0, deadline - self._sources.monotonic()),
        )

    def _headers(self) -> dict[str, str]:
        call, endpoint = self._call, self._endpoint
        # A gate of the first generation ignores the user, and does not sign it.
        user_id = call.identity.user_id if self.used.signature == "v2" else None
        ts, nonce = self._sources.clock().isoformat(), self._sources.nonce()
        digest = signing.content_digest(self._encoded.content)
        canonical = signing.canonical_string(
            self.used.signature,
            method=self._encoded.method,
            target=endpoint.prefix + self._encoded.path,
            ts=ts,
            nonce=nonce,
            content_digest=digest,
            content_type=_CONTENT_TYPE,
            realm_id=endpoint.realm_id,
            principal_id=call.identity.principal_id,
            user_id=user_id,
            idempotency_key=call.idempotency_key,
        )
        signature = signing.sign(endpoint.key, canonical)
        headers = {
            "authorization": signing.authorization_header(
                key_id=endpoint.key_id, signature=signature, ts=ts, nonce=nonce
            ),
            "content-digest": digest,
            "content-type": _CONTENT_TYPE,
            "x-realm-id": endpoint.realm_id,
            "x-principal-id": call.identity.principal_id,
            "x-request-id": self._request_id,
        }
        if user_id is not None:
            headers["x-user-id"] = user_id
        if call.idempotency_key is not None:
            headers["idempotency-key"] = call.idempotency_key
        return headers

    def lost(self, failure: TransportFailure) -> VlunaError:
        self._reached |= failure.sent
        self._unanswered |= failure.sent
        return GateUnavailable(
            f"{wire.subject(self._call)}: no answer from the gate: {failure}; check network and VLUNA_SERVICE_BASE_URL",
            outcome_unknown=self._reached,
            **wire.details(self._call, self._request_id),
        )

    def accepted(self, reply: wire.Reply) -> wire.Reply:
        self._state.learn(self._call, self.used, reply)
        unchecked = self._call.verb == "authorize" and self.used.payload != self._state.payload
        if unchecked and "budget" in self._call.body:
            msg = (
                f"{wire.subject(self._call)}: the gate turned out to be of generation 'lease', so the budget may not"
                " have been looked at; call again, or set wire='lease'"
            )
            raise GateProtocolError(msg, **wire.details(self._call, self._request_id))
        return reply

    def refused(self, reply: wire.Reply) -> VlunaError | None:
        """Return what to wait on; `None` to go on at once, in another generation."""
        error = wire.judge(self._call, reply, request_id=self._request_id)
        # What is refused now may have been carried out at an earlier attempt, whose answer was lost.
        error.outcome_unknown |= self._unanswered
        if wire.retryable(reply):
            self._reached = True
            self._unanswered = error.outcome_unknown
            return error
        if wire.passed_authentication(reply):
            self._state.learn(self._call, self.used, reply)
        other = self._state.alternative(self._call, self.used, reply) if self._mistaken is None else None
        if other is not None:
            self._mistaken = error
            self._speak(other)
            return None
        # Refused in both generations: the first refusal is of the likelier one.
        raise self._mistaken if self._mistaken is not None and self._mistaken.status == error.status else error

    def pause(self, error: VlunaError, deadline: float) -> float:
        self._tries += 1
        wait = backoff(self._policy, self._tries, error.retry_after, self._sources.random())
        if wait is None or self._tries >= self._policy.attempts or self._sources.monotonic() + wait >= deadline:
            raise error
        return wait


def backoff(policy: RetryPolicy, tries: int, advised: float | None, jitter: float) -> float | None:
    """Return the seconds to wait after `tries` attempts; `None` where the gate asks for more than we may wait."""
    if advised is not None and advised > policy.maximum:
        return None
    own = policy.initial * 2.0 ** (tries - 1) * (0.5 + jitter / 2)
    # On top of the advice, which gates round down, and which all waiting clients get alike.
    return min((advised or 0.0) + own, policy.maximum)
