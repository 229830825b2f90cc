"""Writes the help of every command into docs/cli.md; `tests/cli` holds the two together.

Run it after a change of the command line: python scripts/cli_help.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from langchain_vluna.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
BLOCK = re.compile(r"(?P<open><!-- help: (?P<name>[a-z -]*?) ?-->\n```text\n)(?P<help>.*?)(?P<close>```\n)", re.DOTALL)


def commands() -> Iterator[str]:
    """Yield the names of all commands, words apart, the whole first."""
    yield ""
    yield from _below(typer.main.get_command(app), ())


def _below(group: object, path: tuple[str, ...]) -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        yield " ".join((*path, name))
        yield from _below(command, (*path, name))


def help_of(name: str) -> str:
    """Return what `--help` of a command prints, in 80 columns."""
    runner = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": None})
    done = runner.invoke(app, [*name.split(), "--help"], prog_name="langchain-vluna")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines()) + "\n"


def written(text: str) -> str:
    """Return the page with the help of today."""
    return BLOCK.sub(lambda found: found["open"] + help_of(found["name"]) + found["close"], text)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE} has the help of {sum(1 for _ in commands())} commands\n")
