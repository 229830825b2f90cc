"""Fields of a request: the server's tolerance, its messages, and the canonical form.

The server is written in JavaScript; where a rule looks odd, it is what `Number()` and `String()` make of a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_tz
from typing import Any, Final

from langchain_vluna._core.ledger.model import Refusal, Rules

__all__ = [
    "canonical_code",
    "check_creatable",
    "creatable",
    "handle",
    "is_uuid",
    "labels",
    "positive",
    "quantity",
    "reference",
    "timestamp",
]

_ALLOWED = re.compile(r"[a-z0-9._/@:-]+")
_ENDS = re.compile(r"[a-z0-9](?:.*[a-z0-9])?")
_CREATABLE = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RADIX = re.compile(r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_LONGEST_CODE = 128
_LONGEST_REFERENCE = 255
_LONGEST_NUMBER = 308
_FAST_DIGITS = 15
_SAFE: Final = 2**53 - 1
"""Beyond it the server loses digits without a word."""
_BIGINT: Final = 2**63 - 1


def canonical_code(name: str, value: object, *, absent: str = "must be a string") -> str:
    """Return a feature or meter code trimmed and in lower case; `absent` ends the message for a missing one."""
    if value is None:
        raise Refusal.invalid(f"{name} {absent}")
    if not isinstance(value, str):
        raise Refusal.invalid(f"{name} must be a string")
    code = value.strip().lower()
    if not code:
        raise Refusal.invalid(f"{name} is required")
    if len(code) > _LONGEST_CODE:
        raise Refusal.invalid(f"{name} must be 1..128 chars")
    if not _ALLOWED.fullmatch(code):
        raise Refusal.invalid(f"{name} must match [a-z0-9._/@:-]+")
    if not _ENDS.fullmatch(code):
        raise Refusal.invalid(f"{name} must start and end with [a-z0-9]")
    return code


def creatable(code: str) -> bool:
    """Whether the database takes the code; the validator lets more pass than it does."""
    return _CREATABLE.fullmatch(code) is not None


def check_creatable(name: str, code: str, rules: Rules) -> None:
    if not creatable(code):
        raise rules.flaw(
            f"{name} {code!r} cannot be created: only [a-z0-9]+([._-][a-z0-9]+)* can; map the model name to such a code"
        )


def quantity(name: str, value: object, rules: Rules) -> int:
    """Return a whole number >= 0; absent and empty count as 0."""
    number = 0 if value is None else _number(value)
    if number is None:
        raise Refusal.invalid(f"{name} must be a number or numeric string")
    if number < 0:
        raise Refusal.invalid(f"{name} must be greater than or equal to 0")
    if number > _SAFE:
        return _huge(name, number, rules)
    return number


def positive(name: str, value: object, rules: Rules) -> int:
    number = quantity(name, value, rules)
    if number == 0:
        raise Refusal.invalid(f"{name} must be greater than 0")
    return number


def _huge(name: str, number: int, rules: Rules) -> int:
    if not rules.server_flaws:
        raise Refusal.invalid(f"{name} must be at most {_SAFE}")
    rounded = int(float(number))
    if rounded > _BIGINT:
        raise Refusal.unexpected()
    return rounded


def _number(value: object) -> int | None:
    """Return what `Math.floor(Number(value))` gives, or `None` for what is no finite number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return math.floor(value) if math.isfinite(value) else None
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER:
        return None
    if len(value) <= _FAST_DIGITS and value.isascii() and value.isdigit():
        return int(value)
    return _number_text(value.strip())


def _number_text(text: str) -> int | None:
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _DECIMAL.fullmatch(text):
        number = float(text)
        return math.floor(number) if math.isfinite(number) else None
    return None


def handle(name: str, value: object, rules: Rules) -> tuple[str, str]:
    """Return id and last part of a lease token; the last part is checked by some verbs only."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Refusal.invalid(f"{name} is required")
    if not isinstance(value, str):
        raise rules.flaw(f"{name} must be a string")
    parts = value.strip().split(".")
    if len(parts) != 3 or parts[0] != "lease" or not parts[1] or not parts[2]:  # noqa: PLR2004 -- lease.<uuid>.<hex>
        raise Refusal.invalid("invalid lease token format")
    return parts[1], parts[2]


def reference(name: str, value: object) -> str | None:
    """Return a caller-chosen text of the newest generation, `None` where there is none."""
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not value.strip()
        or len(value) > _LONGEST_REFERENCE
        or _CONTROL.search(value) is not None
    ):
        raise Refusal.invalid(f"{name} must be 1..255 chars, not blank, without control characters")
    return value


def is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def timestamp(name: str, value: object) -> None:
    """Refuse what is no date; the value itself has no effect on a rating."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            if parsedate_tz(value) is not None:
                return
        else:
            return
    raise Refusal.invalid(f"{name} must be a valid date-time")


def labels(value: object, rules: Rules) -> dict[str, str]:
    """Return labels as they are stored: trimmed text, nothing empty."""
    if isinstance(value, dict):
        pairs: Mapping[str, Any] = value
    elif isinstance(value, str):
        pairs = {str(index): char for index, char in enumerate(value)}
    else:
        return {}
    stored = {}
    for key, item in pairs.items():
        name, text = key.strip(), "" if item is None else _text(item).strip()
        if "\x00" in name or "\x00" in text:
            raise rules.flaw(f"labels must not contain NUL characters, see {name!r}")
        if name and text:
            stored[name] = text
    return stored


def _text(value: object) -> str:
    """Return what `String(value)` gives."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number_as_text(value)
    if isinstance(value, list):
        return ",".join("" if item is None else _text(item) for item in value)
    return "[object Object]"


def _number_as_text(value: float) -> str:
    try:
        number = float(value)
    except OverflowError:
        # A whole number of hundreds of digits, which JavaScript reads as this.
        number = math.inf if value > 0 else -math.inf
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if abs(number) < 1e21 and number.is_integer():  # noqa: PLR2004 -- from there on JavaScript writes exponents
        return str(value if isinstance(value, int) and abs(value) <= _SAFE else int(number))
    return re.sub(r"e([+-])0(\d)$", r"e\1\2", repr(number))
