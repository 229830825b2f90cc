"""`outbox`: what waits to be settled, why, and what to do about it."""

from __future__ import annotations

import functools
import heapq
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.run import State
from langchain_vluna._io.outbox import Row
from langchain_vluna._io.outbox.desk import Desk, as_dict
from langchain_vluna._io.outbox.owner import is_alive
from langchain_vluna.cli.exits import Commands, Exit
from langchain_vluna.cli.opening import opened_outbox, opened_target
from langchain_vluna.cli.options import Db, Json, Principal
from langchain_vluna.cli.output import console, emit, table
from langchain_vluna.cli.values import ago
from langchain_vluna.gate import Alarm, Gate

__all__ = ["outbox"]

outbox = typer.Typer(
    cls=Commands, no_args_is_help=True, help="See and settle what waits in the outbox.", rich_markup_mode=None
)

OutboxPath = Annotated[
    Path | None,
    typer.Option(
        "--outbox", help="File of the outbox; by default that of the gate.", dir_okay=False, show_default=False
    ),
]
RowId = Annotated[str, typer.Argument(metavar="ID", help="Row or run, or how its id begins.", show_default=False)]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0, help="Seconds to try; by default as long as there is progress, and 5 more.", show_default=False
    ),
]
_HIDDEN = frozenset({State.CANCELED, State.DONE})


@outbox.command("list")
def list_rows(
    *,
    states: Annotated[
        list[State] | None,
        typer.Option(
            "--state", help="Only rows in this state; can be repeated; all but canceled by default.", show_default=False
        ),
    ] = None,
    principal_id: Principal = None,
    most: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to show, oldest first.")] = 100,
    path: OutboxPath = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """List what waits, oldest first."""
    wanted = tuple(states or (state for state in State if state not in _HIDDEN))
    with _desk(db, path) as (desk, alive):
        if desk is None:
            emit([], lambda: "there is no outbox: nothing waits", as_json=as_json)
            return
        found = list(
            heapq.nsmallest(most, desk.rows(states=wanted, principal_id=principal_id), lambda row: row.created)
        )
        counts = desk.counts()
        owners = {row.owner: alive(row.owner) for row in found}
    total = sum(counts.get(state, 0) for state in wanted)
    data = [{**as_dict(row), "owner_alive": owners[row.owner]} for row in found]
    emit(data, lambda: _row_table(found, owners, total), as_json=as_json)


@outbox.command()
def show(*, row_id: RowId, path: OutboxPath = None, db: Db = None, as_json: Json = False) -> None:
    """Show everything about one row but the secret of its lease."""
    with _desk(db, path) as (desk, alive):
        row = _existing(desk).find(row_id)
        data = {**as_dict(row), "owner_alive": alive(row.owner)}
    times = {name: _time(data[name]) for name in ("created", "due")}
    emit(data, lambda: table(("", "value"), list({**data, **times}.items())), as_json=as_json)


@outbox.command()
def flush(*, timeout: Timeout = None, path: OutboxPath = None, db: Db = None, as_json: Json = False) -> None:
    """Settle what waits now, that of programs that ended included."""
    with _settling(db, path) as (gate, alarms):
        if gate is None:
            nothing = {"settled": 0, "left": 0, "dead": 0, "alarms": []}
            emit(nothing, lambda: "there is no outbox: nothing waits", as_json=as_json)
            return
        desk = Desk(gate.engine.outbox)
        before = desk.counts().get(State.DEAD, 0)
        first, left = _flushed(gate, timeout)
        dead = desk.counts().get(State.DEAD, 0)
    settled = first - left - (dead - before)
    data = {"settled": settled, "left": left, "dead": dead, "alarms": [alarm.message for alarm in alarms]}
    hint = "; see: langchain-vluna outbox list --state dead" if dead else ""
    emit(data, lambda: f"{settled} settled, {left} left, {dead} refused for good{hint}", as_json=as_json)
    if left or alarms:
        raise typer.Exit(Exit.LEFT)


@outbox.command()
def retry(
    *,
    row_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Rows or runs, or how their ids begin.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every row that was refused for good.")] = False,
    reingest: Annotated[
        bool, typer.Option("--reingest", help="Charge without the lease; only if you know that nothing was charged.")
    ] = False,
    timeout: Timeout = None,
    path: OutboxPath = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Try again what the gate refused, once the reason is mended."""
    if every == bool(row_ids):
        msg = "name the rows to try again, or give --all"
        raise ConfigurationError(msg)
    with _settling(db, path) as (gate, alarms):
        desk = _existing(None if gate is None else Desk(gate.engine.outbox))
        chosen = list(desk.rows(states=(State.DEAD,))) if every else [desk.find(one) for one in row_ids or ()]
        for row in chosen:
            desk.retry(row.attempt, "reingest" if reingest else "recommit")
        if gate is not None:
            _flushed(gate, timeout)
        kept = {row.attempt: row for row in desk.rows()}
    results = [_result(row.attempt, kept.get(row.attempt)) for row in chosen]
    emit(results, lambda: table(("id*", "state*", "reason"), [tuple(one.values()) for one in results]), as_json=as_json)
    if kept.keys() & {row.attempt for row in chosen} or alarms:
        raise typer.Exit(Exit.LEFT)


@outbox.command()
def export(
    *,
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write; the terminal by default.", show_default=False)
    ] = None,
    path: OutboxPath = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Write all rows as lines of JSON; --json makes it one list."""
    with _desk(db, path) as (desk, _):
        lines: Iterator[str] = iter(()) if desk is None else desk.export()
        if as_json:
            lines = iter([f"[{', '.join(lines)}]"])
        if to is None:
            for line in lines:
                typer.echo(line)
        else:
            with to.open("w", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in lines)


@contextmanager
def _desk(db: Path | None, path: Path | None) -> Iterator[tuple[Desk | None, Callable[[str], bool]]]:
    """Open an outbox to look at, and a way to tell whether a row's process runs."""
    with opened_outbox(db, path) as found:
        if found is None:
            yield None, lambda _: False
        else:
            yield Desk(found), functools.cache(lambda owner: is_alive(found.path, owner))


@contextmanager
def _settling(db: Path | None, path: Path | None) -> Iterator[tuple[Gate | None, list[Alarm]]]:
    """Wire a gate over an outbox, and a list of what turns out not to be charged; no gate where there is no file."""
    alarms: list[Alarm] = []
    with opened_target(db) as target:
        file = Path(target.outbox) if path is None else path
        if not file.exists():
            yield None, alarms
            return
        gate = target.gate(file, alarms.append)
        try:
            yield gate, alarms
        finally:
            gate.close(timeout=0)


def _result(attempt: str, row: Row | None) -> dict[str, str | None]:
    if row is None or row.state is State.CANCELED:
        return {"attempt": attempt, "state": "settled", "reason": None}
    return {"attempt": attempt, "state": str(row.state), "reason": row.reason}


def _existing(desk: Desk | None) -> Desk:
    if desk is None:
        msg = "there is no outbox at the gate's place; name another with --outbox"
        raise ConfigurationError(msg)
    return desk


def _flushed(gate: Gate, timeout: float | None) -> tuple[int, int]:
    """Settle with a progress bar; returns how many rows there were and how many are left."""
    seen: list[int] = []
    columns = (TextColumn("settling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # In a pipe or a log, a moving bar is noise.
    with Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("settling", total=None)

        def progress(left: int) -> None:
            seen.append(left)
            bar.update(task, total=max(seen), completed=max(seen) - left)

        left = gate.engine.relay.flush(timeout, progress)
    return max(seen, default=left), left


def _row_table(found: list[Row], owners: dict[str, bool], total: int) -> RenderableType:
    now = time.time()  # noqa: TID251 -- ages are told by the clock of who reads them
    title = None if len(found) >= total else f"the oldest {len(found)} of {total}"
    return table(
        ("id*", "state*", "customer", "feature", "quantity>", "age>", "tries>", "process", "reason"),
        [_cells(row, now, alive=owners[row.owner]) for row in found],
        title=title,
    )


def _cells(row: Row, now: float, *, alive: bool) -> tuple[object, ...]:
    who = row.identity
    return (
        row.attempt[:8],
        row.state,
        who.principal_id if who.user_id is None else f"{who.principal_id}/{who.user_id}",
        row.feature_code,
        (row.usage or {}).get("quantity_minor"),
        ago(row.created, now),
        row.tries,
        "running" if alive else "ended",
        row.reason,
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
