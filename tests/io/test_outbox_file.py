"""The file of the outbox: private, migrated as a whole, and clear about what is wrong with it."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from langchain_vluna._core.errors import VlunaError
from langchain_vluna._core.run import Event, State
from langchain_vluna._io.client import adrive, drive
from langchain_vluna._io.client.turnstile import Turnstiles
from langchain_vluna._io.outbox import Outbox, OutboxError, Row, rows, schema
from tests.support.outbox import CUSTOMER, advance, end, opened, read
from tests.support.scripted_transport import ScriptedTransport


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "vluna.outbox")


def row(attempt: str) -> Row:
    return Row(attempt, CUSTOMER, attempt, attempt, {"feature_code": "model"}, owner="me")


def record(outbox: Outbox, attempt: str):
    return outbox.record(lambda db: rows.begin(db, row(attempt)))


def wait(flow):
    return drive(flow, ScriptedTransport(), lambda _: None)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_all_files_are_private(path: str):
    """The outbox, its log, its index and the mark of its process can be read by their owner alone."""
    old = os.umask(0)
    try:
        outbox = Outbox(path)
        opened(outbox, "a")
        files = sorted(Path(path).parent.iterdir())
        assert 4 == len(files), files
        assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in files}
        assert 0o700 == stat.S_IMODE(Path(path).parent.stat().st_mode)
        outbox.close()
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_file_that_others_could_read_is_made_private(path: str):
    """A file that was left open to others is closed to them, its log included."""
    Path(path).parent.mkdir()
    for name in (path, f"{path}-wal"):
        Path(name).touch()
        Path(name).chmod(0o644)
    outbox = Outbox(path)
    opened(outbox, "a")
    assert {0o600} == {stat.S_IMODE(Path(name).stat().st_mode) for name in (path, f"{path}-wal")}
    outbox.close()


def test_nothing_is_created_before_use(path: str):
    """An outbox that nobody uses leaves no trace."""
    outbox = Outbox(path)
    outbox.close()
    assert not Path(path).parent.exists()
    assert not outbox.is_open


def test_a_closed_outbox_leaves_one_file(path: str):
    """Closing folds the log into the file and takes the mark away; using it again opens it again."""
    outbox = Outbox(path)
    opened(outbox, "a")
    first = outbox.owner_id
    outbox.close()
    assert [Path(path).name] == [file.name for file in Path(path).parent.iterdir()]
    assert None is not read(outbox, "a")
    assert first != outbox.owner_id
    outbox.close()


def test_a_file_of_an_older_version_is_migrated(path: str, monkeypatch: pytest.MonkeyPatch):
    """A file with the first migrations only gets the others, and keeps its rows."""
    with monkeypatch.context() as older:
        older.setattr(schema, "_MIGRATIONS", schema._MIGRATIONS[:2])
        outbox = Outbox(path)
        opened(outbox, "a")
        outbox.close()
    outbox = Outbox(path)
    assert None is not read(outbox, "a")
    done = outbox.query(lambda db: [name for (name,) in db.execute("SELECT name FROM migration ORDER BY name")])
    assert [name for name, _ in schema._MIGRATIONS] == done
    outbox.close()


def test_a_migration_that_breaks_leaves_the_file_as_it_was(path: str, monkeypatch: pytest.MonkeyPatch):
    """A migration and its record are applied together or not at all."""
    broken = (*schema._MIGRATIONS, ("009_broken", "CREATE TABLE broken (x); "), ("010_worse", "NONSENSE"))
    with monkeypatch.context() as bad:
        bad.setattr(schema, "_MIGRATIONS", broken)
        with pytest.raises(OutboxError, match="syntax error"):
            opened(Outbox(path), "a")
    with sqlite3.connect(path) as db:
        names = {name for (name,) in db.execute("SELECT name FROM migration")}
    db.close()
    assert "010_worse" not in names
    assert "009_broken" in names


def test_a_file_of_a_newer_version_is_left_alone(path: str, monkeypatch: pytest.MonkeyPatch):
    """A file with migrations this version does not know is refused, by name."""
    with monkeypatch.context() as newer:
        newer.setattr(schema, "_MIGRATIONS", (*schema._MIGRATIONS, ("999_future", "CREATE TABLE future (x)")))
        outbox = Outbox(path)
        opened(outbox, "a")
        outbox.close()
    with pytest.raises(OutboxError, match=r"newer version of langchain-vluna.*999_future"):
        opened(Outbox(path), "b")


def test_many_threads_open_a_new_file_at_once(path: str):
    """Several outboxes may create one file at the same moment."""
    boxes = [Outbox(path) for _ in range(8)]
    failures: list[OutboxError] = []
    barrier = threading.Barrier(len(boxes))

    def first_use(outbox: Outbox, attempt: str):
        barrier.wait()
        try:
            wait(record(outbox, attempt))
        except OutboxError as error:
            failures.append(error)

    threads = [threading.Thread(target=first_use, args=(box, str(n))) for n, box in enumerate(boxes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert 8 == boxes[0].query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    for box in boxes:
        box.close()


@pytest.mark.parametrize("content", [b"this is no database, but it is longer than a header of one would be" * 20])
def test_a_file_that_is_no_outbox_is_named(path: str, content: bytes):
    """A foreign file is neither used nor overwritten, and the error says what to do."""
    Path(path).parent.mkdir()
    Path(path).write_bytes(content)
    with pytest.raises(OutboxError, match=r"vluna\.outbox.*not a database.*another path") as caught:
        opened(Outbox(path), "a")
    assert isinstance(caught.value, VlunaError)
    assert content == Path(path).read_bytes()


def test_a_damaged_file_is_named_and_kept(path: str):
    """A file with a broken page gives a clear error and is not made worse."""
    outbox = Outbox(path)
    for number in range(200):
        opened(outbox, f"{number:04}")
    size, root = outbox.query(
        lambda db: (
            db.execute("PRAGMA page_size").fetchone()[0],
            db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'run'").fetchone()[0],
        )
    )
    outbox.close()
    content = bytearray(Path(path).read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    Path(path).write_bytes(content)
    damaged = Outbox(path)
    with pytest.raises(OutboxError, match=r"malformed.*move it away, and keep it"):
        read(damaged, "0100")
    assert len(content) == Path(path).stat().st_size
    damaged.close()


def test_a_folder_that_is_none_is_named(tmp_path: Path):
    """A path that cannot exist gives a clear error."""
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match=r"(Not a directory|File exists).*give outbox="):
        opened(Outbox(str(tmp_path / "file" / "vluna.outbox")), "a")


READ_ONLY = """
import os, sys
from langchain_vluna._io.outbox import Outbox, OutboxError
from tests.support.outbox import opened
if os.geteuid() == 0:  # nothing is closed to root
    os.seteuid(65534)
try:
    opened(Outbox(sys.argv[1]), "a")
except OutboxError as error:
    print(error)
"""


@pytest.mark.isolated
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_read_only_folder_is_named(tmp_path: Path, project: Path):
    """Where nothing can be written, the error names the file and what helps."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(folder / "vluna.outbox")],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied" in done.stdout, done.stdout + done.stderr
    assert "mend permissions" in done.stdout


def fill(outbox: Outbox, pages: int) -> None:
    outbox.apply(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))


def test_a_full_disk_loses_nothing_that_was_recorded(path: str):
    """When the file cannot grow, writes fail clearly, ends of known runs still fit, and rows stay readable."""
    outbox = Outbox(path)
    written = 0
    opened(outbox, "first")
    fill(outbox, 12)

    def until_it_is_full():
        nonlocal written
        while True:
            opened(outbox, f"{written:04}")
            written += 1

    with pytest.raises(OutboxError, match="full; free space"):
        until_it_is_full()
    assert written > 0
    assert written + 1 == outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    assert State.CANCELING is advance(outbox, "first", Event.FAILED)
    fill(outbox, 100_000)
    opened(outbox, "after")
    outbox.close()
    reopened = Outbox(path)
    assert written + 2 == reopened.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    reopened.close()


FULL_DISK = """
import resource, signal, sys
from langchain_vluna._io.outbox import Outbox, OutboxError
from tests.support.outbox import opened
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
outbox = Outbox(sys.argv[1])
opened(outbox, "before")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
written = 0
try:
    while True:
        opened(outbox, f"{written:05}")
        written += 1
except OutboxError as error:
    print(written, error)
"""


@pytest.mark.isolated
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes")
def test_a_disk_that_takes_no_more_loses_nothing(path: str, project: Path):
    """Where the system refuses to write, what was acknowledged before is on disk."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], cwd=project, capture_output=True, text=True, check=False
    )
    written = int(done.stdout.split()[0])
    assert written > 10, done.stderr
    outbox = Outbox(path)
    assert written + 1 == outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    outbox.close()


def test_a_busy_file_is_waited_for_by_the_writer(path: str):
    """While another process writes for longer than 5 ms, a flow waits for the writer and is then recorded."""
    outbox = Outbox(path)
    opened(outbox, "a")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxError, match="locked") as caught:
        opened(outbox, "b")
    assert caught.value.busy
    threading.Timer(0.1, lambda: other.execute("COMMIT")).start()
    wait(record(outbox, "c"))
    assert None is not read(outbox, "c")
    other.close()
    outbox.close()


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_closed_flow_still_tells_what_was_written(path: str, durability: schema.Durability):
    """A flow that is interrupted while the writer is at it is written all the same, and `late` is told."""
    outbox = Outbox(path, durability=durability)
    opened(outbox, "a")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    told = threading.Event()
    flow = outbox.record(lambda db: rows.begin(db, row("b")), late=lambda _: told.set())
    next(flow)
    flow.close()
    other.execute("COMMIT")
    assert told.wait(10)
    assert None is not read(outbox, "b")
    other.close()
    outbox.close()


def test_power_is_written_by_one_thread_in_groups(path: str):
    """With durability `power`, what many callers write at once shares transactions, and each gets its own result."""
    outbox = Outbox(path, durability="power")
    mode = outbox.query(lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
    assert 2 == mode

    async def many():
        flows = [record(outbox, f"{number:03}") for number in range(200)]
        flows.append(record(outbox, "000"))
        transport = ScriptedTransport()
        turn = Turnstiles().turn
        driven = (adrive(flow, transport, asyncio.sleep, turn) for flow in flows)
        return await asyncio.gather(*driven, return_exceptions=True)

    for _ in range(2):  # one outbox under two event loops, one after the other
        results = asyncio.run(many())
        assert 201 == outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0]) + 1
        refused = [result for result in results if result is not None]
        assert all("UNIQUE" in str(error) for error in refused)
    outbox.close()


def test_one_bad_operation_does_not_take_its_group_with_it(path: str):
    """Of operations that share a transaction, only the broken one fails."""
    outbox = Outbox(path, durability="power")
    opened(outbox, "a")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    blocker, good, bad = record(outbox, "b"), record(outbox, "c"), record(outbox, "b")
    for flow in (blocker, good, bad):
        next(flow)
    other.execute("COMMIT")
    wait_all = []
    for flow in (blocker, good):
        while True:
            try:
                next(flow)
            except StopIteration:
                break
            except RuntimeError as error:
                wait_all.append(error)
    assert None is not read(outbox, "c")
    other.close()
    outbox.close()


def test_an_outbox_closed_while_others_write_loses_nothing(path: str):
    """What was handed to the writer before a close is written by it."""
    outbox = Outbox(path, durability="power")
    flows = [record(outbox, str(number)) for number in range(50)]
    for flow in flows:
        next(flow)
    outbox.close()
    assert 50 == outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    outbox.close()


def test_without_threads_the_writer_is_done_without(path: str, monkeypatch: pytest.MonkeyPatch):
    """At the end of the interpreter, where no thread starts, writes are carried out where they are called."""

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    outbox = Outbox(path, durability="power")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    wait(record(outbox, "a"))
    with pytest.raises(OutboxError, match="UNIQUE"):
        wait(record(outbox, "a"))
    assert None is not read(outbox, "a")
    outbox.close()


def test_nothing_in_the_file_is_a_service_key(path: str):
    """A row holds ids, figures, labels and the handle of its own lease, and nothing else."""
    outbox = Outbox(path)
    opened(outbox, "a")
    end(outbox, "a")
    columns = outbox.query(lambda db: [row[1] for row in db.execute("PRAGMA table_info(run)")])
    ids = ["attempt", "state", "owner", "principal_id", "user_id", "run_id", "root_id", "step"]
    bodies = ["ask", "handle", "usage", "source"]
    assert [*ids, *bodies, "created", "due", "tries", "taken_over", "reason"] == columns
    assert "lease.a" not in repr(read(outbox, "a"))
    outbox.close()
