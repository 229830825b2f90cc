"""What may be sent: values are checked before a request exists, so that nothing is charged for a mistake.

Each rule is one that the gate enforces later and worse: with a 422 after the work, with a 500 that voids
a whole batch, or by silently rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Identity

__all__ = [
    "MAX_QUANTITY",
    "budget",
    "expansion",
    "family_code",
    "feature_code",
    "header_text",
    "identity",
    "label_text",
    "labels",
    "meters",
    "occurred_at",
    "quantity",
    "user_labels",
]

MAX_QUANTITY = 2**53 - 1
"""The gate silently rounds beyond it."""

_CODE = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_MAX_CODE = 128
_MAX_HEADER = 300
_MAX_REFERENCE = 255
_MAX_USER_LABELS = 64_000
"""Characters. Escaped by the encoder, one may take twelve bytes, and a whole body at most 1 MiB."""
_MAX_LABEL_TEXT = 1_000


def _refuse(name: str, rule: str, value: object) -> NoReturn:
    msg = f"{name} must be {rule}, got {value!r}"
    raise ConfigurationError(msg)


def feature_code(value: object, name: str = "feature_code") -> str:
    """Return a feature or meter code in the gate's canonical form."""
    code = _canonical(value) if isinstance(value, str) else None
    if code is None:
        _refuse_code(name, value)
    return code


def family_code(value: object) -> str:
    """Return a feature family code; the gate trims it but leaves its case alone."""
    code = value.strip() if isinstance(value, str) else ""
    if not _is_code(code):
        _refuse_code("feature_family_code", value)
    return code


@lru_cache(maxsize=1024)
def _canonical(value: str) -> str | None:
    code = value.strip().lower()
    return code if _is_code(code) else None


def _is_code(code: str) -> bool:
    return len(code) <= _MAX_CODE and _CODE.fullmatch(code) is not None


def _refuse_code(name: str, value: object) -> NoReturn:
    rule = f"a string of 1 to {_MAX_CODE} characters, a-z and 0-9 in groups joined by single '.', '_' or '-'"
    _refuse(name, rule, value)


def header_text(value: object, name: str, limit: int = _MAX_HEADER) -> str:
    """Return a header value that arrives as it was signed."""
    if (
        isinstance(value, str)
        and 0 < len(value) <= limit
        and value.isascii()
        and value.isprintable()
        and value == value.strip()
    ):
        return value
    _refuse(name, f"1 to {limit} printable ASCII characters without blanks at its ends", value)


def identity(value: Identity) -> Identity:
    """Return `value` when both of its parts can be sent."""
    if not value.principal_id:
        msg = "principal_id is missing: say who pays, with principal_id=... or metadata['vluna_principal_id']"
        raise ConfigurationError(msg)
    header_text(value.principal_id, "principal_id")
    if value.user_id is not None:
        header_text(value.user_id, "user_id")
    return value


def quantity(value: object, name: str = "quantity", *, minimum: int = 1) -> str:
    """Return an integer in minor units as the wire writes it."""
    if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= MAX_QUANTITY:
        return str(value)
    _refuse(name, f"an int from {minimum} to {MAX_QUANTITY}", value)


def meters(values: Mapping[str, int] | None) -> list[dict[str, str]]:
    """Return the meter lines; zero lines are left out, because the gate refuses them."""
    if not values:
        return []
    lines = [
        {"meter_code": feature_code(code, "meter code"), "quantity_minor": text}
        for code, amount in values.items()
        if (text := quantity(amount, f"quantity of meter {code!r}", minimum=0)) != "0"
    ]
    if not lines:
        # Sent without lines, the whole quantity would be charged at the price of the primary meter.
        msg = f"meters {dict(values)!r} are all 0; pass meters=None to charge the quantity on the primary meter"
        raise ConfigurationError(msg)
    return lines


def labels(values: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return labels that the gate stores as they are."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        _refuse("labels", "a mapping of text to text", values)
    found = dict(values)
    for key, value in found.items():
        if not isinstance(key, str) or not key.strip():
            _refuse("a label's name", "a string that is not blank", key)
        # The value stays out of the message: it may be personal.
        if not isinstance(value, str):
            msg = f"label {key!r} must be a string, got {type(value).__name__}; convert it with str()"
            raise ConfigurationError(msg)
    if _UNSTORABLE.search("".join((*found, *found.values()))):
        bad = next(key for key, value in found.items() if _UNSTORABLE.search(key + value))
        msg = f"label {bad!r} holds a NUL or half a surrogate pair, which the gate cannot store; remove it"
        raise ConfigurationError(msg)
    return found


def user_labels(values: Mapping[Any, Any] | None) -> dict[str, str]:
    """Return the user's own labels, with room left for ours: too large a body would be refused after the work."""
    checked = labels(values)
    size = sum(len(key) + len(value) for key, value in checked.items())
    if size > _MAX_USER_LABELS:
        msg = f"labels hold {size} characters, and the gate takes {_MAX_USER_LABELS} at most; shorten or drop some"
        raise ConfigurationError(msg)
    return checked


def label_text(value: object) -> str:
    """Return what others chose, such as a thread id, as a label that cannot keep a charge from being taken."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))[:_MAX_LABEL_TEXT]


def budget(value: object) -> str:
    """Return a budget reference; generations with `budget_id` want a uuid, and say so themselves."""
    if isinstance(value, str) and 0 < len(value) <= _MAX_REFERENCE and value.strip() and value.isprintable():
        return value
    _refuse("budget", f"1 to {_MAX_REFERENCE} printable characters", value)


def occurred_at(value: object) -> str:
    """Return a point in time as ISO 8601; a naive datetime would mean another moment on every machine."""
    if isinstance(value, str):
        return value
    if not isinstance(value, datetime) or value.utcoffset() is None:
        _refuse("occurred_at", "an ISO 8601 string or a datetime with a time zone", value)
    return value.isoformat()


def expansion(value: object) -> str:
    """Return what to add to limits; nothing that a URL would have to escape, for the raw query is signed."""
    if value in {"quotas", "rates"}:
        return str(value)
    _refuse("expand", "'quotas' or 'rates'", value)
