"""The outbox at the command line: see what waits, settle it, and try again what was refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_vluna import Gate, LocalGate

LEAVE = """
import os
from langchain_vluna import Gate, LocalGate
local = LocalGate("vluna.db")
local.price("f", "f", 2)
local.price("g", "g", 2)
local.grant("acme", 1000)
gate = Gate(local, timeout=0.2, settle="background")
for verb in ("commit", "batch", "cancel", "ingest"):
    local.fault("reset", on=verb, times=10**6)
for feature, quantity in (("f", 1), ("g", 2), ("f", 3)):
    with gate.run(feature_code=feature, principal_id="acme", user_id=None) as run:
        run.record(quantity)
gate.authorize(feature_code="f", principal_id="acme")
os._exit(0)
"""


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a program that was killed while the gate was down."""
    folder = tmp_path_factory.mktemp("wreck")
    subprocess.run([sys.executable, "-c", LEAVE], cwd=folder, check=True, timeout=50)
    return folder


@pytest.fixture
def left(wreck: Path, tmp_path: Path) -> LocalGate:
    """What that program left: three charges."""
    shutil.copytree(wreck, tmp_path, dirs_exist_ok=True)
    return LocalGate(tmp_path / "vluna.db")


@pytest.fixture
def refused(left: LocalGate, run) -> LocalGate:
    """One of the three is refused for good, because its feature was switched off."""
    left.feature("g", active=False)
    run("outbox", "flush", code=1)
    return left


def test_list_shows_what_waits(run, left: LocalGate):
    """Each row is shown with its customer, feature, quantity and whether its program runs."""
    listed = run("outbox", "list", "--json").json
    assert [("f", "1"), ("g", "2"), ("f", "3")] == [
        (one["feature_code"], one["usage"]["quantity_minor"]) for one in listed
    ]
    assert {("committing", False, "acme")} == {
        (one["state"], one["owner_alive"], one["principal_id"]) for one in listed
    }
    text = run("outbox", "list", "-n", "2").out
    assert "the oldest 2 of 3" in text
    assert "ended" in text


def test_list_chooses(run, left: LocalGate):
    """Rows are chosen by state and by customer."""
    assert [] == run("outbox", "list", "--state", "dead", "--json").json
    assert 3 == len(run("outbox", "list", "--state", "committing", "--principal", "acme", "--json").json)
    assert [] == run("outbox", "list", "--principal", "globex", "--json").json


def test_looking_changes_nothing(run, left: LocalGate, tmp_path: Path):
    """Listing, showing and exporting leave rows and owners as they were."""
    before = run("outbox", "export").out
    run("outbox", "list")
    run("outbox", "show", json.loads(before.splitlines()[0])["attempt"])
    assert before == run("outbox", "export").out
    assert 1000 == left.balance("acme")


def test_flush_settles_what_a_dead_program_left(run, left: LocalGate):
    """A flush takes the rows over and charges each once."""
    assert "3 settled, 0 left, 0 refused for good" in run("outbox", "flush").out
    assert 1000 - 2 * (1 + 2 + 3) == left.balance("acme")
    assert {"settled": 0, "left": 0, "dead": 0, "alarms": []} == run("outbox", "flush", "--json").json


def test_flush_says_what_is_left(run, left: LocalGate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Rows that cannot be settled stay, and the exit code says so."""
    monkeypatch.setenv("VLUNA_SERVICE_BASE_URL", "http://127.0.0.1:9/mgt/v1")
    monkeypatch.setenv("VLUNA_REALM_ID", "realm-local")
    monkeypatch.setenv("VLUNA_SERVICE_KEY_ID", "key-local")
    monkeypatch.setenv("VLUNA_SERVICE_KEY_SECRET", "c2VjcmV0")
    monkeypatch.setenv("VLUNA_OUTBOX", str(tmp_path / "vluna.db.outbox"))
    monkeypatch.setenv("VLUNA_TIMEOUT", "0.3")
    data = run("outbox", "flush", "--timeout", "0.5", "--json", code=1).json
    assert {"settled": 0, "left": 3, "dead": 0, "alarms": []} == data


def test_flush_counts_what_was_not_charged(run, left: LocalGate):
    """What the gate records without charging is an alarm, and the exit code says so."""
    left.price("g", "g", None)
    data = run("outbox", "flush", "--json", code=1).json
    assert 3 == data["settled"]
    assert any("NOT charged" in alarm for alarm in data["alarms"])


def test_flush_tells_what_was_refused(run, left: LocalGate):
    """Refusals are counted apart from what was settled."""
    left.feature("g", active=False)
    assert (
        "2 settled, 0 left, 1 refused for good; see: langchain-vluna outbox list" in run("outbox", "flush", code=1).out
    )


def test_retry_after_mending(run, refused: LocalGate):
    """A dead row is charged once its reason is mended, and stays with its reason while it is not."""
    (dead,) = run("outbox", "list", "--state", "dead", "--json").json
    assert "feature inactive" in dead["reason"]
    assert "feature inactive" in run("outbox", "retry", dead["attempt"][:6], code=1).out
    refused.feature("g", active=True)
    (done,) = run("outbox", "retry", dead["attempt"], "--json").json
    assert {"attempt": dead["attempt"], "state": "settled", "reason": None} == done
    assert 1000 - 2 * (1 + 2 + 3) == refused.balance("acme")


def test_retry_all(run, refused: LocalGate):
    """All dead rows are tried again with one command; with none it has nothing to do."""
    refused.feature("g", active=True)
    assert ["settled"] == [one["state"] for one in run("outbox", "retry", "--all", "--json").json]
    assert [] == run("outbox", "retry", "--all", "--json").json


def test_retry_without_the_lease(run, refused: LocalGate):
    """With --reingest the usage is charged by itself."""
    refused.feature("g", active=True)
    run("outbox", "retry", "--all", "--reingest")
    assert ["ingest"] == [one.source for one in refused.ratings() if one.feature_code == "g"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("retry",), "name the rows to try again, or give --all"),
        (("retry", "abc", "--all"), "name the rows to try again, or give --all"),
        (("retry", "zzz"), "no row begins with 'zzz'"),
        (("show", "zzz"), "no row begins with 'zzz'"),
    ],
)
def test_rows_are_named(run, left: LocalGate, args, words: str):
    """A row that is not there, or not named, is said."""
    assert words in run("outbox", *args, code=2).err


def test_only_dead_rows_are_retried(run, left: LocalGate):
    """A row that waits is settled by a flush, not by hand."""
    (first, *_) = run("outbox", "list", "--json").json
    assert "only dead rows are tried again by hand" in run("outbox", "retry", first["attempt"], code=2).err


def test_show_tells_everything_but_the_lease(run, left: LocalGate, tmp_path: Path):
    """A row is shown by the beginning of its id, without the secret of its lease."""
    (first, *_) = run("outbox", "list", "--json").json
    text = run("outbox", "show", first["run_id"]).out
    assert first["attempt"] in text
    assert "quantity_minor" in text
    assert not any("lease." in done for done in (text, run("outbox", "show", first["attempt"], "--json").out))


def test_export(run, left: LocalGate, tmp_path: Path):
    """All rows are written as lines of JSON, to a file or the terminal, or as one list."""
    lines = [json.loads(line) for line in run("outbox", "export").out.splitlines()]
    assert 3 == len(lines)
    assert lines == run("outbox", "export", "--json").json
    run("outbox", "export", "--to", "rows.jsonl")
    assert lines == [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert "lease." not in (tmp_path / "rows.jsonl").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("list",), "nothing waits"),
        (("flush",), "nothing waits"),
        (("export",), ""),
        (("export", "--json"), "[]"),
        (("list", "--json"), "[]"),
    ],
)
def test_no_outbox_is_no_trouble(run, local: LocalGate, tmp_path: Path, args, words: str):
    """Where nothing ever waited, commands say so and make no file."""
    assert words in run("outbox", *args).out
    assert not (tmp_path / "vluna.db.outbox").exists()


@pytest.mark.parametrize("command", ["show", "retry"])
def test_no_outbox_has_no_rows(run, local: LocalGate, command: str):
    """Where there is no outbox, no row can be shown or tried."""
    assert "there is no outbox" in run("outbox", command, "abc", code=2).err


def test_running_programs_keep_their_rows(run, local: LocalGate, tmp_path: Path):
    """What a living program has to settle is left to it."""
    with (
        Gate(local, outbox=tmp_path / "vluna.db.outbox") as gate,
        gate.run(feature_code="openai.gpt5", principal_id="acme"),
    ):
        (row,) = run("outbox", "list", "--json").json
        assert ("open", True) == (row["state"], row["owner_alive"])
        assert {"settled": 0, "left": 0, "dead": 0, "alarms": []} == run("outbox", "flush", "--json").json
        assert "running" in run("outbox", "list").out


def test_an_outbox_by_path(run, left: LocalGate, tmp_path: Path):
    """An outbox anywhere can be looked at without any gate."""
    (tmp_path / "vluna.db").unlink()
    assert 3 == len(run("outbox", "list", "--outbox", "vluna.db.outbox", "--json").json)


def test_what_is_no_outbox_is_said(run, tmp_path: Path):
    """A file that is something else ends with the code for files."""
    (tmp_path / "list.txt").write_text("a shopping list, and nothing that SQLite would know")
    done = run("outbox", "list", "--outbox", "list.txt", "--json", code=5)
    assert "list.txt" in json.loads(done.err)["error"]
