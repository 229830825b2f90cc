"""Signatures match the recorded known answers, and secrets stay secret."""

from __future__ import annotations

import base64
import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from langchain_vluna._core.config import Settings
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.exchange import Endpoint
from langchain_vluna._core.signing import (
    Authorization,
    authorization_header,
    canonical_string,
    content_digest,
    decode_secret,
    parse_authorization,
    sign,
    verify,
)

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("signing_vectors.json").read_text("utf-8"))[
    "vectors"
]
vectors = pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS])


def canonical_of(vector: dict[str, Any], version: Any = None) -> str:
    given_ = vector["input"]
    identity = ("realm_id", "principal_id", "user_id", "billing_account_id", "billing_user_id", "idempotency_key")
    return canonical_string(
        version or vector["signature_version"],
        method=given_["method"],
        target=given_["path_and_query"],
        ts=given_["timestamp"],
        nonce=given_["nonce"],
        content_digest=content_digest((given_["body_utf8"] or "").encode()),
        content_type=given_["content_type"],
        **{name: given_[name] for name in identity},
    )


@vectors
def test_digest_matches(vector: dict[str, Any]) -> None:
    """The digest covers the raw body bytes, and no bytes where there is no body."""
    assert vector["expected"]["content_digest"] == content_digest((vector["input"]["body_utf8"] or "").encode())


@vectors
def test_canonical_string_matches(vector: dict[str, Any]) -> None:
    """The canonical string is the recorded one, line by line."""
    assert vector["expected"]["canonical_string"] == canonical_of(vector)


@vectors
def test_signature_and_header_match(vector: dict[str, Any]) -> None:
    """The signature and the Authorization header are the recorded ones."""
    given_ = vector["input"]
    signature = sign(given_["secret_base64"], canonical_of(vector))
    header = authorization_header(
        key_id=given_["key_id"], signature=signature, ts=given_["timestamp"], nonce=given_["nonce"]
    )
    assert vector["expected"]["signature"] == signature
    assert vector["expected"]["headers"]["authorization"] == header


@vectors
def test_only_the_own_generation_verifies(vector: dict[str, Any]) -> None:
    """A signature holds for its own generation and for no other."""
    key = decode_secret(vector["input"]["secret_base64"])
    other = "v1" if vector["signature_version"] == "v2" else "v2"
    assert verify(key, canonical_of(vector), vector["expected"]["signature"])
    assert not verify(key, canonical_of(vector, other), vector["expected"]["signature"])


@vectors
def test_header_parses_into_its_parts(vector: dict[str, Any]) -> None:
    """Parsing the recorded header gives back what it was made from."""
    given_, expected = vector["input"], vector["expected"]
    assert Authorization(
        key_id=given_["key_id"], signature=expected["signature"], ts=given_["timestamp"], nonce=given_["nonce"]
    ) == parse_authorization(expected["headers"]["authorization"])


@pytest.mark.parametrize(
    "header",
    [
        "",
        "SVC-AUTH",
        "SVC-AUTH keyId=a,sig=b,ts=c,nonce=d",
        "SVC-AUTH keyId=a, sig=b, ts=c, nonce=d, alg=HMAC-SHA256",
        "SVC-AUTH sig=b,keyId=a,ts=c,nonce=d,alg=HMAC-SHA256",
        "SVC-AUTH keyId=a,sig=b,ts=c,nonce=d,alg=HMAC-SHA256,",
        "SVC-AUTH keyId=,sig=b,ts=c,nonce=d,alg=HMAC-SHA256",
        "Bearer abc",
    ],
)
def test_malformed_header_is_none(header: str) -> None:
    """A header in another order, with blanks or with missing parts is malformed."""
    assert parse_authorization(header) is None


@given(key=st.binary(min_size=1, max_size=64), text=st.text(max_size=80), signature=st.text(max_size=50))
def test_verify_accepts_nothing_but_the_signature(key: bytes, text: str, signature: str) -> None:
    """Whatever text is offered, only the signature itself verifies."""
    right = sign(key, text)
    assert verify(key, text, right)
    assert verify(key, text, signature) == (signature == right)


@given(st.binary(min_size=1, max_size=64))
def test_a_secret_decodes_to_the_bytes_it_encodes(raw: bytes) -> None:
    """Decoding is the inverse of encoding, and signing takes either form."""
    secret = base64.b64encode(raw).decode()
    assert raw == decode_secret(secret)
    assert sign(raw, "text") == sign(secret, "text")


@pytest.mark.parametrize(
    "secret", ["", "c2Vjcm V0", " c2VjcmV0", "c2VjcmV0\n", '"c2VjcmV0"', "c2VjcmV", "c2Vj-mV0", "sécret", "===="]
)
def test_a_bad_secret_is_refused_and_not_shown(secret: str) -> None:
    """Anything but strict base64 is a configuration error that names the variable and hides the value."""
    with pytest.raises(ConfigurationError) as caught:
        decode_secret(secret)
    assert "VLUNA_SERVICE_KEY_SECRET" in str(caught.value)
    assert not secret or secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_bad_secret_is_in_no_frame_of_ours() -> None:
    """Tools that collect errors keep the variables of each frame; a secret with a stray character is one to them."""
    settings = Settings(
        base_url="https://gate.example/mgt/v1",
        realm_id="realm",
        service_key_id="key",
        service_key_secret=SecretStr("c2VjcmV0LW9mLWEtc2VydmljZQ==!"),
    )
    with pytest.raises(ConfigurationError) as caught:
        Endpoint.of(settings)
    walked = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    frames = [frame for frame in walked if frame.f_code.co_filename != __file__]
    assert 2 == len(frames)
    assert "c2VjcmV0" not in repr([frame.f_locals for frame in frames])


def test_the_signature_is_not_in_the_repr() -> None:
    """A parsed header can be logged without giving its signature away."""
    assert "c2lnbmVk" not in repr(Authorization(key_id="k", signature="c2lnbmVk", ts="t", nonce="n"))
