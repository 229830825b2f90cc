"""The command line as its users type it, in an empty folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from langchain_vluna import LocalGate
from langchain_vluna.cli.app import app

Run = Callable[..., "Done"]


class Done:
    """What a command printed and how it ended."""

    def __init__(self, result: Any) -> None:
        self.code: int = result.exit_code
        self.out: str = result.stdout
        self.err: str = result.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; anything but an ordinary exit is raised."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def command(*args: object, code: int = 0) -> Done:
        done = Done(CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False))
        assert code == done.code, done
        return done

    return command


@pytest.fixture
def local(tmp_path: Path) -> LocalGate:
    """The database that commands find by themselves, with one priced model and a customer with money."""
    gate = LocalGate(tmp_path / "vluna.db")
    gate.price("openai.gpt5", "openai.gpt5.tokens.input", 2)
    gate.price("openai.gpt5", "openai.gpt5.tokens.output", 8)
    gate.grant("acme", 1_000_000)
    return gate
