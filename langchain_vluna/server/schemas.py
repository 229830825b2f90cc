"""The gate's wire as JSON schemas. The gate itself is more tolerant, as the service is: this is what to send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ANSWERS", "COMPONENTS", "LISTS", "SUMMARIES", "VERBS", "signed_headers"]

Schema = Mapping[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_CODE: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[a-z0-9]+([._-][a-z0-9]+)*$"}
_QUANTITY: Final[Schema] = {"type": "string", "pattern": "^[0-9]{1,15}$"}
_LABELS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_KEY: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255}

SUMMARIES: Final[Mapping[str, str]] = {
    "authorize": "Ask for leave to do a piece of work",
    "commits": "Settle a lease with what the work used",
    "commits/batch": "Settle several leases",
    "ingest": "Record usage that has no lease",
    "cancel": "Give a lease back (not in generation `lease`)",
    "preflight": "Ask without taking a lease (generation `lease` only)",
}
ANSWERS: Final[Mapping[str, str]] = {
    "200": "Done; look at the hints",
    "400": "No JSON, or a header is missing",
    "401": "Not signed by a known key, or nobody named",
    "402": "Denied: no balance, quota or budget left",
    "403": "Denied: no entitlement",
    "404": "No such path in this generation",
    "409": "The idempotency key stands for something else",
    "413": "The body is too large",
    "422": "A field is not possible",
    "429": "Denied for now: the rate is used up",
}
COMPONENTS: Final[Mapping[str, Schema]] = {
    "MeterLine": {
        "type": "object",
        "required": ["meter_code", "quantity_minor"],
        "properties": {"meter_code": _CODE, "quantity_minor": _QUANTITY, "unit": _TEXT},
    },
    "Usage": {
        "type": "object",
        "required": ["feature_code", "quantity_minor"],
        "properties": {
            "lease_token": {"type": "string", "description": "Generations `tutorial` and `user`"},
            "lease": {"type": "string", "description": "Generation `lease`"},
            "feature_code": _CODE,
            "quantity_minor": _QUANTITY,
            "meters": {"type": "array", "items": {"$ref": "#/components/schemas/MeterLine"}},
            "labels": _LABELS,
        },
    },
}
_QUESTION: Final[Schema] = {
    "type": "object",
    "required": ["feature_code"],
    "properties": {
        "feature_code": _CODE,
        "feature_family_code": _CODE,
        "estimated_quantity_minor": _QUANTITY,
        "budget_id": {"type": "string", "format": "uuid"},
        "labels": _LABELS,
    },
}
_USAGE: Final[Schema] = {"$ref": "#/components/schemas/Usage"}
_KEYED: Final[Schema] = {
    "allOf": [_USAGE],
    "type": "object",
    "required": ["idempotency_key"],
    "properties": {"idempotency_key": _KEY},
}
VERBS: Final[Mapping[str, Schema]] = {
    "authorize": _QUESTION,
    "commits": _USAGE,
    "commits/batch": {
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array", "maxItems": 100, "items": _KEYED}},
    },
    "ingest": _USAGE,
    "cancel": {"type": "object", "required": ["lease_token"], "properties": {"lease_token": _TEXT}},
    "preflight": _QUESTION,
}
LISTS: Final[Mapping[str, list[Schema]]] = {
    "limits": [{"name": "feature_code", "in": "query", "schema": _TEXT}],
    "meters": [],
}


def signed_headers(*, with_key: bool) -> list[dict[str, Any]]:
    """Return the headers of a signed request; generations `user` and `lease` also need `x-user-id`."""
    required = ["authorization", "content-digest", "x-realm-id", "x-principal-id", *(["idempotency-key"] * with_key)]
    names = [(name, True) for name in required] + [("x-user-id", False)]
    return [{"name": name, "in": "header", "required": needed, "schema": _TEXT} for name, needed in names]
