"""Exit codes, and the one place where errors become messages."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from langchain_vluna._core.errors import (
    ConfigurationError,
    GateDenied,
    GateProtocolError,
    GateRejected,
    GateUnavailable,
    VlunaError,
)

__all__ = ["Commands", "Exit"]


class Exit(IntEnum):
    """What the shell is told; an interrupted command ends with 130."""

    DONE = 0
    LEFT = 1
    """Done, and something is left to do: a check failed, rows are unsettled, nothing was found."""
    USAGE = 2
    """The command line or the settings are wrong."""
    REFUSED = 3
    """The gate denied or refused."""
    UNREACHABLE = 4
    """The gate could not be reached, or gave no usable answer."""
    FILE = 5
    """A file could not be read or written: outbox, ledger, report."""


_CODES: tuple[tuple[type[VlunaError], Exit], ...] = (
    (ConfigurationError, Exit.USAGE),
    (GateDenied, Exit.REFUSED),
    (GateRejected, Exit.REFUSED),
    (GateUnavailable, Exit.UNREACHABLE),
    (GateProtocolError, Exit.UNREACHABLE),
)


class Commands(TyperGroup):
    """A group of commands whose errors are one line on stderr, or one JSON object with `--json`."""

    def invoke(self, ctx: Any) -> Any:
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except VlunaError as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FILE)
            _complain(error.message, code, as_json=as_json, gate_code=error.code, status=error.status)
            raise typer.Exit(code) from error
        except OSError as error:
            _complain(str(error), Exit.FILE, as_json=as_json)
            raise typer.Exit(Exit.FILE) from error


def _complain(message: str, code: Exit, *, as_json: bool, **details: object) -> None:
    if as_json:
        known = {name: value for name, value in details.items() if value is not None}
        typer.echo(json.dumps({"error": message, "exit_code": int(code), **known}), err=True)
    else:
        typer.secho(f"error: {message}", err=True, fg=typer.colors.RED)
