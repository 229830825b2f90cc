"""Eight processes on one outbox and one ledger, some of them killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.isolated, pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")]


def processes(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.processes", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_each_run_of_killed_processes_is_settled_once(project: Path):
    """What was recorded before a kill is charged once by whoever is left, and no lease stays open."""
    done = processes(project, "--kills", "8", "--seed", "5")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert re.search(r"^killed +8$", done.stdout, re.MULTILINE)
    runs = re.search(r"^runs +(\d+)$", done.stdout, re.MULTILINE)
    assert runs is not None
    assert int(runs[1]) > 100


def test_kills_without_an_outbox_on_disk_are_seen_as_losses(project: Path):
    """The same kills with the outbox in memory leave runs uncharged and leases open, and the audit says so."""
    done = processes(project, "--kills", "6", "--seed", "5", "--without-outbox")
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "units unaccounted for" in done.stdout or "open_leases" in done.stdout
    assert re.search(r"WRONG: \d+ open_leases", done.stdout)
