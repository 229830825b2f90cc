"""The examples run as they are, and print what the documents say of them."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if not path.name.startswith("_"))

Run = Callable[[str], str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run an example as a script, from an empty folder, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def example(name: str) -> str:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return example


def numbers(pattern: str, text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(pattern, text)]


def test_quickstart_takes_three_steps(run: Run):
    """The three steps by hand charge the words of the article and leave the rest of the grant."""
    printed = run("quickstart")
    assert "1. authorize: customer_123 may use article.summary" in printed
    assert "3. commit: 18 words for 90 XUSD" in printed
    assert printed.endswith("balance: 910 XUSD\n")


def test_chain_is_billed_in_both_colours(run: Run):
    """A chain invoked once plainly and once on an event loop has two ratings, and the balance is short by both."""
    printed = run("chain")
    amounts = numbers(r"tokens for (\d+) XUSD", printed)
    assert 2 == len(amounts)
    assert 2 == printed.count("cross the road?")
    assert [100_000 - sum(amounts)] == numbers(r"balance: (\d+)", printed)


def test_agent_executor_bills_models_and_tools(run: Run):
    """A classic agent pays for two model runs and one tool call, and leaves no lease open."""
    printed = run("agent_executor")
    assert "17 * 23 = 391" in printed
    assert 2 == printed.count("scripted.demo: ")
    assert "tool.calculate: 1 for 50 XUSD" in printed
    assert "open leases: 0" in printed


def test_langgraph_bills_each_customer_apart(run: Run):
    """Two customers through one graph and one handler each pay for their own two runs."""
    printed = run("langgraph_node")
    assert "customer_123: 'On rivers'" in printed
    assert "customer_456: 'On clocks'" in printed
    assert ["123", "456"] == re.findall(r"customer_(\d+): 2 model runs, [1-9]\d* XUSD", printed)


def test_streams_are_billed_as_reported_or_as_delivered(run: Run):
    """A whole stream costs what the model reports; one left early costs less, and says that it is estimated."""
    printed = run("streaming")
    assert "... enough." in printed
    (reported,) = numbers(r"(\d+) tokens \(reported\)", printed)
    (estimated,) = numbers(r"(\d+) tokens \(estimated\)", printed)
    assert 0 < estimated < reported


def test_denial_comes_before_the_model(run: Run):
    """Without balance the model is not called; after a grant it is, at once."""
    printed = run("denied")
    assert "denied (funding): " in printed
    assert [0, 1] == numbers(r"models that were called: (\d+)", printed)
    assert printed.index("Here I am.") > printed.index("denied")


def test_demo_tells_the_story_of_a_question(run: Run, monkeypatch: pytest.MonkeyPatch):
    """The demo shows each authorize and commit, a bill that adds up, and the denial once the balance is gone."""
    monkeypatch.setenv("ASK", 'What is 6 * 7? And how many words are in "to be or not to be"?')
    printed = run("demo")
    assert "6 * 7 = 42; “to be or not to be” has 6 words." in printed
    story, _, after = printed.partition("Denied")
    assert story.count(" authorize ") == story.count(" commit ") + 1
    (before, left) = re.search(r"([\d.]+) USD before, ([\d.]+) USD after", story).groups()  # type: ignore[union-attr]
    (total,) = re.findall(r"total, with [\d,]+ tokens +([\d.]+) USD", story)
    assert round(float(before) - float(left), 6) == float(total) > 0
    assert "Balance   0.000000 USD" in story
    assert "(funding)" in after


def test_demo_has_a_question_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Without a question from the user the demo asks one."""
    monkeypatch.setenv("ASK", "")
    assert "17 * 23 = 391" in run("demo")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_has_a_test(name: str):
    """No example is forgotten here."""
    assert f'run("{name}")' in Path(__file__).read_text(encoding="utf-8")


def test_examples_run_as_plain_scripts(tmp_path: Path):
    """`python examples/quickstart.py` needs nothing but the package."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "quickstart.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
