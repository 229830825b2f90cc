"""`report`: what an embedded gate charged, as tables and charts in the terminal, as a page, or as numbers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated

import typer
from rich import box
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from langchain_vluna._io.local import Rating
from langchain_vluna.cli.opening import DEFAULT_DB, opened_ledger
from langchain_vluna.cli.options import Db, Json, Principal
from langchain_vluna.cli.output import console, emit
from langchain_vluna.cli.report.page import page
from langchain_vluna.cli.report.spend import Dimension, Spend, cut, group, total
from langchain_vluna.cli.values import moment, money, shown, usd

__all__ = ["report"]

_COLUMNS = ("by", "key", "runs", "quantity", "amount_xusd", "uncharged", "estimated")
_BAR = 30


def report(
    *,
    by: Annotated[
        list[Dimension] | None,
        typer.Option("--by", help="What to add up by; can be repeated; all by default.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not before: 2026-01-31, or 7d for that long ago.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time.", show_default=False)] = None,
    principal_id: Principal = None,
    most: Annotated[int, typer.Option("--top", min=1, help="How many of each kind to show; days are all shown.")] = 10,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts to this file.", dir_okay=False, show_default=False)
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write numbers to this file; - is the terminal.", show_default=False)
    ] = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Show what an embedded gate charged: tables, a page, numbers."""
    now = datetime.now(UTC)  # noqa: TID251 -- the one clock of this command
    first = None if since is None else moment(since, now)
    last = None if until is None else moment(until, now)
    with opened_ledger(db) as local:
        ratings = [rating for rating in local.ratings(principal_id) if _within(rating, first, last)]
    groups = {dimension: group(ratings, dimension) for dimension in dict.fromkeys(by or Dimension)}
    whole = total(ratings)
    if html is not None:
        subject = _subject(db, principal_id, first, last)
        html.write_text(page(groups, whole, subject=subject, now=now, most=most), encoding="utf-8")
    if csv_file is not None:
        _write_csv(csv_file, groups)
    if as_json:
        emit({"total": whole, "by": groups}, str, as_json=True)
    elif html is None and csv_file is None:
        console().print(_terminal(groups, whole, most))
    elif html is not None:
        console(stderr=True).print(f"wrote {html}")


def _within(rating: Rating, first: datetime | None, last: datetime | None) -> bool:
    at = rating.created_ms / 1000
    return (first is None or at >= first.timestamp()) and (last is None or at < last.timestamp())


def _subject(db: Path | None, principal_id: str | None, first: datetime | None, last: datetime | None) -> str:
    parts = [str(db or DEFAULT_DB)]
    parts += [] if principal_id is None else [f"customer {principal_id}"]
    parts += [] if first is None else [f"since {first:%Y-%m-%d %H:%M}"]
    parts += [] if last is None else [f"until {last:%Y-%m-%d %H:%M}"]
    return ", ".join(parts)


def _write_csv(target: Path, groups: Mapping[Dimension, Sequence[Spend]]) -> None:
    if str(target) == "-":
        _rows(sys.stdout, groups)
        return
    with target.open("w", encoding="utf-8", newline="") as stream:
        _rows(stream, groups)


def _rows(stream: IO[str], groups: Mapping[Dimension, Sequence[Spend]]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for dimension, spends in groups.items():
        for one in spends:
            writer.writerow((dimension, one.key, one.runs, one.quantity, one.amount_xusd, one.uncharged, one.estimated))


def _terminal(groups: Mapping[Dimension, Sequence[Spend]], whole: Spend, most: int) -> RenderableType:
    if not whole.runs:
        return "nothing was charged"
    head = f"{money(whole.amount_xusd)} for {whole.runs:,} runs, quantity {whole.quantity:,}"
    notes = [f"{whole.uncharged:,} not charged"] if whole.uncharged else []
    notes += [f"{whole.estimated:,} estimated"] if whole.estimated else []
    parts: list[RenderableType] = [Text(", ".join([head, *notes]), style="bold")]
    for dimension, spends in groups.items():
        parts.append(_chart(dimension, spends if dimension is Dimension.DAY else cut(spends, most)))
    return Group(*parts)


def _chart(dimension: Dimension, spends: Sequence[Spend]) -> Table:
    grid = Table(title=f"by {dimension}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(dimension, no_wrap=True)
    for name in ("runs", "quantity", "XUSD", "USD"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("")
    top = max((spend.amount_xusd for spend in spends), default=0) or 1
    for one in spends:
        bar = Bar(top, 0, max(one.amount_xusd, 0), width=_BAR, color="cyan")
        numbers = (f"{one.runs:,}", f"{one.quantity:,}", f"{one.amount_xusd:,}", usd(one.amount_xusd))
        grid.add_row(shown(one.key), *numbers, bar)
    return grid
