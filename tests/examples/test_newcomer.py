"""The README's first section, followed word for word: each command and the program, with a server of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
SECTION = re.search(r"^## See your own chain's bill\n(.*?)^## ", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
assert SECTION is not None
COMMANDS = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", SECTION[1], flags=re.DOTALL), re.MULTILINE)
PROGRAM = re.findall(r"^```python\n(.*?)^```$", SECTION[1], re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.timeout(120)


class Terminal:
    """A shell in a folder, with this environment's programs first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = {**os.environ, "PATH": path, "XDG_STATE_HOME": str(folder), "COLUMNS": "200"}

    def run(self, command: str) -> str:
        done = subprocess.run(  # noqa: S602 -- the project's own README
            command, shell=True, cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    def paste(self, lines: list[str]) -> None:
        for line in lines:
            name, _, value = line.removeprefix("export ").partition("=")
            self.environ[name] = value


@pytest.fixture
def served(tmp_path: Path) -> Iterator[list[str]]:
    """Start the server as the section does, on a port that is free; yields what it prints."""
    first = Terminal(tmp_path)
    with subprocess.Popen(
        [*COMMANDS[1].split(), "--port", "0"],
        cwd=tmp_path,
        env=first.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        printed = []
        for line in server.stdout:
            printed.append(line.rstrip())
            if line.startswith("serving"):
                break
        yield printed
        server.terminate()


def test_the_newcomer_sees_a_bill(tmp_path: Path, served: list[str]):
    """What the section says happens: first a run that is not charged, then, with a price, its bill on the page."""
    install, serve, grant, ask, price, ask_again = COMMANDS
    assert ("pip install '.[cli,server]'", "langchain-vluna serve") == (install, serve)
    (program,) = PROGRAM
    (tmp_path / "ask.py").write_text(program, encoding="utf-8")
    second = Terminal(tmp_path)
    second.paste([line for line in served if line.startswith("export ")])
    page = re.search(r"http://\S+", served[-1])
    assert page is not None

    second.run(grant)
    assert "Because it was in the plan.\n" == second.run(ask)
    assert ["quarantined", "authorized"] == _kinds(page[0])
    second.run(price)
    second.run(ask_again)
    assert ["committed", "authorized"] == _kinds(page[0])[:2]
    assert re.search(r"^[1-9]\d* XUSD", second.run("langchain-vluna report"))


def _kinds(page: str) -> list[str]:
    """Return what the page shows of runs, newest first."""
    with urllib.request.urlopen(f"{page}ui/api/journal", timeout=10) as answer:  # noqa: S310 -- what `serve` printed
        return [entry["kind"] for entry in json.load(answer)["entries"] if entry["kind"] != "changed"]
