"""Loops, threads, forks and ends of the interpreter: each run is settled once, in this process or by the next."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna import Gate, LocalGate
from langchain_vluna._io.outbox import Outbox, rows
from tests.settlement.shop import COLOURS, CUSTOMER, QUICK, TOKENS, Shop, call, open_shop, price
from tests.support.gate_server import serve
from tests.support.hall import Switched

MakeShop = Callable[..., Shop]


@pytest.fixture(params=["in process", "over HTTP"])
def make_shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeShop]:
    """Open shops with a file for an outbox, on either wire."""
    with ExitStack() as stack:

        def make(**options: Any) -> Shop:
            shop = stack.enter_context(open_shop(outbox=tmp_path / "vluna.outbox", **options))
            if request.param == "over HTTP":
                url = stack.enter_context(serve(shop.ledger))
                shop.gate = Gate(
                    shop.ledger.settings.model_copy(update={"base_url": url}),
                    wire="tutorial",
                    outbox=tmp_path / "http.outbox",
                    relay=QUICK,
                    **options,
                )
                stack.callback(shop.gate.close)
            return shop

        yield make


@pytest.fixture
def calls_left_behind() -> Iterator[None]:
    """Collect what langchain-core leaves un-awaited before another test is blamed for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()


@pytest.mark.parametrize("settle", ["background", "inline"])
def test_one_gate_serves_event_loops_one_after_the_other(make_shop: MakeShop, settle: Any):
    """`asyncio.run` again and again, blocking calls in between: one gate, one handler, each run charged once."""
    shop = make_shop(settle=settle)
    for colour in ("ainvoke", "invoke", "astream", "ainvoke", "stream"):
        call(shop.model, colour, shop.config)
    shop.assert_exact(5)


def test_one_gate_serves_event_loops_side_by_side(make_shop: MakeShop):
    """Threads with loops of their own, and threads without, share a gate."""
    shop = make_shop()
    config = shop.config

    def work(colour: str) -> None:
        for _ in range(5):
            call(shop.model, colour, config)

    threads = [threading.Thread(target=work, args=(colour,)) for colour in COLOURS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shop.assert_exact(40)


class TestNotebook:
    """A loop that runs, and blocking calls in it."""

    @pytest.fixture(autouse=True)
    def nothing_blocks_an_event_loop(self) -> None:
        """Blocking the loop is what a blocking call in it does."""

    def test_cells_share_a_loop_that_runs(self, make_shop: MakeShop):
        """Blocking and awaited calls, and both ways to flush, inside a loop that goes on from cell to cell."""
        shop = make_shop()

        async def cell() -> None:
            shop.model.invoke("hello", shop.config)
            await shop.model.ainvoke("hello", shop.config)
            assert 0 == await shop.gate.aflush(10.0)
            list(shop.model.stream("hello", shop.config))
            assert 0 == shop.gate.flush(10.0)

        with asyncio.Runner() as loop:
            loop.run(cell())
            loop.run(cell())
        shop.assert_exact(6)


@pytest.mark.usefixtures("calls_left_behind")
def test_a_loop_that_ends_under_a_run_leaves_no_lease(make_shop: MakeShop):
    """What the end of a loop cancels, a model and a stream left in tasks, is settled without it."""
    shop = make_shop()
    thinking, speaking = shop.scripted(hang_after=0), shop.scripted(hang_after=2)
    left: list[asyncio.Task[Any]] = []

    async def speak() -> None:
        async for _ in speaking.astream("hello", shop.unwitnessed):
            pass

    def until_both_have_begun() -> None:
        while not (thinking.calls and speaking.calls):
            threading.Event().wait(0.001)

    async def main() -> None:
        left.append(asyncio.create_task(thinking.ainvoke("hello", shop.unwitnessed)))
        left.append(asyncio.create_task(speak()))
        await asyncio.to_thread(until_both_have_begun)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert all(task.cancelled() for task in left)
    (delivered,) = shop.charged()
    assert 0 < delivered
    assert ["estimated"] == [rating.labels["usage_source"] for rating in shop.ledger.ratings()]
    assert [] == shop.open_leases()


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("colour", COLOURS)
def test_an_interrupted_provider_is_not_charged(make_shop: MakeShop, colour: str):
    """Ctrl-C while the provider thinks reaches the caller, and the lease is cancelled."""
    shop = make_shop()
    model = shop.scripted(responses=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        call(model, colour, shop.unwitnessed)
    assert [] == shop.charged()
    assert ["canceled"] == [lease.state for lease in shop.ledger.leases()]


@pytest.mark.isolated
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("colour", ["invoke", "ainvoke"])
def test_parent_and_child_of_a_fork_charge_their_own_runs(tmp_path: Path, colour: str):
    """A handler that is used before a fork, in the child and after it in the parent charges each run once."""
    ledger = LocalGate()
    with open_shop(ledger, outbox=tmp_path / "o") as shop, serve(ledger) as url:
        settings = ledger.settings.model_copy(update={"base_url": url})
        shop.gate = Gate(settings, wire="tutorial", outbox=tmp_path / "http.outbox", relay=QUICK)
        config = shop.config
        call(shop.model, colour, config)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    call(shop.model, colour, shop.unwitnessed)
                    call(shop.model, colour, config)
                    status = shop.gate.flush(10.0)
                finally:
                    os._exit(status)
            children.append(pid)
            call(shop.model, colour, config)
        assert [0, 0, 0] == [os.waitpid(pid, 0)[1] for pid in children]
        assert [TOKENS] * (1 + 3 + 6) == shop.charged()
        assert [] == shop.open_leases()
        shop.gate.close()


# --- the end of the interpreter -------------------------------------------------------------------------------------

BEGIN = """
import asyncio, os, signal, sys, threading
from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel
from tests.settlement.shop import CUSTOMER, Shop

gate = Gate.local(sys.argv[1])
config = {"callbacks": [VlunaCallbackHandler(gate, principal_id=CUSTOMER)]}
slow = Shop.scripted(hang_after=0)

def interrupt_when_called(model):
    def watch():
        while not model.calls:
            threading.Event().wait(0.001)
        threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=watch, daemon=True).start()
"""

ENDS: dict[str, tuple[str, str]] = {
    "plain": ("Shop.scripted().invoke('hello', config)", "reported"),
    "plain, async": ("asyncio.run(Shop.scripted().ainvoke('hello', config))", "reported"),
    "sys.exit": ("Shop.scripted().invoke('hello', config); sys.exit(3)", "reported"),
    "an error": ("Shop.scripted().invoke('hello', config); 1 / 0", "reported"),
    "sys.exit in the midst of a stream": (
        "for chunk in Shop.scripted().stream('hello', config): sys.exit(3)",
        "estimated",
    ),
    "a stream that is held": ("held = Shop.scripted().stream('hello', config); next(held)", "estimated"),
    "a task in the midst of a stream": (
        """
async def main():
    stream = Shop.scripted(hang_after=1).astream('hello', config)
    await anext(stream)
    asyncio.create_task(anext(stream))
asyncio.run(main())
""",
        "estimated",
    ),
    "a daemon thread that waits for its provider": (
        """
threading.Thread(target=slow.invoke, args=('hello', config), daemon=True).start()
while not slow.calls: threading.Event().wait(0.001)
""",
        "nothing",
    ),
    "Ctrl-C": ("interrupt_when_called(slow); slow.invoke('hello', config)", "nothing"),
    "Ctrl-C, async": ("interrupt_when_called(slow); asyncio.run(slow.ainvoke('hello', config))", "nothing"),
    "os._exit": ("Shop.scripted().invoke('hello', config); os._exit(0)", "reported"),
}


def ended(ledger_path: Path, project: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = BEGIN + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script, str(ledger_path)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    path = tmp_path / "vluna.db"
    ledger = LocalGate(path)
    price(ledger)
    ledger.grant(CUSTOMER, 10**9)
    ledger.close()
    return path


@pytest.mark.slow
@pytest.mark.isolated
@pytest.mark.parametrize("end", ENDS)
def test_an_interpreter_that_ends_leaves_nothing_unsettled(project: Path, ledger_path: Path, end: str):
    """However a program that closes nothing comes to its end, its run is settled by the rule, before or by the next."""
    code, source = ENDS[end]
    done = ended(ledger_path, project, code)
    if end == "os._exit":
        # Nothing of Python runs then: it is the next process's.
        with Gate.local(ledger_path) as following:
            assert 0 == following.flush(10.0)
    ledger = LocalGate(ledger_path)
    ratings = ledger.ratings()
    assert ([] if source == "nothing" else [source]) == [r.labels["usage_source"] for r in ratings], done.stderr
    if source == "reported":
        assert [TOKENS] == [rating.quantity for rating in ratings]
    assert [] == [lease for lease in ledger.leases("active") if not lease.commits], done.stderr
    assert 1 == len(ledger.leases())
    ledger.close()
    outbox = Outbox(f"{ledger_path}.outbox")
    assert [] == [row.state for row in outbox.query(lambda db: rows.select(db, "state <> 'canceled'"))]
    outbox.close()
    assert "Traceback" not in done.stderr or end in {"an error", "Ctrl-C", "Ctrl-C, async"}, done.stderr


# --- a gate that is down --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_a_gate_that_is_down_for_a_day_loses_nothing(tmp_path: Path, colour: str):
    """What was let in before, and what ran without asking, is charged the next day by the next process."""
    clock = [1_700_000_000.0]
    ledger = LocalGate(tmp_path / "vluna.db", clock=lambda: clock[0])
    with open_shop(ledger, outbox=tmp_path / "o", on_unavailable="allow") as shop:

        def answer(_: Any) -> str:
            shop.line.on = False
            return "fine"

        call(shop.scripted(responses=[answer]), colour, shop.config)
        for _ in range(3):
            call(shop.model, colour, shop.config)
        assert 4 == shop.gate.close(0.2)
        assert [] == ledger.ratings()
        used = shop.witness.tokens
    clock[0] += 24 * 3600
    ledger = LocalGate(tmp_path / "vluna.db", clock=lambda: clock[0])
    following = Gate(Switched(ledger), wire="tutorial", outbox=tmp_path / "o", relay=QUICK)
    assert 0 == following.flush(10.0)
    charged = [rating for rating in ledger.ratings() if rating.status == "applied"]
    assert used == [rating.quantity for rating in charged]
    assert {"ingest"} == {rating.source for rating in charged}
    following.close()


def test_what_is_left_at_the_end_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A gate that closes with rows unsettled says how many, where they are, and how to look at them."""
    path = tmp_path / "o"
    with open_shop(outbox=path, on_unavailable="allow") as shop:
        shop.line.on = False
        call(shop.model, "invoke", shop.config)
        assert 1 == shop.gate.close(0.1)
    assert f"1 run is not settled: kept in {str(path)!r} for the next process" in caplog.text
    assert "langchain-vluna outbox list" in caplog.text


def test_what_an_outbox_in_memory_loses_is_told(caplog: pytest.LogCaptureFixture):
    """A gate that closes with rows in memory says that they will not be charged when the process ends."""
    with open_shop(on_unavailable="allow") as shop:
        shop.line.on = False
        for _ in range(2):
            call(shop.model, "invoke", shop.config)
        assert 2 == shop.gate.close(0.1)
        assert "2 runs are not settled, and in memory only: lost when this process ends" in caplog.text
        shop.line.on = True
        assert [TOKENS] * 2 == shop.charged()
