"""A local gate's file: persistence, threads, processes, forks, faults of the file itself."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.errors import ConfigurationError, TransportFailure
from langchain_vluna._io.local import LocalGate
from langchain_vluna._io.local import gate as gate_module
from langchain_vluna._io.local.store import Busy
from tests.support.caller import Caller, Reply


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "gate.db")


@pytest.fixture(params=["memory", "file"])
def gate(request: pytest.FixtureRequest, path: str) -> LocalGate:
    gate = LocalGate(":memory:" if request.param == "memory" else path)
    gate.price("chat", "chat", 3)
    gate.grant("acme", 1_000_000)
    return gate


def run_worker(mode: str, path: str, number: int, project: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.local_worker", mode, path, str(number)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*workers: subprocess.Popen[str]) -> list[int]:
    for worker in workers:
        _, errors = worker.communicate(timeout=50)
        assert "" == errors
    return [worker.returncode for worker in workers]


def test_a_file_keeps_everything(path: str) -> None:
    """A gate opened again has prices, money, leases, keys and ratings of the one before."""
    first = LocalGate(path)
    first.price("chat", "chat", 3)
    first.grant("acme", 1000)
    caller = Caller(first)
    lease = caller.authorize(key="a").data["lease_token"]
    commit = caller.commit(lease, key="c").data
    first.close()
    second = LocalGate(path)

    assert (970, first.revision) == (second.balance("acme"), second.revision)
    assert lease == Caller(second).authorize(key="a").data["lease_token"]
    assert commit == Caller(second).commit(lease, key="c").data
    assert 1 == len(second.ratings())


def test_closing_is_not_the_end(gate: LocalGate) -> None:
    """A closed gate opens its file again when it is used, and loses nothing that is in memory."""
    gate.close()

    assert 200 == Caller(gate).authorize().status
    assert 1_000_000 == gate.balance("acme")


def test_a_file_is_its_owners(path: str) -> None:
    """Nobody else can read the file: it holds lease tokens."""
    LocalGate(path)

    assert 0o600 == stat.S_IMODE(Path(path).stat().st_mode)


def test_two_gates_on_one_file_see_each_other(path: str) -> None:
    """What one gate is told, the other answers by, and its revision shows it."""
    first, second = LocalGate(path), LocalGate(path)
    first.price("chat", "chat", 3)
    before = second.revision
    assert 402 == Caller(second).authorize().status
    first.grant("acme", 10)

    assert 200 == Caller(second).authorize().status
    assert second.revision > before


def test_threads_share_a_gate(gate: LocalGate) -> None:
    """Many threads settle runs of their own and duplicates of common ones; each run is charged once."""
    caller = Caller(gate)
    shared = caller.usage(caller.lease(), 1)

    def work(number: int) -> list[int]:
        duplicate = gate.send(caller.request("commit", shared, "shared"))
        return [
            Reply.of(duplicate).status,
            caller.commit(caller.lease(), 1).status,
            caller.ingest(1, key=f"{number % 4}").status,
        ]

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for done in pool.map(work, range(64)) for status in done]

    assert {200} == set(statuses)
    assert 1 + 64 + 4 == len(gate.ratings())
    assert 1_000_000 - 3 * 69 == gate.balance("acme")
    assert 128 == gate.requests["commit"]


@pytest.mark.isolated
def test_processes_share_a_file(path: str, project: Path) -> None:
    """Processes that open a new file at once and send the same keys record each key once."""
    workers = [run_worker("duplicates", path, 20, project) for _ in range(3)]
    workers += [run_worker("own", path, 20, project) for _ in range(2)]

    assert [0] * 5 == wait_for(*workers)
    gate = LocalGate(path)
    assert 20 == sum(rating.source == "ingest" for rating in gate.ratings())
    assert 40 == sum(rating.source == "commit" for rating in gate.ratings())


@pytest.mark.isolated
def test_a_fork_may_use_its_parents_gate(path: str, project: Path) -> None:
    """Parent and child go on with the same gate object; each has its own connection."""
    assert [0] == wait_for(run_worker("fork", path, 10, project))


@pytest.mark.isolated
def test_a_killed_process_leaves_no_half_transaction(path: str, project: Path) -> None:
    """What a process had not committed when it died never happened."""
    assert [9] == wait_for(run_worker("die", path, 7, project))

    assert [7] == [rating.quantity for rating in LocalGate(path).ratings()]


@pytest.mark.anyio
async def test_an_async_request_waits_in_a_thread(path: str) -> None:
    """While another process writes, an async request leaves the loop free and is answered afterwards."""
    gate = LocalGate(path)
    caller = Caller(gate)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release_later, other)
        reply = Reply.of(await gate.asend(caller.request("ingest", {"feature_code": "chat", "quantity_minor": 1})))
    other.close()

    assert 200 == reply.status


def release_later(connection: sqlite3.Connection) -> None:
    """Keep the write lock for longer than a request would wait on the loop."""
    import time

    time.sleep(0.05)
    connection.execute("COMMIT")


def test_a_file_that_stays_locked_is_no_answer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that cannot write within its patience reports that the request was not carried out."""
    monkeypatch.setattr(gate_module, "_WAIT", 0.01)
    gate = LocalGate(path)
    caller = Caller(gate)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(TransportFailure, match="locked by another process") as failed:
        caller.authorize()
    assert failed.value.sent is False
    with pytest.raises(Busy), gate._store.transaction():
        pass
    other.close()


def test_reading_does_not_wait_for_a_writer(path: str) -> None:
    """Balance, ratings and revision are read while another process writes."""
    gate = LocalGate(path)
    gate.grant("acme", 5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    assert (5, [], []) == (gate.balance("acme"), gate.ratings(), gate.leases())
    other.close()


def make_folder(path: Path) -> None:
    path.mkdir()


def write_text(path: Path) -> None:
    path.write_text("this is no database" * 100, encoding="utf-8")


def write_newer(path: Path) -> None:
    LocalGate(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 0)")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (make_folder, "cannot open the local gate's database"),
        (write_text, "is no database of a local gate"),
        (write_newer, "written by a newer version"),
    ],
)
def test_a_file_that_is_none_is_refused(path: str, spoil: Callable[[Path], None], named: str) -> None:
    """A folder, another file and the file of a newer version are refused with what to do."""
    spoil(Path(path))

    with pytest.raises(ConfigurationError, match=named):
        LocalGate(path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """The error shows the path that was tried."""
    with pytest.raises(ConfigurationError, match=r"nowhere/gate\.db"):
        LocalGate(tmp_path / "nowhere" / "gate.db")


def test_migrations_are_recorded(path: str) -> None:
    """Each migration leaves a row, and opening again adds none."""
    rows: list[Any] = []
    for _ in range(2):
        LocalGate(path, clock=lambda: 1.5).close()
        with sqlite3.connect(path) as connection:
            rows.append(connection.execute("SELECT version, applied_ms FROM migrations").fetchall())
        connection.close()

    assert [[(1, 1500), (2, 1500)]] * 2 == rows


def test_a_failed_migration_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that breaks half-way is taken back, and the next start does all of it."""
    broken = (("CREATE TABLE half (x)", "CREATE TABLE half (x)"),)
    monkeypatch.setattr("langchain_vluna._io.local.store.MIGRATIONS", broken)
    with pytest.raises(ConfigurationError, match="half"):
        LocalGate(path)
    monkeypatch.undo()

    assert 0 == LocalGate(path).balance("acme")
