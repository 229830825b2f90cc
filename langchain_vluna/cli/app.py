"""The command line, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from langchain_vluna.cli.doctor import doctor
from langchain_vluna.cli.exits import Commands
from langchain_vluna.cli.fault import fault
from langchain_vluna.cli.ledger import balance, grant, price, ratings
from langchain_vluna.cli.limits import quota, rate
from langchain_vluna.cli.outbox import outbox
from langchain_vluna.cli.report import report
from langchain_vluna.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    help="Ask the Vluna usage gate, and look after what it charges.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (doctor, serve, fault, grant, price, quota, rate, balance, ratings, report):
    app.command(command.__name__)(command)
app.add_typer(outbox, name="outbox")


def _print_version(wanted: bool) -> None:  # noqa: FBT001 -- as typer calls it
    if wanted:
        from importlib.metadata import version

        typer.echo(f"langchain-vluna {version('langchain-vluna')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask the Vluna usage gate, and look after what it charges."""
