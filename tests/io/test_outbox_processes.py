"""Many processes on one outbox: what dies is taken over once, and a fork harms nobody."""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.run import State
from langchain_vluna._io.outbox import Outbox, OutboxError, rows, schema, upkeep
from langchain_vluna._io.outbox.owner import Owner
from tests.support.outbox import end, opened, read

pytestmark = [pytest.mark.isolated, pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX")]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "vluna.outbox")


def in_child(work) -> int:
    """Run `work` in a forked child; returns its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Worker:
    def __init__(self, project: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.outbox_worker", *args],
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> dict[str, object]:
        assert self.process.stdout is not None
        answer: dict[str, object] = json.loads(self.process.stdout.readline())
        return answer

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.wait(timeout=30)


@contextmanager
def worker(project: Path, *args: str) -> Iterator[Worker]:
    one = Worker(project, *args)
    try:
        yield one
    finally:
        one.process.kill()
        one.end()


class Fatal(sqlite3.Connection):
    """Kills its process right before it would carry out one more statement than it may."""

    left = 0

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if Fatal.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Fatal.left -= 1
        return super().execute(*args)


def test_a_process_killed_in_a_migration_leaves_a_good_file(path: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever statement of opening and migrating a process dies at, the next one completes the file."""
    real = sqlite3.connect

    def connect(database: str, **options: Any) -> sqlite3.Connection:
        return real(database, **options, factory=Fatal)

    def child() -> int:
        monkeypatch.setattr(sqlite3, "connect", connect)
        opened(Outbox(path), "never")
        return 0

    statements = 0
    while True:
        Fatal.left = statements
        if in_child(child) == 0:
            break
        outbox = Outbox(path)
        opened(outbox, f"after-{statements}")
        done = outbox.query(lambda db: [name for (name,) in db.execute("SELECT name FROM migration ORDER BY name")])
        assert [name for name, _ in schema._MIGRATIONS] == done
        outbox.close()
        for file in Path(path).parent.glob("vluna.outbox*"):
            file.unlink()
        statements += 1
    assert statements > 5 * len(schema._MIGRATIONS)


def test_rows_of_a_killed_process_are_taken_over(path: str, project: Path):
    """A dead process's rows are settled by what they say; a living one's are left alone."""
    outbox = Outbox(path)
    with worker(project, "leave", path, "x") as other:
        owner = other.hear()["owner"]
        assert 0 == upkeep.take_over(outbox)
        other.kill()
        assert 3 == upkeep.take_over(outbox)
    states = {
        name: (row.state, row.owner == outbox.owner_id, row.taken_over)
        for name in ("open", "fallback", "used", "canceled")
        if (row := read(outbox, f"x-{name}"))
    }
    assert {
        "open": (State.CANCELING, True, True),
        "fallback": (State.COMMITTING, True, True),
        "used": (State.COMMITTING, True, True),
        "canceled": (State.CANCELED, True, False),
    } == states
    assert not Path(f"{path}.{owner}.alive").exists()
    outbox.close()


def test_rows_are_taken_over_by_one_of_many(path: str, project: Path):
    """Of several processes that look at once, exactly one gets a dead process's rows."""
    with worker(project, "leave", path, "x") as dead:
        dead.hear()
        takers = [Worker(project, "take", path) for _ in range(4)]
        try:
            for taker in takers:
                taker.hear()
            dead.kill()
            for taker in takers:
                taker.tell()
            assert [0, 0, 0, 3] == sorted(int(str(taker.hear()["taken"])) for taker in takers)
        finally:
            for taker in takers:
                taker.process.kill()
                taker.end()


def test_a_process_killed_while_taking_over_changes_nothing(path: str, project: Path):
    """A take-over that dies half-way leaves the rows with their dead owner, for the next one."""
    with worker(project, "leave", path, "x") as dead:
        owner = dead.hear()["owner"]
        dead.kill()
    with worker(project, "take_and_die", path) as taker:
        assert -signal.SIGKILL == taker.process.wait(timeout=30)
    outbox = Outbox(path)
    row = read(outbox, "x-open")
    assert row is not None
    assert (State.OPEN, owner) == (row.state, row.owner)
    assert 3 == upkeep.take_over(outbox)
    outbox.close()


def test_marks_of_dead_processes_without_rows_are_swept(path: str, project: Path):
    """A mark whose process died an hour ago goes; that of a living process stays however old it is."""
    outbox = Outbox(path, clock=lambda: time.time() + 7200)
    opened(outbox, "a")
    with worker(project, "take", path) as living, worker(project, "take", path) as dead:
        alive, gone = living.hear()["owner"], dead.hear()["owner"]
        dead.kill()
        upkeep.take_over(outbox)
        assert Path(f"{path}.{alive}.alive").exists()
        assert not Path(f"{path}.{gone}.alive").exists()
        assert Path(f"{path}.{outbox.owner_id}.alive").exists()
    outbox.close()


def test_two_outboxes_of_one_process_do_not_take_each_other_for_dead(path: str):
    """Two gates of one process on one file are two living owners."""
    first, second = Outbox(path), Outbox(path)
    opened(first, "a")
    assert 0 == upkeep.take_over(second)
    first.close()
    assert 1 == upkeep.take_over(second)
    second.close()


def test_a_row_is_recorded_or_not_whatever_process_is_killed(path: str, project: Path):
    """Four processes write for all they are worth and are killed: every acknowledged row is there."""
    writers = [Worker(project, "hammer", path, str(number), "30") for number in range(4)]
    acknowledged = {}
    for number, writer in enumerate(writers):
        for _ in range(3):
            acknowledged[str(number)] = int(str(writer.hear()["written"]))
    for writer in writers:
        writer.kill()
        writer.end()
    outbox = Outbox(path)
    assert "ok" == outbox.query(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0])
    found = Counter(row.attempt.split("-")[0] for row in outbox.query(lambda db: rows.select(db, "1")))
    assert [] == [prefix for prefix, least in acknowledged.items() if found[prefix] < least]
    assert sum(acknowledged.values()) <= upkeep.take_over(outbox)
    outbox.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_writes_as_a_process_of_its_own(path: str):
    """What a child writes survives, also when the parent closes the file before the child does."""
    outbox = Outbox(path)
    opened(outbox, "parent")
    mine = outbox.owner_id
    ready, go = os.pipe(), os.pipe()

    def child() -> int:
        opened(outbox, "child-1")
        os.write(ready[1], b".")
        os.read(go[0], 1)
        opened(outbox, "child-2")
        return int(outbox.owner_id == mine)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = child()
        finally:
            os._exit(status)
    os.read(ready[0], 1)
    opened(outbox, "parent-2")
    outbox.close()
    os.write(go[1], b".")
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    after = Outbox(path)
    found = after.query(lambda db: [row.attempt for row in rows.select(db, "1 ORDER BY attempt")])
    assert ["child-1", "child-2", "parent", "parent-2"] == found
    after.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_sees_whether_its_parent_lives(path: str):
    """A child leaves its living parent's rows alone, and takes them over when the parent is gone."""
    ready, gone = os.pipe(), os.pipe()

    def parent() -> int:
        outbox = Outbox(path)
        opened(outbox, "a")
        end(outbox, "a")

        def child() -> None:
            status = 1
            try:
                alone = upkeep.take_over(outbox)
                os.write(ready[1], b".")
                os.close(gone[1])
                os.read(gone[0], 1)  # the end of the parent closes the pipe
                status = 0 if (alone, upkeep.take_over(outbox)) == (0, 1) else 3
            finally:
                Path(f"{path}.verdict").write_text(str(status), encoding="ascii")
                os._exit(status)

        if os.fork() == 0:
            child()
        os.read(ready[0], 1)
        return 0

    pid = os.fork()
    if pid == 0:
        os._exit(parent())
    os.close(gone[1])
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    verdict = Path(f"{path}.verdict")
    deadline = time.monotonic() + 20
    while not verdict.exists() or not verdict.read_text(encoding="ascii"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "0" == verdict.read_text(encoding="ascii")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_fork_in_the_midst_of_writing_leaves_no_lock_behind(path: str, durability: schema.Durability):
    """Threads that write while others fork neither lose a row nor leave a child without a working outbox."""
    outbox = Outbox(path, durability=durability)
    opened(outbox, "first")
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            post(f"t{len(written)}")

    def post(step: str) -> None:
        told: queue.SimpleQueue[OutboxError | None] = queue.SimpleQueue()
        outbox.post(
            lambda db: db.execute("INSERT INTO step VALUES (?, 1)", (step,)),
            done=lambda _: told.put(None),
            failed=told.put,
        )
        assert told.get(timeout=20) is None
        written.append(step)

    def child(number: int) -> int:
        outbox.transact(lambda db: db.execute("INSERT INTO step VALUES (?, 1)", (f"child{number}",)))
        return 0

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(20):
            assert 0 == in_child(lambda number=number: child(number))
    finally:
        stop.set()
        thread.join()
    found = {key for (key,) in outbox.query(lambda db: db.execute("SELECT key FROM step").fetchall())}
    assert {f"child{number}" for number in range(20)} | set(written) == found
    outbox.close()


def test_an_inherited_mark_is_known_as_such(path: str):
    """Only a child has inherited marks; its parent has none."""
    outbox = Outbox(path)
    opened(outbox, "a")
    mine = outbox.owner_id
    assert 0 == in_child(lambda: 0 if mine in Owner.inherited else 4)
    assert mine not in Owner.inherited
    outbox.close()
