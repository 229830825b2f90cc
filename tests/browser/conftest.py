"""A real browser, a served gate, and a chain that spends through it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from langchain_vluna import Gate
from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.listening import serving
from tests.support.bad_days import impatient

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

T = TypeVar("T")

# Read before the tests hide the environment from each other.
REQUIRED = os.environ.get("VLUNA_REQUIRE_BROWSER") == "1"
SHOTS = os.environ.get("VLUNA_SCREENSHOTS")

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    # Without these a browser calls home, which a closed network refuses many times over.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def missing(what: str) -> NoReturn:
    message = f"{what}; scripts/install_browser.sh installs what is needed"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True)
def nothing_blocks_an_event_loop() -> None:
    """Leave this thread alone: playwright's own loop counts as running in it, so everything would look blocking."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: while it runs, its event loop is this thread's.
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if path is None:
        missing("no chromium on this machine")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no playwright in this environment")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Shop:
    """A gate with a page, and a thread of its own for what a customer's program does."""

    ledger: LocalGate
    url: str
    worker: ThreadPoolExecutor

    def run(self, work: Callable[[Gate], T]) -> T:
        """Do something through HTTP as a program would, settled before this returns."""
        done: Future[T] = self.worker.submit(self._run, work)
        return done.result(timeout=30)

    def _run(self, work: Callable[[Gate], T]) -> T:
        with impatient(self.ledger, f"{self.url}/mgt/v1") as gate:
            return work(gate)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    ledger = LocalGate(tmp_path / "vluna.db")
    with serving(ledger) as url, ThreadPoolExecutor(1) as worker:
        yield Shop(ledger, url.removesuffix("/mgt/v1"), worker)
    ledger.close()


def _is_complaint(said: ConsoleMessage) -> bool:
    """Tell what the page got wrong from what a browser logs of each refusal by the server."""
    return said.type in {"error", "warning"} and "status of 400" not in said.text


@pytest.fixture
def page(browser: Browser, shop: Shop, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open the page; whatever it complains about in its console fails the test."""
    context = browser.new_context(viewport={"width": 1360, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
    foreign: list[str] = []
    page.on("request", lambda asked: None if asked.url.startswith(shop.url) else foreign.append(asked.url))
    page.goto(shop.url)
    yield page
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{request.node.name}.png", full_page=True)
    context.close()
    assert [] == complaints
    assert [] == foreign
