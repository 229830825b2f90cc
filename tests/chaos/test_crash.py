"""The short form of `python -m tests.chaos.crash`: in a process of its own, because it forks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.isolated,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL are POSIX"),
]


def crash(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.chaos.crash", *args]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_processes_killed_one_after_the_other_lose_and_double_nothing(project: Path):
    """After a chain of deaths at every named point, the last process settles each run once, as it was used."""
    done = crash(project, "--runs", "20", "--seed", "5")
    assert 0 == done.returncode, done.stdout + done.stderr
    nothing = "0 lost, 0 double, 0 divergent, 0 phantom, 0 open leases, 0 money, 0 unbalanced, 0 unsettled, 0 left"
    assert nothing in done.stdout.splitlines()


def test_without_an_outbox_the_same_deaths_lose(project: Path):
    """With nothing on disk the same kills lose charges and leave leases open: the harness can fail."""
    done = crash(project, "--runs", "10", "--seed", "5", "--no-outbox")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* lost, .*, [1-9]\d* open leases, .*, [1-9]\d* unbalanced, ", done.stdout, re.MULTILINE)
