"""Results as a table for people and as JSON, with the machine they were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Aim", "Table", "as_json", "as_markdown", "machine"]

_PACKAGES = ("langchain-vluna", "langchain-core", "langgraph", "h11", "httptools", "httpx", "aiohttp", "pydantic")


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure with a limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the limit holds."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.what}: **{self.value:.3g}** (aim {sign} {self.limit:g}, {'met' if self.met else 'NOT MET'})"


@dataclass(slots=True)
class Table:
    """What one item found."""

    number: int
    title: str
    columns: Sequence[str]
    rows: list[Sequence[str | float]] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"### {self.number}. {self.title}", "", _cells(self.columns), _cells(["---"] * len(self.columns))]
        lines += [_cells([_shown(value) for value in row]) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {aim}" for aim in self.aims), ""])


def machine() -> dict[str, Any]:
    """Return what a reader needs to know to compare."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def as_json(tables: Sequence[Table], about: dict[str, Any]) -> dict[str, Any]:
    """Return everything that was found as plain data."""
    items = [asdict(table) | {"aims": [asdict(aim) | {"met": aim.met} for aim in table.aims]} for table in tables]
    return {"about": about, "items": items}


def as_markdown(tables: Sequence[Table], about: dict[str, Any]) -> str:
    """Return everything that was found as text."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    head = (
        f"{about['cpu']}, {about['cores']} cores, {about['system']};"
        f" Python {about['python']}, SQLite {about['sqlite']}, {packages}."
        f" {about['rounds']} rounds; load at the start {about['load_before']}."
    )
    return "\n".join([head, "", *map(str, tables)])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _cells(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:  # noqa: PLR2004 -- four figures say enough
        return f"{value:,.0f}"
    return f"{value:.3g}"
