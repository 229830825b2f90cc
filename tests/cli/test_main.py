"""The program itself: how it starts, what it costs, what it never shows, and that its help and its page agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from langchain_vluna import LocalGate
from langchain_vluna.cli.app import app
from langchain_vluna.cli.exits import Exit
from scripts.cli_help import BLOCK, commands, help_of, written

COMMANDS = [
    "doctor",
    "serve",
    "fault",
    "grant",
    "price",
    "quota",
    "rate",
    "balance",
    "ratings",
    "report",
    "outbox",
    "outbox list",
    "outbox show",
    "outbox flush",
    "outbox retry",
    "outbox export",
]


def command(name: str):
    found = typer.main.get_command(app)
    for word in name.split():
        found = found.commands[word]  # type: ignore[attr-defined]
    return found


def test_all_commands_are_these():
    """The program has exactly these commands."""
    assert ["", *COMMANDS] == list(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str):
    """Each command, option and argument says what it is for, in a sentence that fits its line."""
    found = command(name)
    assert (found.help or "").endswith(".")
    assert not found.get_short_help_str(64).endswith("...")
    assert [] == [parameter.name for parameter in found.params if not (parameter.help or "").endswith(".")]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "outbox"])
def test_every_command_speaks_json(name: str):
    """Each command takes --json."""
    assert "--json" in help_of(name)


def test_the_page_has_the_help(project: Path):
    """docs/cli.md shows the help of every command as it is; `python scripts/cli_help.py` writes it."""
    text = (project / "docs" / "cli.md").read_text(encoding="utf-8")
    assert sorted(commands()) == sorted(found["name"] for found in BLOCK.finditer(text))
    assert written(text) == text


def test_the_page_has_a_section_for_each_command(project: Path):
    """Each command has a heading in docs/cli.md."""
    headings = re.findall(r"^##+ (.*)$", (project / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set() == set(COMMANDS) - set(headings)


def test_the_page_has_the_exit_codes(project: Path):
    """Each exit code is in docs/cli.md."""
    text = (project / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [] == [code for code in Exit if f"| {int(code)} |" not in text]


def test_python_m_runs_it(tmp_path: Path):
    """`python -m langchain_vluna` is the program, and its exit code is the command's."""
    program = [sys.executable, "-m", "langchain_vluna"]
    done = subprocess.run(
        [*program, "grant", "acme", "5", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert 5 == json.loads(done.stdout)["balance_xusd"]
    failed = subprocess.run(
        [*program, "balance", "--db", "none.db"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (2, "") == (failed.returncode, failed.stdout)
    assert "there is no database 'none.db'" in failed.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named(missing: str):
    """Without the packages of the extra `cli` the program says what to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from langchain_vluna.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "the command line needs the extra `cli`: pip install 'langchain-vluna[cli]'\n" == done.stderr


def test_other_missing_modules_are_not_hidden(monkeypatch: pytest.MonkeyPatch):
    """A module that is missing for another reason is reported as what it is."""
    from langchain_vluna.cli import main

    monkeypatch.delitem(sys.modules, "langchain_vluna.cli.app")
    monkeypatch.setitem(sys.modules, "langchain_vluna.cli.ledger", None)
    with pytest.raises(ModuleNotFoundError, match=r"langchain_vluna\.cli\.ledger"):
        main()


def test_help_costs_no_web_server():
    """Asking for help loads neither the HTTP server nor an HTTP client nor LangChain's agents."""
    code = (
        "import sys\nfrom langchain_vluna.cli.app import app\n"
        "print([name for name in ('uvicorn', 'starlette', 'h11', 'langgraph', 'langchain') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_completion_for_shells():
    """The program prints its completion script, and completes its commands."""
    program = [sys.executable, "-m", "langchain_vluna"]

    def completed(**environ: str) -> str:
        return subprocess.run(program, env={"PATH": "", **environ}, capture_output=True, text=True, check=False).stdout

    assert "_LANGCHAIN_VLUNA_COMPLETE" in completed(_LANGCHAIN_VLUNA_COMPLETE="source_bash")
    typed = {"COMP_WORDS": "langchain-vluna gra", "COMP_CWORD": "1"}
    assert "grant" == completed(_LANGCHAIN_VLUNA_COMPLETE="complete_bash", **typed).strip()


def test_version(run):
    """The version is that of the package."""
    from importlib.metadata import version

    assert f"langchain-vluna {version('langchain-vluna')}\n" == run("--version").out


def test_typos_are_met_halfway(run):
    """A mistyped command is answered with the one that was meant."""
    assert "Did you mean 'balance'?" in run("balanse", code=2).err


SECRET = "dGhpcy1zZWNyZXQtbXVzdC1uZXZlci1iZS1zaG93bg=="


@pytest.mark.parametrize(
    "args",
    [
        ("doctor",),
        ("doctor", "--principal", "acme", "--feature", "f"),
        ("outbox", "list"),
        ("outbox", "flush"),
        ("outbox", "export"),
        ("quota", "--principal", "acme"),
        ("grant", "acme", "5"),
        ("balance",),
        ("report",),
        ("fault",),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_are_never_shown(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args, as_json: bool):
    """Whatever happens, the secret of the service key is in no output."""
    from typer.testing import CliRunner

    LocalGate(tmp_path / "vluna.db").grant("acme", 5)
    for name, value in {
        "VLUNA_SERVICE_BASE_URL": "http://127.0.0.1:9/mgt/v1",
        "VLUNA_REALM_ID": "realm",
        "VLUNA_SERVICE_KEY_ID": "key",
        "VLUNA_SERVICE_KEY_SECRET": SECRET,
        "VLUNA_TIMEOUT": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, [*args, *(["--json"] if as_json else [])])
    assert SECRET not in done.output
    assert SECRET not in repr(done.exception)
    if as_json:
        json.loads(done.stdout or done.stderr)
