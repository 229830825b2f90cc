"""The short form of `python -m tests.chaos.memory`, in a process of its own: its memory is measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.isolated,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc"),
]

RUNS = 2500


@pytest.mark.parametrize("where", ["on disk", "in memory"])
def test_finished_runs_leave_little_behind(project: Path, where: str):
    """After thousands of runs, half of them failed, the next thousands leave no objects; the outbox stays small."""
    # So many fail that whatever is remembered of failed runs for a while is full before it is measured.
    options = ["--runs", str(RUNS), "--warm-up", str(RUNS), "--one-fails-of", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.memory", *options, *(["--in-memory"] if where == "in memory" else [])],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    told = re.search(r"and (-?\d+) objects", done.stdout)
    assert told is not None
    assert int(told[1]) < RUNS / 10
