"""The SVC-AUTH request signature: canonical string, body digest, HMAC, and the header that carries them.

Both generations live here, and both directions: the client signs, the local gate verifies.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from langchain_vluna._core.errors import ConfigurationError

__all__ = [
    "ALGORITHM",
    "SCHEME",
    "Authorization",
    "SignatureVersion",
    "authorization_header",
    "canonical_string",
    "content_digest",
    "decode_secret",
    "parse_authorization",
    "sign",
    "verify",
]

SignatureVersion = Literal["v1", "v2"]
"""`v1`: ten lines, wire generation `tutorial`; `v2`: twelve lines, `user` and `lease`."""

SCHEME = "SVC-AUTH"
ALGORITHM = "HMAC-SHA256"

_EMPTY_DIGEST = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
_PARAMETERS = re.compile(
    rf"{SCHEME} keyId=(?P<key_id>[^,]+),sig=(?P<signature>[^,]+),"
    rf"ts=(?P<ts>[^,]+),nonce=(?P<nonce>[^,]+),alg={ALGORITHM}"
)


def content_digest(body: bytes) -> str:
    """Return the Content-Digest header of the raw bytes that are sent; GET has one too, over no bytes."""
    if not body:
        return _EMPTY_DIGEST
    return f"sha-256=:{binascii.b2a_base64(sha256(body).digest(), newline=False).decode()}:"


def canonical_string(
    version: SignatureVersion,
    *,
    method: str,
    target: str,
    ts: str,
    nonce: str,
    content_digest: str,
    content_type: str,
    realm_id: str,
    principal_id: str | None,
    user_id: str | None = None,
    billing_account_id: str | None = None,
    billing_user_id: str | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Return the text that is signed. `None` is a header that is not sent: its line ends at the colon.

    `target` is path and raw query exactly as sent. `v1` signs neither the user nor the billing user.
    """
    head = (
        f"{method.upper()}\n{target}\nts:{ts}\nnonce:{nonce}\n"
        f"content-digest:{content_digest}\ncontent-type:{content_type}\nx-realm-id:{realm_id}\n"
    )
    principal, account, key = principal_id or "", billing_account_id or "", idempotency_key or ""
    if version == "v1":
        return f"{head}x-billing-account-id:{account}\nx-principal-id:{principal}\nidempotency-key:{key}"
    return (
        f"{head}x-principal-id:{principal}\nx-user-id:{user_id or ''}\nx-billing-account-id:{account}\n"
        f"x-billing-user-id:{billing_user_id or ''}\nidempotency-key:{key}"
    )


def decode_secret(secret_base64: str) -> bytes:
    """Return the HMAC key of a service key secret.

    Strict: a lenient decoder skips stray characters and signs with a key that nobody issued, which only
    shows as a refused signature later.

    Raises:
        ConfigurationError: Not base64. The message never shows the secret.
    """
    try:
        key = base64.b64decode(secret_base64, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        # Tools that collect errors keep the variables of each frame.
        del secret_base64
        msg = (
            "the service key secret is not base64; copy it again as issued, whole and without blanks or quotes"
            " (environment variable VLUNA_SERVICE_KEY_SECRET)"
        )
        raise ConfigurationError(msg) from None
    return key


def sign(key: bytes | str, canonical: str) -> str:
    """Return the base64 signature. `key` is a decoded secret, or a base64 one that is decoded on each call."""
    raw = decode_secret(key) if isinstance(key, str) else key
    return binascii.b2a_base64(hmac.digest(raw, canonical.encode(), "sha256"), newline=False).decode()


def verify(key: bytes | str, canonical: str, signature: str) -> bool:
    """Return whether `signature` is the one of `canonical`, in constant time."""
    return hmac.compare_digest(sign(key, canonical).encode(), signature.encode())


def authorization_header(*, key_id: str, signature: str, ts: str, nonce: str) -> str:
    """Return the Authorization header; the gate wants this order and commas without blanks."""
    return f"{SCHEME} keyId={key_id},sig={signature},ts={ts},nonce={nonce},alg={ALGORITHM}"


@dataclass(frozen=True, slots=True)
class Authorization:
    """The parts of an Authorization header."""

    key_id: str
    signature: str = field(repr=False)
    ts: str
    nonce: str


def parse_authorization(header: str) -> Authorization | None:
    """Return the parts of `header`, or `None` where it is malformed."""
    match = _PARAMETERS.fullmatch(header)
    return Authorization(**match.groupdict()) if match else None
