"""Eight processes on one outbox and one ledger, some of them killed."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_vluna._io.outbox import Outbox
from tests.support.outbox import opened

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


def test_a_visitor_leaves_the_log_of_an_outbox_in_use(tmp_path: Path):
    """Who opens the file and closes it does not take itself for the last one and delete the log of others."""
    path = tmp_path / "vluna.outbox"
    outbox = Outbox(str(path))
    opened(outbox, "before")
    assert 1 == outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    visit = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM run').fetchall(); db.close()"
    )
    subprocess.run([sys.executable, "-c", visit, str(path)], check=True)
    assert Path(f"{path}-wal").exists()
    opened(outbox, "after")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert 2 == db.execute("SELECT count(*) FROM run").fetchone()[0]
    outbox.close()


def test_each_run_of_killed_processes_is_settled_once(project: Path):
    """What was recorded before a kill is charged once by whoever is left, and no lease stays open."""
    done = processes(project, "--kills", "8", "--seed", "5")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert re.search(r"^killed +8$", done.stdout, re.MULTILINE)
    runs = re.search(r"^runs +(\d+)$", done.stdout, re.MULTILINE)
    assert runs is not None
    assert int(runs[1]) > 100
    assert re.search(r"^stranded +[1-9]\d*$", done.stdout, re.MULTILINE), "no kill hit anything"


def test_kills_without_an_outbox_on_disk_are_seen_as_losses(project: Path):
    """The same kills with the outbox in memory leave runs uncharged and leases open, and the audit says so."""
    done = processes(project, "--kills", "6", "--seed", "5", "--without-outbox")
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "units unaccounted for" in done.stdout or "open_leases" in done.stdout
    assert re.search(r"WRONG: \d+ open_leases", done.stdout)
