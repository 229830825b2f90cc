"""The plugin as its users have it: another pytest, in another process, in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

QUICK = ("-p", "no:cacheprovider", "-p", "langchain_vluna", "-p", "anyio")

FAILING = """
    from langchain_core.messages import AIMessage
    from langchain_vluna import VlunaCallbackHandler
    from langchain_vluna.testing.models import ScriptedChatModel

    USAGE = {"input_tokens": 40, "output_tokens": 9, "total_tokens": 49}

    def test_forgotten_price(vluna_gate):
        handler = VlunaCallbackHandler(vluna_gate, principal_id="customer_1")
        run_id = "00000000-0000-4000-8000-000000000001"
        ScriptedChatModel(usage=USAGE).invoke("x", config={"callbacks": [handler], "run_id": run_id})
        vluna_gate.assert_billed_once(run_id)

    def test_wrong_number(vluna_gate):
        vluna_gate.assert_tokens("scripted.scripted-1", input=1)

    def test_forgotten_lease(vluna_gate):
        vluna_gate.authorize(feature_code="some.feature", principal_id="customer_1")
        vluna_gate.assert_nothing_open()
"""


@pytest.fixture(autouse=True)
def only_named_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the other plugins of this environment out: importing them takes longer than the tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_the_plugin_is_registered():
    """The installed package names the plugin to pytest, so that users have nothing to configure."""
    (found,) = entry_points(group="pytest11", name="langchain_vluna")
    assert "langchain_vluna.testing.plugin" == found.value


def test_failures_show_the_ledger(pytester: pytest.Pytester):
    """A failed assertion says what is wrong, shows the ledger as a table and no inside of the kit."""
    pytester.makepyfile(FAILING)
    done = pytester.runpytest_subprocess(*QUICK)
    done.assert_outcomes(failed=3)
    done.stdout.fnmatch_lines_random(
        [
            "E*run 00000000-0000-4000-8000-000000000001 of scripted.scripted-1 was recorded but not charged: pric*",
            "E*customer_1  scripted.scripted-1  00000000-0000-4000-8000-000000000001*tokens.input=40 tokens.output=9*",
            "E*scripted.scripted-1: 1 input tokens should have been billed, 0 were",
            "E*ledger: 0 ratings, 0 leases, 0 of them open",
            "E*lease ????????-* of some.feature for 'customer_1' is open",
        ]
    )
    assert "testing/kit.py" not in done.stdout.str()


def test_snippets_of_the_document_pass(pytester: pytest.Pytester, project: Path):
    """Each Python block of docs/testing.md is a test file that passes, under strict settings."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (project / "docs/testing.md").read_text(), re.DOTALL | re.MULTILINE)
    for number, block in enumerate(blocks):
        (pytester.path / f"test_block_{number}.py").write_text(block)
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nanyio_mode = auto\naddopts = --strict-markers --strict-config\n"
    )
    done = pytester.runpytest_subprocess(*QUICK)
    expected = sum(len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE)) for block in blocks)
    assert expected >= 8
    done.assert_outcomes(passed=expected)


def test_plugin_is_light():
    """Loading the plugin imports neither LangChain nor anything else of this package."""
    code = (
        "import sys, langchain_vluna.testing.plugin\n"
        "heavy = ('langchain_core', 'langchain', 'h11', 'pydantic')\n"
        "print(sorted(name for name in sys.modules if name.startswith(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "['langchain_vluna', 'langchain_vluna.testing', 'langchain_vluna.testing.plugin']" == done.stdout.strip()


def test_the_marker_is_described(pytester: pytest.Pytester):
    """`pytest --markers` and `pytest --fixtures` tell what the plugin offers."""
    fixtures = pytester.runpytest_subprocess("--fixtures", "-v", *QUICK).stdout
    fixtures.fnmatch_lines(["vluna_gate -- *", "vluna_server -- *"])
    markers = pytester.runpytest_subprocess("--markers", *QUICK).stdout
    markers.fnmatch_lines(["@pytest.mark.vluna(?*settings): settings of the `vluna_gate` and `vluna_server` fixtures*"])
