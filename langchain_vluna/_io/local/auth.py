"""Who sends a request: the signature checks of both generations, in the server's order and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_vluna._core.ledger.model import Refusal
from langchain_vluna._core.signing import (
    SCHEME,
    Authorization,
    SignatureVersion,
    canonical_string,
    content_digest,
    parse_authorization,
    verify,
)

__all__ = ["Caller", "Generation", "Verifier", "normal_headers"]

Generation = Literal["tutorial", "user", "lease"]

_ALGORITHMS: Mapping[Generation | None, tuple[SignatureVersion, ...]] = {
    "tutorial": ("v1",),
    "user": ("v2",),
    "lease": ("v2",),
    None: ("v2", "v1"),
}


@dataclass(frozen=True, slots=True)
class Caller:
    version: SignatureVersion
    principal_id: str
    user_id: str | None
    """`None` for a v1 request, whatever it sends: that generation knows no users."""


class UnknownRealm(Refusal):
    """Tells a client to forget what it knows about its realm."""

    meta: Mapping[str, Any] = {"clear_cached_realm": True}


def normal_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as a server sees them: names in lower case, no blanks around values, bytes as Latin-1."""
    return {
        name.lower(): value.strip() if value.isascii() else value.strip().encode().decode("latin-1")
        for name, value in headers.items()
    }


class Verifier:
    def __init__(self, *, realm_id: str, key_id: str, secret: bytes, generation: Generation | None) -> None:
        self._realm_id = realm_id
        self._key_id = key_id
        self._secret = secret
        self._versions = _ALGORITHMS[generation]

    def verify(self, method: str, target: str, headers: Mapping[str, str], content: bytes) -> Caller:
        """Return who signed.

        Raises:
            Refusal: Nobody this gate knows.
        """
        realm = headers.get("x-realm-id")
        if not realm:
            raise Refusal(400, "VALIDATION.INVALID_INPUT", "missing_realm")
        signed = _authorization(headers)
        if realm != self._realm_id:
            raise UnknownRealm(404, "AUTH.UNKNOWN_REALM", "unknown realm")
        digest = headers.get("content-digest")
        if digest is None:
            raise _unverified("Content-Digest header missing")
        if digest != content_digest(content):
            raise _unverified("Content-Digest mismatch")
        if signed.key_id != self._key_id:
            raise Refusal(401, "AUTH.SERVICE_KEY_NOT_FOUND", "Service API key not recognized")
        return _identity(self._matching_version(method, target, headers, signed), headers)

    def _matching_version(
        self, method: str, target: str, headers: Mapping[str, str], signed: Authorization
    ) -> SignatureVersion:
        # A request without a user is most likely the older one: trying that first saves a digest.
        versions = self._versions if "x-user-id" in headers else reversed(self._versions)
        for version in versions:
            canonical = canonical_string(
                version,
                method=method,
                target=target,
                ts=signed.ts,
                nonce=signed.nonce,
                content_digest=headers["content-digest"],
                content_type=headers.get("content-type", ""),
                realm_id=headers["x-realm-id"],
                principal_id=headers.get("x-principal-id"),
                user_id=headers.get("x-user-id"),
                billing_account_id=headers.get("x-billing-account-id"),
                billing_user_id=headers.get("x-billing-user-id"),
                idempotency_key=headers.get("idempotency-key"),
            )
            if verify(self._secret, canonical, signed.signature):
                return version
        raise _unverified("Signature mismatch")


def _authorization(headers: Mapping[str, str]) -> Authorization:
    header = headers.get("authorization", "")
    scheme = header.partition(" ")[0].lower()
    if scheme == "bearer":
        raise Refusal(401, "AUTH.UNAUTHORIZED", "invalid_token")
    if scheme != SCHEME.lower():
        raise Refusal(401, "AUTH.UNAUTHORIZED", "unsupported_authorization_scheme")
    signed = parse_authorization(header)
    if signed is None:
        raise _unverified("Authorization header malformed")
    return signed


def _identity(version: SignatureVersion, headers: Mapping[str, str]) -> Caller:
    principal, user = headers.get("x-principal-id"), headers.get("x-user-id")
    if version == "v1":
        if not principal:
            raise Refusal(401, "AUTH.MISSING_SERVICE_BINDINGS", "principal_id or billing_account_id required")
        return Caller("v1", principal, None)
    if not principal or not user:
        raise Refusal(401, "AUTH.MISSING_RUNTIME_BINDINGS", "x-principal-id and x-user-id are required")
    return Caller("v2", principal, user)


def _unverified(message: str) -> Refusal:
    return Refusal(401, "AUTH.INVALID_SERVICE_SIGNATURE", message)
