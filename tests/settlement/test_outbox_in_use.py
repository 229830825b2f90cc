"""Where the outbox is, and what becomes of LangChain runs when it cannot be written. Nothing recorded is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna import Gate, GateUnavailable, LocalGate, Settings
from langchain_vluna._io.relay import RelayTimes
from tests.settlement.shop import COLOURS, TOKENS, Shop, call, open_shop


def settings(realm: str = "realm-1", address: str = "https://one.invalid/mgt/v1") -> Settings:
    return Settings(base_url=address, realm_id=realm, service_key_id="key", service_key_secret="c2VjcmV0LXNlY3JldA==")  # type: ignore[arg-type]


def test_each_realm_and_address_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gates of two realms, or of two addresses, share no outbox; two of the same do, in the user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    chosen = [
        settings(),
        settings(),
        settings(realm="realm-2"),
        settings(address="https://two.invalid/mgt/v1"),
    ]
    paths = [Path(Gate(one).engine.outbox.path) for one in chosen]
    assert paths[0] == paths[1]
    assert 3 == len(set(paths))
    assert {tmp_path / "langchain-vluna"} == {path.parent for path in paths}
    assert [] == list(tmp_path.iterdir()), "nothing is created before use"


def test_the_environment_and_the_keyword_choose_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`VLUNA_OUTBOX` says where the outbox is, `outbox=` comes before it."""
    for name, value in {
        "BASE_URL": "https://one.invalid/mgt/v1",
        "KEY_ID": "key",
        "KEY_SECRET": "c2VjcmV0LXNlY3JldA==",
    }.items():
        monkeypatch.setenv(f"VLUNA_SERVICE_{name}", value)
    monkeypatch.setenv("VLUNA_REALM_ID", "realm-1")
    monkeypatch.setenv("VLUNA_OUTBOX", str(tmp_path / "one"))
    assert str(tmp_path / "one") == Gate.from_env().engine.outbox.path
    assert str(tmp_path / "two") == Gate.from_env(outbox=tmp_path / "two").engine.outbox.path
    assert ":memory:" == Gate.from_env(outbox=":memory:").engine.outbox.path


def no_database(path: Path) -> None:
    path.write_bytes(b"this is a letter, and no database" * 100)


def broken_page(path: Path) -> None:
    with open_shop(outbox=path) as shop:
        call(shop.model, "invoke", shop.config)
    with path.open("r+b") as file:
        file.seek(0)
        head = file.read(100)
        file.write(b"\xff" * 4096 * 8)
        file.seek(0)
        file.write(head)


def folder_in_the_way(path: Path) -> None:
    path.mkdir()


def no_folder(path: Path) -> None:
    # As with a folder that may not be written to, but for everybody, root included.
    path.parent.write_text("")


BROKEN: Any = pytest.mark.parametrize(
    ("spoil", "name"),
    [(no_database, "o"), (broken_page, "o"), (folder_in_the_way, "o"), (no_folder, "file/o")],
    ids=["no database", "damaged", "a folder in its place", "a folder that cannot be"],
)


@BROKEN
@pytest.mark.parametrize("colour", COLOURS)
def test_an_outbox_that_cannot_be_written_denies(tmp_path: Path, spoil: Any, name: str, colour: str):
    """By default no model is called and no gate asked; the error names the file and says what to do."""
    path = tmp_path / name
    spoil(path)
    with open_shop(outbox=path) as shop:
        with pytest.raises(GateUnavailable) as caught:
            call(shop.model, colour, shop.unwitnessed)
        assert str(path) in str(caught.value)
        assert any(word in str(caught.value) for word in ("choose another path", "move it away", "mend permissions"))
        assert (0, 0) == (shop.model.calls, shop.ledger.requests["authorize"])


@BROKEN
@pytest.mark.parametrize("colour", COLOURS)
def test_an_outbox_that_cannot_be_written_may_be_gone_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any, name: str, colour: str
):
    """With `on_unavailable="allow"` the work runs, is charged once from memory, and the log names the file."""
    path = tmp_path / name
    spoil(path)
    with open_shop(outbox=path, on_unavailable="allow") as shop:
        call(shop.model, colour, shop.config)
        shop.gate.flush(1.0)
        assert shop.witness.tokens == [rating.quantity for rating in shop.ledger.ratings()]
        assert 1 == shop.model.calls
        assert [] == shop.open_leases()
    assert str(path) in caplog.text


def fill(shop: Shop, pages: int) -> None:
    shop.gate.engine.outbox.apply(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path, colour: str):
    """Runs that were recorded before the disk was full are charged; new ones are denied until there is space."""
    with open_shop(outbox=tmp_path / "o", relay=RelayTimes(linger=60.0)) as shop:
        call(shop.model, colour, shop.unwitnessed)
        fill(shop, 1)

        def until_it_is_full() -> None:
            for _ in range(200):
                call(shop.model, colour, shop.unwitnessed)

        with pytest.raises(GateUnavailable, match="free space"):
            until_it_is_full()
        ended = shop.model.calls
        assert ended > 1, "what was let in before the disk was full has ended"
        assert ended > len(shop.ledger.ratings()), "some of it was not settled by then"
        fill(shop, 1_000_000)
        call(shop.model, colour, shop.unwitnessed)
        assert [TOKENS] * (ended + 1) == shop.charged()
        assert [] == shop.open_leases()


def test_opening_an_outbox_blocks_no_event_loop(tmp_path: Path):
    """While another process keeps the new file to itself, the first run waits and its event loop goes on."""
    path = tmp_path / "o"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with open_shop(outbox=path) as shop:

        async def run() -> None:
            waiting = asyncio.create_task(shop.model.ainvoke("hello", shop.config))
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert not waiting.done()
            other.execute("COMMIT")
            await waiting

        asyncio.run(run())
        shop.assert_exact(1)
    other.close()


def test_what_is_in_the_outbox_impersonates_nobody(tmp_path: Path):
    """A copy of the file holds no service key: what it knows is the handle of each open lease."""
    path = tmp_path / "o"
    ledger = LocalGate()
    with open_shop(ledger, outbox=path) as shop:
        held = shop.model.stream("a prompt that nobody may read", shop.config)
        next(held)
        with sqlite3.connect(path) as db:
            stored = "\n".join(str(row) for row in db.execute("SELECT * FROM run"))
        db.close()
        data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        secret = ledger.settings.service_key_secret.get_secret_value()
        assert shop.open_leases()[0] in stored
        for hidden in (secret, ledger.settings.service_key_id, "a prompt that nobody", "scripted answer"):
            assert hidden.encode() not in data
        del held
