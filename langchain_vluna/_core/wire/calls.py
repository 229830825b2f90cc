"""Builders of neutral calls: validated once, plain JSON, the same bytes however often they are sent.

A usage body can be stored and sent much later, by another process; its handle is kept apart from it
until then, and `leased` joins the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Call, Identity, Verb
from langchain_vluna._core.wire import rules

__all__ = [
    "MAX_BATCH",
    "authorize_call",
    "batch_call",
    "cancel_call",
    "commit_body",
    "commit_call",
    "ingest_body",
    "ingest_call",
    "leased",
    "limits_call",
    "preflight_call",
]

MAX_BATCH = 100
_MAX_KEY = 255


def _call(verb: Verb, identity: Identity, body: Mapping[str, Any], key: str) -> Call:
    return Call(verb, rules.identity(identity), body, rules.header_text(key, "idempotency_key", _MAX_KEY))


def _question(
    *,
    feature_code: str,
    feature_family_code: str | None,
    estimated_quantity: int | None,
    budget: str | None,
    labels: Mapping[str, str] | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {"feature_code": rules.feature_code(feature_code)}
    if feature_family_code is not None:
        body["feature_family_code"] = rules.family_code(feature_family_code)
    if estimated_quantity is not None:
        body["estimated_quantity_minor"] = rules.quantity(estimated_quantity, "estimated_quantity", minimum=0)
    if budget is not None:
        body["budget"] = rules.budget(budget)
    if labels:
        body["labels"] = rules.labels(labels)
    return body


def authorize_call(
    *,
    identity: Identity,
    feature_code: str,
    idempotency_key: str,
    feature_family_code: str | None = None,
    estimated_quantity: int | None = None,
    budget: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Call:
    """Ask for a lease."""
    body = _question(
        feature_code=feature_code,
        feature_family_code=feature_family_code,
        estimated_quantity=estimated_quantity,
        budget=budget,
        labels=labels,
    )
    return _call("authorize", identity, body, idempotency_key)


def preflight_call(
    *,
    identity: Identity,
    feature_code: str,
    idempotency_key: str,
    feature_family_code: str | None = None,
    estimated_quantity: int | None = None,
    budget: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Call:
    """Ask what authorize would say; generation `lease` only."""
    body = _question(
        feature_code=feature_code,
        feature_family_code=feature_family_code,
        estimated_quantity=estimated_quantity,
        budget=budget,
        labels=labels,
    )
    return _call("preflight", identity, body, idempotency_key)


def commit_body(
    *,
    feature_code: str,
    quantity: int,
    meters: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the usage of one lease, still without its handle."""
    body: dict[str, Any] = {
        "feature_code": rules.feature_code(feature_code),
        "quantity_minor": rules.quantity(quantity),
    }
    if lines := rules.meters(meters):
        body["meters"] = lines
    if labels:
        body["labels"] = rules.labels(labels)
    return body


def leased(body: Mapping[str, Any], handle: str) -> dict[str, Any]:
    """Return a usage body with the handle of its lease; always in the same field order."""
    if not handle or not isinstance(handle, str):
        msg = "the lease has no handle; pass a Lease as authorize returned it"
        raise ConfigurationError(msg)
    return {"lease": handle, **body}


def commit_call(*, identity: Identity, body: Mapping[str, Any], idempotency_key: str) -> Call:
    """Charge a leased usage body."""
    return _call("commit", identity, body, idempotency_key)


def batch_call(*, identity: Identity, items: Sequence[tuple[Mapping[str, Any], str]], idempotency_key: str) -> Call:
    """Charge several leased usage bodies of one identity, each under its own key."""
    if not 1 <= len(items) <= MAX_BATCH:
        msg = f"a batch takes 1 to {MAX_BATCH} items, got {len(items)}; split it"
        raise ConfigurationError(msg)
    commits = [
        {**body, "idempotency_key": rules.header_text(key, "an item's idempotency_key", _MAX_KEY)}
        for body, key in items
    ]
    return _call("batch", identity, {"items": commits}, idempotency_key)


def cancel_call(*, identity: Identity, handle: str, idempotency_key: str) -> Call:
    """Give a lease back unused."""
    return _call("cancel", identity, leased({}, handle), idempotency_key)


def ingest_body(
    *,
    feature_code: str,
    quantity: int | None = None,
    meters: Mapping[str, int] | None = None,
    occurred_at: datetime | str | None = None,
    budget: str | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return usage that has no lease; a quantity of zero is allowed here."""
    body: dict[str, Any] = {"feature_code": rules.feature_code(feature_code)}
    if quantity is not None:
        body["quantity_minor"] = rules.quantity(quantity, minimum=0)
    if lines := rules.meters(meters):
        body["meters"] = lines
    if quantity is None and not lines:
        msg = f"usage of {feature_code!r} needs a quantity or meters"
        raise ConfigurationError(msg)
    if occurred_at is not None:
        body["occurred_at"] = rules.occurred_at(occurred_at)
    if budget is not None:
        body["budget"] = rules.budget(budget)
    if labels:
        body["labels"] = rules.labels(labels)
    if metadata:
        body["metadata"] = _plain(metadata)
    return body


def ingest_call(*, identity: Identity, body: Mapping[str, Any], idempotency_key: str) -> Call:
    """Charge usage that has no lease."""
    return _call("ingest", identity, body, idempotency_key)


def limits_call(*, identity: Identity, feature_code: str | None = None, expand: Iterable[str] = ()) -> Call:
    """Ask for quotas and rates; `expand` takes `quotas` and `rates`."""
    query = [("feature_code", rules.feature_code(feature_code))] if feature_code is not None else []
    query += [("expand", rules.expansion(value)) for value in expand]
    return Call("limits", rules.identity(identity), query=tuple(query))


def _plain(metadata: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        msg = f"metadata must be plain JSON: {error}"
        raise ConfigurationError(msg) from None
