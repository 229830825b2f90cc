"""Compares answers with expectations of the scenario grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def mismatches(where: str, expected: Any, got: Any, *, any_order: bool = False) -> list[str]:
    """Return what differs, a line each. Objects may have more fields than expected, lists may not."""
    if isinstance(expected, Mapping):
        return _object(where, expected, got)
    if isinstance(expected, list):
        if not isinstance(got, list) or len(expected) != len(got):
            return [f"{where}: expected {expected!r}, got {got!r}"]
        if any_order:
            return [] if _assignable(expected, got) else [f"{where}: expected {expected!r} in any order, got {got!r}"]
        return [line for i, item in enumerate(expected) for line in mismatches(f"{where}.{i}", item, got[i])]
    same = expected == got and type(expected) is type(got)
    return [] if same else [f"{where}: expected {expected!r}, got {got!r}"]


def _object(where: str, expected: Mapping[str, Any], got: Any) -> list[str]:
    if "$between" in expected:
        low, high = expected["$between"]
        number = isinstance(got, int | float) and not isinstance(got, bool)
        return [] if number and low <= got <= high else [f"{where}: expected {low}..{high}, got {got!r}"]
    if "$match" in expected:
        matches = isinstance(got, str) and re.fullmatch(expected["$match"], got)
        return [] if matches else [f"{where}: expected a match of {expected['$match']!r}, got {got!r}"]
    if not isinstance(got, Mapping):
        return [f"{where}: expected an object, got {got!r}"]
    return [
        line
        for name, item in expected.items()
        for line in (mismatches(f"{where}.{name}", item, got[name]) if name in got else [f"{where}.{name}: missing"])
    ]


def _assignable(expected: list[Any], got: list[Any]) -> bool:
    """Whether each expectation finds an item of its own."""
    if not expected:
        return True
    return any(
        not mismatches("", expected[0], item) and _assignable(expected[1:], got[:i] + got[i + 1 :])
        for i, item in enumerate(got)
    )
