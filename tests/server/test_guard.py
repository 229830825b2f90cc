"""Who may use the page: this machine, from the page itself."""

from __future__ import annotations

import anyio
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Scope

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.guard import Guard
from tests.server.conftest import Page

GRANT = {"principal_id": "acme", "xusd": 5}


@pytest.mark.parametrize("host", ["localhost", "localhost:3002", "127.0.0.1:3002", "[::1]:3002", "gate.localhost:80"])
def test_names_of_this_machine_are_answered(page: Page, host: str):
    """The page may be opened under any name that is always this machine."""
    assert 200 == page.ask("GET", "/ui/api/summary", host=host)[0]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3002", "localhost.evil.example", "10.0.0.1", "", "[::1"]
)
def test_a_foreign_name_for_this_machine_is_refused(page: Page, host: str):
    """A website that gave its own name this machine's address reads nothing: the name shows."""
    for path in ("/", "/ui/api/summary", "/openapi.json"):
        status, answer, _ = page.ask("GET", path, host=host)
        assert 403 == status
        assert "localhost" in answer["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://localhost:1"},
    ],
)
def test_another_website_neither_reads_nor_changes(page: Page, gate: LocalGate, headers: dict[str, str]):
    """A request that another page makes in the same browser is refused, even with the right header."""
    assert 403 == page.ask("GET", "/ui/api/summary", **headers)[0]
    assert 403 == page.ask("POST", "/ui/api/grants", GRANT, x_vluna_page="1", **headers)[0]
    assert 0 == gate.balance("acme")


def test_the_page_itself_may(page: Page, gate: LocalGate):
    """With the page's own origin and header a change is made."""
    headers = {"origin": f"http://{page.host}", "sec_fetch_site": "same-origin", "x_vluna_page": "1"}
    assert 200 == page.ask("POST", "/ui/api/grants", GRANT, **headers)[0]
    assert 5 == gate.balance("acme")


def test_a_change_needs_the_header(page: Page, gate: LocalGate):
    """What a form of another website could send is not enough, and no other website is told that it may send more."""
    assert 403 == page.ask("POST", "/ui/api/grants", GRANT)[0]
    status, _, headers = page.ask("OPTIONS", "/ui/api/grants", origin="https://evil.example")
    assert 403 == status
    assert not [name for name in headers if name.startswith("access-control")]
    assert 0 == gate.balance("acme")


def test_a_link_from_elsewhere_opens_the_page(page: Page):
    """Following a link to the page is no attack."""
    assert 200 == page.ask("GET", "/", sec_fetch_site="cross-site")[0]


def test_the_page_loads_nothing_from_elsewhere(page: Page):
    """The browser is told to take scripts, styles and data from this server only, and to show it in no frame."""
    for path in ("/", "/ui/api/summary", "/ui/nothing"):
        policy = page.ask("GET", path)[2]["content-security-policy"]
        assert "default-src 'self'; frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (("127.0.0.1", 1), 200),
        (("::1", 1), 200),
        (("127.8.0.1", 1), 200),
        (None, 200),
        (("192.0.2.7", 1), 403),
        (("x", 1), 403),
    ],
)
def test_other_machines_are_refused(client: tuple[str, int] | None, status: int):
    """Wherever the server listens, its page is for this machine; a socket without an address is on it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/ui/api/summary",
        "scheme": "http",
        "client": client,
        "headers": [(b"host", b"localhost")],
    }
    anyio.run(Guard(PlainTextResponse("hello")), scope, receive, send)
    assert status == sent[0]["status"]


def test_a_header_does_not_make_a_machine_another(page: Page):
    """Nobody is believed who says in a header where he comes from."""
    assert 200 == page.ask("GET", "/ui/api/summary", x_forwarded_for="192.0.2.7", x_forwarded_proto="https")[0]


def test_the_gates_own_wire_needs_no_page(page: Page):
    """What is signed is not guarded by names: a gate may be called as whatever it is reachable as."""
    assert 200 == page.ask("GET", "/health", host="gate.example")[0]
    assert 401 == page.ask("POST", "/mgt/v1/gate/authorize", {}, host="gate.example", x_realm_id="realm-local")[0]
