"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Status", "failed", "fine", "skipped", "warned"]

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    status: Status
    detail: str
    fix: str | None = None
    """What to do about it."""


def fine(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def warned(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, "warning", detail, fix)


def failed(check: str, detail: str, fix: str) -> Finding:
    return Finding(check, "failed", detail, fix)


def skipped(check: str, why: str, fix: str | None = None) -> Finding:
    return Finding(check, "skipped", why, fix)
