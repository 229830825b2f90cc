"""What was charged, added up: by day, feature, model, customer and thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from langchain_vluna._io.local import Rating

__all__ = ["Dimension", "Spend", "cut", "group", "total"]

_MOST_DAYS = 1_000


class Dimension(StrEnum):
    DAY = "day"
    FEATURE = "feature"
    MODEL = "model"
    CUSTOMER = "customer"
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class Spend:
    """The charges of one day, feature, ..."""

    key: str
    runs: int = 0
    quantity: int = 0
    amount_xusd: int = 0
    """Charged; what was quarantined is not in it, nor in `quantity`."""
    uncharged: int = 0
    """Runs that were recorded and not charged."""
    estimated: int = 0
    """Runs whose usage was estimated."""


def group(ratings: Iterable[Rating], dimension: Dimension) -> list[Spend]:
    """Add ratings up: days in order, without gaps, anything else by amount."""
    key = _KEYS[dimension]
    found: dict[str, list[Rating]] = {}
    for rating in ratings:
        found.setdefault(key(rating), []).append(rating)
    if dimension is Dimension.DAY:
        return [total(found.get(day, ()), day) for day in _days(found)]
    spends = [total(mine, name) for name, mine in found.items()]
    return sorted(spends, key=lambda spend: (-spend.amount_xusd, -spend.runs, spend.key))


def total(ratings: Iterable[Rating], key: str = "total") -> Spend:
    """Add ratings up to one."""
    every = list(ratings)
    applied = [rating for rating in every if rating.status == "applied"]
    return Spend(
        key,
        runs=len(every),
        quantity=sum(rating.quantity for rating in applied),
        amount_xusd=sum(rating.amount_xusd for rating in applied),
        uncharged=len(every) - len(applied),
        estimated=sum(rating.labels.get("usage_source") == "estimated" for rating in every),
    )


def cut(spends: Sequence[Spend], most: int) -> list[Spend]:
    """Keep the first `most`, and add the others up to one."""
    if len(spends) <= most:
        return list(spends)
    rest = spends[most:]
    others = Spend(
        f"({len(rest)} others)",
        runs=sum(spend.runs for spend in rest),
        quantity=sum(spend.quantity for spend in rest),
        amount_xusd=sum(spend.amount_xusd for spend in rest),
        uncharged=sum(spend.uncharged for spend in rest),
        estimated=sum(spend.estimated for spend in rest),
    )
    return [*spends[:most], others]


def _days(found: Mapping[str, object]) -> list[str]:
    if not found:
        return []
    first, last = (datetime.fromisoformat(day).date() for day in (min(found), max(found)))
    span = (last - first).days
    if span > _MOST_DAYS:
        return sorted(found)
    return [(first + timedelta(days=number)).isoformat() for number in range(span + 1)]


def _day(rating: Rating) -> str:
    return datetime.fromtimestamp(rating.created_ms / 1000, UTC).date().isoformat()


def _customer(rating: Rating) -> str:
    return rating.principal_id if rating.user_id is None else f"{rating.principal_id}/{rating.user_id}"


_KEYS: Final[Mapping[Dimension, Callable[[Rating], str]]] = {
    Dimension.DAY: _day,
    Dimension.FEATURE: lambda rating: rating.feature_code,
    Dimension.MODEL: lambda rating: rating.labels.get("model", "(no model)"),
    Dimension.CUSTOMER: _customer,
    Dimension.THREAD: lambda rating: rating.labels.get("thread_id", "(no thread)"),
}
