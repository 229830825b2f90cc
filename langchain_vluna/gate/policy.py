"""The choices a user makes about runs, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args

from langchain_vluna._core.errors import ConfigurationError

__all__ = ["OnOrphan", "OnUnavailable", "RunPolicy", "Settle", "choose", "is_number"]

OnUnavailable = Literal["deny", "allow"]
OnOrphan = Literal["cancel", "bill_estimate"]
Settle = Literal["background", "inline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPolicy:
    """What holds for every run of a gate; the words are those of `Gate`."""

    on_unavailable: OnUnavailable = "deny"
    on_orphan: OnOrphan = "cancel"
    orphan_after: float = 3600.0
    settle: Settle = "background"
    max_unsettled: int = 100

    def __post_init__(self) -> None:
        choose("on_unavailable", self.on_unavailable, OnUnavailable)
        choose("on_orphan", self.on_orphan, OnOrphan)
        choose("settle", self.settle, Settle)
        if not is_number(self.orphan_after) or not self.orphan_after > 0:
            msg = f"orphan_after must be a positive number of seconds, got {self.orphan_after!r}"
            raise ConfigurationError(msg)
        if type(self.max_unsettled) is not int or self.max_unsettled < 1:
            msg = f"max_unsettled must be a whole number, at least 1, got {self.max_unsettled!r}"
            raise ConfigurationError(msg)


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` can be compared with one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def choose(name: str, value: object, kind: Any) -> None:
    """Check that `value` is one of the words of a `Literal`."""
    words = get_args(kind)
    if value not in words:
        msg = f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}"
        raise ConfigurationError(msg)
