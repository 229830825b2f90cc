"""Requests and responses of the three wire generations.

`rules` checks values, `calls` builds neutral calls from them, `generation` writes a call in the words of
one generation, `answers` reads what comes back, `judgement` says what a refusal means.
"""

from __future__ import annotations

from langchain_vluna._core.wire.answers import (
    ROLLED_BACK,
    Reply,
    parse_batch,
    parse_cancel,
    parse_commit,
    parse_lease,
    parse_limits,
    parse_preflight,
    read_reply,
)
from langchain_vluna._core.wire.calls import (
    MAX_BATCH,
    authorize_call,
    batch_call,
    cancel_call,
    commit_body,
    commit_call,
    ingest_body,
    ingest_call,
    leased,
    limits_call,
    preflight_call,
)
from langchain_vluna._core.wire.generation import Encoded, Generation, Payload, Signature, WireState, encode
from langchain_vluna._core.wire.judgement import details, judge, passed_authentication, retryable, subject
from langchain_vluna._core.wire.rules import MAX_QUANTITY

__all__ = [
    "MAX_BATCH",
    "MAX_QUANTITY",
    "ROLLED_BACK",
    "Encoded",
    "Generation",
    "Payload",
    "Reply",
    "Signature",
    "WireState",
    "authorize_call",
    "batch_call",
    "cancel_call",
    "commit_body",
    "commit_call",
    "details",
    "encode",
    "ingest_body",
    "ingest_call",
    "judge",
    "leased",
    "limits_call",
    "parse_batch",
    "parse_cancel",
    "parse_commit",
    "parse_lease",
    "parse_limits",
    "parse_preflight",
    "passed_authentication",
    "preflight_call",
    "read_reply",
    "retryable",
    "subject",
]
