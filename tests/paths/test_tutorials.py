"""LangChain's own tutorial shapes, gated, as the examples have them."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "examples" / "tutorials"

Run = Callable[[str], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a tutorial as a script, from an empty folder, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def tutorial(name: str) -> str:
        runpy.run_path(str(TUTORIALS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return tutorial


def meters(printed: str) -> dict[str, int]:
    """Return the meters of a printed bill."""
    return {name: int(count) for name, count in re.findall(r"^  ([\w.-]+): (\d+)$", printed, re.MULTILINE)}


def test_rag(run: Run):
    """A RAG chain pays for indexing and for the query's embedding, for one retrieval, and for its model."""
    pytest.importorskip("numpy", exc_type=ImportError)
    printed = run("rag")
    assert "lighthouse was built in 1871" in printed
    found = meters(printed)
    embedded, retrieved, asked, answered = (
        found.pop(name)
        for name in (
            "openai.text-embedding-3-small.tokens.input",
            "retriever.harbour",
            "scripted.scripted-1.tokens.input",
            "scripted.scripted-1.tokens.output",
        )
    )
    assert ({}, 1) == (found, retrieved)
    cost = embedded + 10 + 2 * asked + 8 * answered
    assert f"4 runs, {asked + answered} tokens, {cost} XUSD" in printed


def test_sql_agent(run: Run):
    """An SQL agent pays for four model calls, two look-ups, and its query by the byte."""
    printed = run("sql_agent")
    assert "[('Otto', 3100)]" in printed
    found = meters(printed)
    assert (1, 1, len("[('Otto', 3100)]")) == (
        found["tool.list_tables"],
        found["tool.describe_table"],
        found["tool.run_query"],
    )
    assert "7 runs" in printed


def test_supervisor(run: Run):
    """Two customers of a supervisor and its workers pay the same, each for six models and one tool."""
    first, second = run("supervisor").splitlines()
    assert first.replace("123", "456") == second
    assert ": 7 runs, " in first
    small, large = (int(n) for n in re.findall(r"'(?:small|large)': (\d+)", first)[::-1])
    assert f" {small + 20 * large + 500} XUSD" in first


def test_plan_and_execute(run: Run):
    """A step that LangGraph retried is charged once."""
    printed = run("plan_and_execute")
    assert "done: find the route; done: find the time; done: write it down" in printed
    assert "the worker was called 4 times and charged 3 times" in printed
    assert f", {2 * sum(meters(printed).values())} XUSD" in printed


def test_streaming_chat(run: Run):
    """A chat remembers, bills each conversation by itself, charges a broken stream in part, and ends in words."""
    printed = run("streaming_chat")
    assert "a: You said 3 things so far, the first was: Hello!" in printed
    assert "b: You said 1\n" in printed
    assert "a: I cannot go on: the balance is used up." in printed
    assert ["a: 3", "b: 1"] == re.findall(r"conversation (\w: \d) runs", printed)


def test_every_tutorial_has_a_test():
    """No tutorial is forgotten here."""
    names = {path.stem for path in TUTORIALS.glob("*.py")}
    assert names == set(re.findall(r'run\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))
