"""The short form of `python -m tests.crash`: in a process of its own, because it forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.isolated, pytest.mark.timeout(240)]


def _chaos(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.crash", *args], capture_output=True, text=True, check=False)


def test_killed_workers_lose_and_double_nothing():
    """Whatever statement or call a process dies at, each answer that reached its caller is charged once."""
    done = _chaos("--runs", "33", "--seed", "7")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "lost 0, double 0, divergent 0, open leases 0, unsettled 0, broken 0" in done.stdout


def test_the_matrix_sees_losses_where_there_is_no_outbox():
    """With nothing on disk the same kills lose charges, so the matrix can fail."""
    done = _chaos("--runs", "11", "--seed", "7", "--without-outbox")
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "\nlost: run " in done.stdout
