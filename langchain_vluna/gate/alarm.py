"""What somebody has to act on."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_vluna._core.types import Hint

__all__ = ["Alarm"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """Work was done and not charged, or cannot be: somebody has to act."""

    kind: str
    """`quarantined`: recorded by the gate but not charged; `dead`: refused for good, kept in the outbox."""
    feature_code: str
    principal_id: str
    meters: tuple[str, ...]
    message: str
    hints: tuple[Hint, ...] = ()
