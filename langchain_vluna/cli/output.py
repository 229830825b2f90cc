"""What commands print: a table or a line for people, or one JSON document with `--json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from langchain_vluna.cli.values import shown

__all__ = ["console", "emit", "plain", "table"]

_PIPED_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes text as it is: no markup, no guessed highlights, wide where nobody looks."""
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return Console(stderr=stderr, width=wide, markup=False, highlight=False, emoji=False)


def emit(data: object, human: Callable[[], RenderableType], *, as_json: bool) -> None:
    """Print `data` as JSON, or what `human` makes of it."""
    if as_json:
        typer.echo(json.dumps(plain(data), indent=2, ensure_ascii=False))
    else:
        console().print(human())


def plain(data: Any) -> Any:
    """Return data as JSON takes it."""
    if is_dataclass(data) and not isinstance(data, type):
        return plain(asdict(data))
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in data]
    return data


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> RenderableType:
    """Return a table; a column whose name ends with `>` is of numbers, one that ends with `*` is never cut."""
    lines = list(rows)
    if not lines:
        return title or "nothing to show"
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for column in columns:
        name = column.rstrip(">*")
        grid.add_column(name, justify="right" if ">" in column else "left", no_wrap="*" in column or ">" in column)
    for row in lines:
        grid.add_row(*("-" if cell is None else shown(cell) for cell in row))
    return grid
