"""The three wire generations: how each signs, what its bodies are called, and how the right one is found.

Signature and payload are two independent settings. `WireState` holds what is known about a gate and is
shared by all calls of a client; it takes no lock, because every writer writes a fact the gate has just
shown, and a reader that misses it only asks once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from pydantic_core import to_json

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Call, Identity, Verb
from langchain_vluna._core.wire.answers import Reply

if TYPE_CHECKING:
    from langchain_vluna._core.config import Wire

__all__ = ["Encoded", "Generation", "Payload", "Signature", "WireState", "encode"]

Signature = Literal["v1", "v2"]
Payload = Literal["lease_token", "lease"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One way to speak to a gate."""

    signature: Signature
    payload: Payload


_PRESETS: Mapping[str, Generation] = {
    "tutorial": Generation("v1", "lease_token"),
    "user": Generation("v2", "lease_token"),
    "lease": Generation("v2", "lease"),
}

_ROUTES: Mapping[Verb, tuple[str, str]] = {
    "authorize": ("POST", "/gate/authorize"),
    "commit": ("POST", "/gate/commits"),
    "batch": ("POST", "/gate/commits/batch"),
    "cancel": ("POST", "/gate/cancel"),
    "ingest": ("POST", "/gate/ingest"),
    "preflight": ("POST", "/gate/preflight"),
    "limits": ("GET", "/gate/limits"),
    "meters": ("GET", "/gate/meters"),
}

_OLD_NAMES = {"lease": "lease_token", "budget": "budget_id"}
_LEASE_TOKEN = re.compile(r"lease\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9a-f]{16}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A call in one payload form: what is sent, unchanged, on every attempt."""

    method: str
    path: str
    """Below the prefix, with the raw query."""
    content: bytes = field(repr=False)


def encode(call: Call, payload: Payload) -> Encoded:
    """Write `call` down."""
    method, path = _ROUTES[call.verb]
    if call.query:
        path = f"{path}?{urlencode(call.query)}"
    if method == "GET":
        return Encoded(method, path, b"")
    return Encoded(method, path, to_json(_named(call.body, payload)))


def _named(body: Mapping[str, Any], payload: Payload) -> Mapping[str, Any]:
    if payload == "lease":
        return body
    budget = body.get("budget")
    if budget is not None and not _UUID.fullmatch(budget):
        msg = f"budget {budget!r} must be a uuid: this gate takes other budget references only with wire='lease'"
        raise ConfigurationError(msg)
    items = body.get("items")
    if items is not None:
        return {**body, "items": [_named(item, payload) for item in items]}
    return {_OLD_NAMES.get(name, name): value for name, value in body.items()}


class WireState:
    """What is known about the generation of one gate; `None` is not known yet."""

    __slots__ = ("auto", "payload", "signature")

    def __init__(self, wire: Wire = "auto") -> None:
        preset = _PRESETS.get(wire)
        if preset is None and wire != "auto":
            msg = f"wire must be one of auto, {', '.join(_PRESETS)}, got {wire!r}"
            raise ConfigurationError(msg)
        self.auto = preset is None
        self.signature: Signature | None = preset.signature if preset else None
        self.payload: Payload | None = preset.payload if preset else None

    @classmethod
    def per_call(cls) -> WireState:
        """Return the state of a gate that takes both signatures: each call is signed as its identity needs."""
        state = cls()
        state.auto, state.payload = False, "lease_token"
        return state

    def __repr__(self) -> str:
        return f"WireState(auto={self.auto}, signature={self.signature}, payload={self.payload})"

    def generation_for(self, call: Call) -> Generation:
        """Return how to speak for `call`: as known, else the likeliest.

        Raises:
            ConfigurationError: The generation cannot carry this call; nothing was sent.
        """
        signature = self.signature or ("v2" if call.identity.user_id is not None else "v1")
        if signature == "v2" and call.identity.user_id is None:
            raise _user_missing(call.identity)
        payload: Payload = self.payload or ("lease_token" if signature == "v1" else _payload_of(call))
        if call.verb == "preflight" and payload == "lease_token":
            msg = "preflight exists in wire generation 'lease' only; use authorize, or set wire='lease'"
            raise ConfigurationError(msg)
        return Generation(signature, payload)

    def learn(self, call: Call, used: Generation, reply: Reply) -> None:
        """Take what a reply that passed authentication shows."""
        if not self.auto:
            return
        self.signature = used.signature
        if used.signature == "v1":
            self.payload = "lease_token"
        elif call.verb == "authorize" and reply.ok and isinstance(reply.data, dict):
            self.payload = next((name for name in _PAYLOADS if name in reply.data), self.payload)
        elif call.verb == "commit" and reply.ok:
            self.payload = used.payload

    def alternative(self, call: Call, used: Generation, reply: Reply) -> Generation | None:
        """Return the other way to speak where `reply` means that the first was the wrong one."""
        if not self.auto:
            return None
        if reply.signature_mismatch:
            if used.signature == "v2":
                return Generation("v1", "lease_token")
            return replace(used, signature="v2") if call.identity.user_id is not None else None
        if self.payload is None and used == Generation("v2", "lease_token") and call.verb in _HANDLED:
            # Such a refusal leaves no trace at the gate: key and lease stay free.
            return replace(used, payload="lease") if reply.status in _MALFORMED else None
        return None


_PAYLOADS: tuple[Payload, ...] = ("lease_token", "lease")
_HANDLED = frozenset({"commit", "batch"})
_MALFORMED = frozenset({400, 422})


def _payload_of(call: Call) -> Payload:
    """A handle from an earlier process shows its generation; everything else starts with the public one."""
    if call.verb == "preflight":
        return "lease"
    items = call.body.get("items")
    handle = (items[0] if items else call.body).get("lease")
    return "lease_token" if handle is None or _LEASE_TOKEN.fullmatch(handle) else "lease"


def _user_missing(identity: Identity) -> ConfigurationError:
    return ConfigurationError(
        f"user_id is missing for principal {identity.principal_id!r}: this wire generation bills principal and user;"
        " pass user_id=... or metadata['vluna_user_id'], or set wire='tutorial' for a gate without users",
        principal_id=identity.principal_id,
    )
