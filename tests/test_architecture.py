"""The shape of the code, held by tests: layers, sizes, and docstrings of tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST_MODULE = 300
LONGEST_FUNCTION = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, the docstring apart: prose is no reason to split."""
    first = function.body[0]
    docstring = 0
    if ast.get_docstring(function, clean=False) is not None:
        docstring = (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def sources(project: Path) -> list[Path]:
    return [*project.glob("langchain_vluna/**/*.py"), *project.glob("examples/**/*.py")]


def test_imports_go_only_downwards(project: Path):
    """Every layer contract of pyproject.toml is kept."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_stay_readable_in_one_sitting(project: Path):
    """No module has more than 300 lines."""
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(project)}
    assert {} == {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE}


def test_functions_fit_on_a_screen(project: Path):
    """No function has 50 lines of code or more."""
    long = [
        f"{path.relative_to(project)}: {function.name} has {code_lines(function)} lines"
        for path in sources(project)
        for function in functions(path)
        if code_lines(function) >= LONGEST_FUNCTION
    ]
    assert [] == long


def test_every_test_says_what_it_shows(project: Path):
    """Each test function has a docstring that ends as a sentence does."""
    silent = [
        f"{path.relative_to(project)}: {function.name}"
        for path in project.glob("tests/**/test_*.py")
        for function in functions(path)
        if function.name.startswith("test_") and not (ast.get_docstring(function) or "").rstrip().endswith(".")
    ]
    assert [] == silent


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n', 2),
    ],
)
def test_length_leaves_the_docstring_out(tmp_path: Path, source: str, lines: int):
    """A docstring does not count as length."""
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    assert [lines] == [code_lines(function) for function in functions(path)]
