"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Customer", "Db", "Json", "Principal", "User"]

Db = Annotated[
    Path | None,
    typer.Option("--db", envvar="VLUNA_DB", help="Database of an embedded gate.", show_default=False, dir_okay=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
User = Annotated[str | None, typer.Option("--user", help="User of the customer, where the gate has users.")]
Principal = Annotated[str | None, typer.Option("--principal", help="Only this customer.")]
Customer = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="The customer.", show_default=False)]
