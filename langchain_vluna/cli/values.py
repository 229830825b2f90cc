"""How money, time spans and times are typed and shown."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import typer

__all__ = ["ago", "moment", "money", "seconds", "shown", "usd", "xusd"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d{1,9})\s*([smhdw]?)")
_AMOUNT = re.compile(r"(?P<sign>\$?)(?P<number>-?\d{1,20}(\.\d{1,20})?)\s*(?P<unit>x?usd)?")
_XUSD = 1_000_000


def xusd(text: str) -> int:
    """Read an amount: XUSD (millionths of a USD), or USD written as `5usd` or `$5`."""
    plain = text.strip().lower().replace(",", "").replace("_", "")
    found = _AMOUNT.fullmatch(plain)
    amount = Decimal(found["number"]) if found is not None else Decimal("0.1")
    if found is not None and (found["sign"] or found["unit"] == "usd"):
        amount *= _XUSD
    if amount != amount.to_integral_value():
        msg = f"{text!r} is no amount; write whole XUSD, such as 2500, or USD, such as 0.0025usd"
        raise typer.BadParameter(msg)
    return int(amount)


def seconds(text: str) -> int:
    """Read a time span: seconds, or a number with s, m, h, d or w."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None or int(found[1]) == 0:
        msg = f"{text!r} is no time span; write seconds, or 90s, 15m, 1h, 7d, 2w"
        raise typer.BadParameter(msg)
    return int(found[1]) * _UNITS[found[2]]


def moment(text: str, now: datetime) -> datetime:
    """Read a point in time: a date, an ISO time, or a span such as `7d`, which means that long ago."""
    try:
        if _SPAN.fullmatch(text.strip().lower()):
            return now - timedelta(seconds=seconds(text))
        read = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        msg = f"{text!r} is no time; write 2026-01-31, 2026-01-31T12:00, or a span such as 7d for that long ago"
        raise typer.BadParameter(msg) from None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def usd(amount: int) -> str:
    """Return XUSD as dollars, exactly, with at least two decimals."""
    whole, rest = divmod(abs(amount), _XUSD)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}${whole:,}.{decimals}"


def money(amount: int) -> str:
    """Return XUSD and dollars."""
    return f"{amount:,} XUSD ({usd(amount)})"


def ago(past: float, now: float) -> str:
    """Return how long ago something was, in its largest unit."""
    span = max(0.0, now - past)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if span >= size:
            return f"{span / size:.0f}{unit}"
    return f"{span:.0f}s"


def shown(text: object) -> str:
    """Return text that cannot steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))
