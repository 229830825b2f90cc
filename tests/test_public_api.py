"""The names users type: exactly these, alike in both colours, and free of charge until used."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

import langchain_vluna
from langchain_vluna import Gate, VlunaCallbackHandler, VlunaMiddleware

PUBLIC = [
    "Alarm",
    "BatchItem",
    "Bill",
    "ConfigurationError",
    "Gate",
    "GateDenied",
    "GateProtocolError",
    "GateRejected",
    "GateUnavailable",
    "GatedEmbeddings",
    "Hint",
    "IdempotencyConflict",
    "LocalGate",
    "RetryPolicy",
    "RunInfo",
    "RunStateError",
    "Settings",
    "Transport",
    "Usage",
    "VlunaCallbackHandler",
    "VlunaError",
    "VlunaMiddleware",
    "gated",
]

TWINS = [
    "authorize",
    "cancel",
    "close",
    "commit",
    "commit_batch",
    "flush",
    "ingest",
    "limits",
    "preflight",
]

KEYWORDS = {
    "principal_id": None,
    "user_id": None,
    "features": None,
    "feature_family_code": None,
    "tools": "all",
    "retrievers": None,
    "meters": "input_output",
    "estimate": "auto",
    "labels": None,
    "budget": None,
    "on_missing_usage": "estimate",
    "on_abort": "bill_delivered",
    "idempotency": "run",
}


def keyword_only(function: object) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters  # type: ignore[arg-type]
    return {name: parameter for name, parameter in found.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY}


def test_all_names_are_these():
    """The package offers exactly the promised names, in order."""
    assert langchain_vluna.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_is_there(name: str):
    """Each promised name can be imported from the package."""
    assert getattr(langchain_vluna, name).__name__ == name


def test_dir_lists_what_is_loaded_lazily():
    """Completion in a shell sees names that have not been loaded yet."""
    assert set(PUBLIC) <= set(dir(langchain_vluna))


def test_unknown_name_is_an_attribute_error():
    """A misspelt name fails as on any module."""
    with pytest.raises(AttributeError, match="'Gaet'"):
        langchain_vluna.Gaet  # noqa: B018 -- the access is the test


def test_version_is_the_installed_one():
    """`__version__` is what the package metadata says."""
    assert version("langchain-vluna") == langchain_vluna.__version__


@pytest.mark.parametrize("name", TWINS)
def test_both_colours_take_the_same(name: str):
    """A verb and its `a` twin have the same parameters, defaults and result, and only the twin is a coroutine."""
    plain, twin = getattr(Gate, name), getattr(Gate, f"a{name}")
    assert inspect.signature(plain) == inspect.signature(twin)
    assert (False, True) == (inspect.iscoroutinefunction(plain), inspect.iscoroutinefunction(twin))


@pytest.mark.parametrize("name", ["__init__", *TWINS, "run", "from_env", "local"])
def test_only_the_first_argument_is_positional(name: str):
    """On a gate, everything after the first argument is passed by name."""
    parameters = list(inspect.signature(inspect.getattr_static(Gate, name).__get__(None, Gate)).parameters.values())
    positional = [p.name for p in parameters if p.name != "self" and p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 1, positional


def test_handler_keywords_are_a_contract():
    """The handler's keywords and their defaults are those that the README lists."""
    assert KEYWORDS == {name: p.default for name, p in keyword_only(VlunaCallbackHandler.__init__).items()}


def test_middleware_takes_what_the_handler_takes():
    """The middleware has the handler's keywords with the same defaults, and two of its own."""
    own = {"exit_behavior": "error", "fallback_model": None}
    assert {**KEYWORDS, **own} == {name: p.default for name, p in keyword_only(VlunaMiddleware.__init__).items()}


def test_import_loads_nothing_heavy():
    """Importing the package loads neither LangChain nor an HTTP library nor a database."""
    heavy = "{'langchain_core', 'h11', 'pydantic', 'sqlite3', 'anyio', 'langgraph', 'langchain'}"
    code = f"import sys, langchain_vluna; print(sorted({heavy} & set(sys.modules)))"
    # Coverage, where it measures subprocesses too, brings sqlite3 along.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
