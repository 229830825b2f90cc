"""The command line (extra `cli`)."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `langchain-vluna`."""
    try:
        from langchain_vluna.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"typer", "rich"}:
            raise
        sys.stderr.write("the command line needs the extra `cli`: pip install 'langchain-vluna[cli]'\n")
        sys.exit(2)
    app(prog_name="langchain-vluna")
