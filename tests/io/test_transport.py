"""Requests arrive as they were signed, failures are told apart, connections are reused and let go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.transport import HttpTransport, pool
from langchain_vluna._io.transport.connections import BlockingConnection

CERTIFICATE = Path(__file__).with_name("tls") / "localhost.pem"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Seen: yes\r\nContent-Length: 11\r\n\r\n{"ok":true}'
CHUNKS = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{"ok":true}\r\n0\r\n\r\n'
MOVED = b"HTTP/1.1 307 Moved\r\nLocation: /ok\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
ANSWERS = {
    b"": (b"", False),
    b"/drop": (b"", False),
    b"/half": (OK[:-4], False),
    b"/silent": (b"", False),
    b"/goodbye": (OK, False),
    b"/chunks": (CHUNKS, True),
    b"/redirect": (MOVED, True),
    b"CONNECT": (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", False),
}
"""By path: what is sent, and whether the connection goes on. Everything else gets `OK`."""
SIGNED = {"authorization": "SVC-AUTH keyId=k", "content-type": "application/json; charset=utf-8", "x-realm-id": "r"}


class Server:
    """A loopback server of scripted bytes, a thread for each connection; the path of a request says what it gets."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.slow = threading.Event()
        """Set when a slow request has arrived."""
        self.release = threading.Event()
        """Lets slow requests be answered."""
        self.goodbyes = threading.Semaphore(0)
        """Counts connections that the server has closed."""
        self._tls = tls
        self._closing = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            secured = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with secured, secured.makefile("rb") as reader:
                while self._answer(reader, secured):
                    pass
                secured.shutdown(socket.SHUT_RDWR)
                self.goodbyes.release()

    def _answer(self, reader: Any, connection: socket.socket) -> bool:
        """Answer one request; false at the end of the connection, whoever wants it."""
        path = self._read(reader)
        if path in (b"/silent", b"/slow"):
            self.slow.set()
            self.release.wait(10)
        if path == b"/drip":
            for byte in OK:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
            return True
        answer, goes_on = ANSWERS.get(path, (OK, True))
        connection.sendall(answer)
        return goes_on

    def _read(self, reader: Any) -> bytes:
        """Return the path of the next request, nothing where there is none, and keep it all."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reader.readline()
            if not line:
                return b""
            head += line
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        self.requests.append(head + reader.read(int(lengths[0].split(b":")[1]) if lengths else 0))
        method, path, _ = head.split(b" ", 2)
        return method if method == b"CONNECT" else path

    def close(self) -> None:
        self._closing = True
        self.release.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._threads[0].join(5)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def tls_server() -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    running = Server(context)
    yield running
    running.close()


class Colour:
    """Sends in one colour, over one library."""

    def __init__(self, *, nonblocking: bool, fast: bool) -> None:
        self.nonblocking = nonblocking
        self.fast = fast

    def transport(self, url: str, **options: Any) -> HttpTransport:
        return HttpTransport(url, fast=self.fast, **options)

    def send(self, transport: HttpTransport, *requests: HttpRequest) -> list[HttpResponse]:
        """Send one after the other, then let go of all connections."""
        if not self.nonblocking:
            try:
                return [transport.send(request) for request in requests]
            finally:
                transport.close()
        return asyncio.run(self._asend(transport, requests))

    async def _asend(self, transport: HttpTransport, requests: tuple[HttpRequest, ...]) -> list[HttpResponse]:
        return [await transport.asend(request) for request in requests]

    def send_together(self, transport: HttpTransport, requests: list[HttpRequest]) -> None:
        """Send all at the same time, twice."""
        if not self.nonblocking:
            with ThreadPoolExecutor(len(requests)) as pool:
                list(pool.map(transport.send, requests))
                list(pool.map(transport.send, requests))
            transport.close()
            return

        async def main() -> None:
            await asyncio.gather(*map(transport.asend, requests))
            await asyncio.gather(*map(transport.asend, requests))

        asyncio.run(main())


COLOURS = {
    "sync": Colour(nonblocking=False, fast=False),
    "async": Colour(nonblocking=True, fast=False),
    "fast sync": Colour(nonblocking=False, fast=True),
    "fast async": Colour(nonblocking=True, fast=True),
}
colours = pytest.mark.parametrize("colour", [pytest.param(colour, id=name) for name, colour in COLOURS.items()])


def post(path: str = "/ok", timeout: float = 5.0, content: bytes = b'{"a":1}') -> HttpRequest:
    return HttpRequest("POST", path, SIGNED, content, timeout)


def run_strictly(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in a loop of its own; a connection that is left open afterwards is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()


# --- what arrives ---------------------------------------------------------------------------------


@colours
def test_a_request_arrives_byte_for_byte(colour: Colour, server: Server):
    """Target, signed headers and body are as signed; nothing else is added that a gate would act on."""
    content = '{"city":"Zürich"}'.encode()
    (response,) = colour.send(colour.transport(server.url), post("/mgt/v1/gate/authorize", content=content))
    head, body = server.requests[0].split(b"\r\n\r\n", 1)
    line, *fields = head.decode().split("\r\n")
    assert "POST /mgt/v1/gate/authorize HTTP/1.1" == line
    assert content == body
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    headers.pop("connection", None)
    assert headers.pop("user-agent").startswith("langchain-vluna/")
    assert (
        SIGNED
        | {
            "host": f"127.0.0.1:{server.port}",
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-length": str(len(content)),
        }
        == headers
    )
    assert (200, b'{"ok":true}', "yes") == (response.status, response.content, response.headers["x-seen"])


@colours
@pytest.mark.parametrize("target", ["/gate/limits?feature_code=a.b_c-d&expand=quotas&expand=rates", "/x/"])
def test_a_query_arrives_as_it_was_signed(colour: Colour, target: str, server: Server):
    """Nothing is encoded again, and a GET has no body."""
    colour.send(colour.transport(server.url + "/ignored"), HttpRequest("GET", target, SIGNED, b"", 5.0))
    assert server.requests[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())
    assert server.requests[0].endswith(b"\r\n\r\n")


@colours
def test_redirects_are_not_followed_and_cookies_not_kept(colour: Colour, server: Server):
    """A signed request goes to one place, and the next one owes nothing to it."""
    moved, _ = colour.send(colour.transport(server.url), post("/redirect"), post())
    assert (307, "/ok") == (moved.status, moved.headers["location"])
    assert 2 == len(server.requests)
    assert b"cookie" not in server.requests[1].lower()


@colours
def test_proxies_of_the_environment_are_not_used(colour: Colour, server: Server, monkeypatch: pytest.MonkeyPatch):
    """Where a request goes is said by the settings alone."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert 200 == colour.send(colour.transport(server.url), post())[0].status


@colours
def test_a_proxy_that_is_named_is_used(colour: Colour, server: Server):
    """The proxy gets the whole URL."""
    transport = colour.transport("http://gate.invalid", proxy=server.url)
    assert 200 == colour.send(transport, post("/ok"))[0].status
    assert server.requests[0].startswith(b"POST http://gate.invalid/ok HTTP/1.1\r\n")


@colours
def test_a_proxy_opens_a_tunnel_to_a_gate_with_tls(colour: Colour, tls_server: Server):
    """The proxy sees where it goes, and nothing of what."""
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    with tunnels() as (url, seen):
        transport = colour.transport(tls_server.url, proxy=url.replace("//", "//me:p%40ss@"), verify=trusting)
        assert [200, 200] == [response.status for response in colour.send(transport, post(), post())]
    (head,) = seen
    assert head.startswith(f"CONNECT 127.0.0.1:{tls_server.port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: Basic bWU6cEBzcw==\r\n" in head
    assert 2 == len(tls_server.requests)


@colours
def test_a_proxy_that_refuses_sent_nothing(colour: Colour, server: Server):
    """A tunnel that is not opened leaves the gate untouched."""
    transport = colour.transport("https://gate.invalid", proxy=server.url, verify=ssl.create_default_context())
    assert failure_of(colour, transport, post()).sent is False


@contextlib.contextmanager
def tunnels() -> Iterator[tuple[str, list[bytes]]]:
    """Run a proxy for one tunnel; what it was asked for is in the list."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay() -> None:
            near, _ = listener.accept()
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += near.recv(1)
            seen.append(head)
            host, port = head.split(b" ")[1].decode().split(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join(5)
            near.close()
            far.close()

        thread = threading.Thread(target=relay)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
        thread.join(5)


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


# --- connections ----------------------------------------------------------------------------------


@colours
def test_a_connection_is_reused(colour: Colour, server: Server):
    """Calls one after the other need one connection."""
    colour.send(colour.transport(server.url), *[post()] * 5)
    assert (5, 1) == (len(server.requests), server.connections)


@colours
def test_a_connection_that_the_gate_closed_meanwhile_is_not_used(colour: Colour, server: Server):
    """A gate that closes idle connections costs a new connection, not a failed call."""
    transport = colour.transport(server.url)

    async def main() -> None:
        await transport.asend(post("/goodbye"))
        await asyncio.to_thread(server.goodbyes.acquire, timeout=5)
        assert 200 == (await transport.asend(post())).status

    if colour.nonblocking:
        run_strictly(main)
    else:
        transport.send(post("/goodbye"))
        server.goodbyes.acquire(timeout=5)
        assert 200 == transport.send(post()).status
        transport.close()
    assert 2 == server.connections


@colours
def test_an_answer_in_chunks_is_read_to_its_end(colour: Colour, server: Server):
    """A proxy may answer so; the connection serves the next call."""
    transport = colour.transport(server.url)
    assert [b'{"ok":true}'] * 2 == [r.content for r in colour.send(transport, post("/chunks"), post())]
    assert 1 == server.connections


@colours
def test_calls_at_the_same_time_have_connections_of_their_own(colour: Colour, server: Server):
    """No call waits for another, and the connections serve the next calls."""
    threading.Timer(0.3, server.release.set).start()
    colour.send_together(colour.transport(server.url), [post("/slow")] * 8)
    assert (16, 8) == (len(server.requests), server.connections)


@colours
def test_a_closed_transport_opens_again(colour: Colour, server: Server):
    """Closing lets go of connections, not of the transport."""
    transport = colour.transport(server.url)
    assert [200, 200] == [colour.send(transport, post())[0].status for _ in range(2)]
    assert 2 == server.connections


def test_a_loop_that_ends_closes_its_connections(server: Server):
    """`asyncio.run` twice works without closing anything by hand, and leaves nothing behind."""
    transport = HttpTransport(server.url)

    async def main() -> None:
        assert 200 == (await transport.asend(post())).status

    run_strictly(main)
    run_strictly(main)
    assert 2 == server.connections
    assert {} == transport._loops


def test_aclose_lets_go_of_the_loop_it_runs_in(server: Server):
    """A second close does nothing, and the loop can be used again."""
    transport = HttpTransport(server.url)

    async def main() -> None:
        await transport.aclose()
        await transport.asend(post())
        await transport.aclose()
        assert {} == transport._loops
        await transport.aclose()
        await transport.asend(post())

    run_strictly(main)
    assert 2 == server.connections


def test_a_call_that_outlives_aclose_closes_its_own_connection(server: Server):
    """What is in use is closed when it comes back."""
    transport = HttpTransport(server.url)

    async def main() -> None:
        await transport.asend(post())
        running = asyncio.create_task(transport.asend(post("/slow")))
        await asyncio.to_thread(server.slow.wait, 5)
        await transport.aclose()
        server.release.set()
        assert 200 == (await running).status

    run_strictly(main)


def test_loops_in_threads_do_not_share_connections(server: Server):
    """A connection belongs to the loop that opened it."""
    transport = HttpTransport(server.url)

    async def main() -> int:
        return sum([(await transport.asend(post())).status for _ in range(3)])

    with ThreadPoolExecutor(4) as pool:
        assert [600] * 4 == list(pool.map(lambda _: asyncio.run(main()), range(4)))
    assert 4 == server.connections


def test_a_loop_that_was_not_shut_down_is_forgotten(server: Server):
    """A loop closed without ceremony does not pin its connections for ever."""
    transport = HttpTransport(server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(transport.asend(post()))
    stack = transport._loops[loop]
    loop.run_until_complete(transport.aclose())
    transport._loops[loop] = stack
    loop.close()

    async def main() -> None:
        await transport.asend(post())
        assert loop not in transport._loops

    run_strictly(main)


def test_connections_that_are_not_needed_are_let_go(monkeypatch: pytest.MonkeyPatch):
    """Each return of a connection may retire the one that was idle longest."""
    stack: pool._Stack[Any] = pool._Stack()
    assert stack.take() is None
    assert ([], []) == (stack.give("a"), stack.give("b"))
    assert "b" == stack.take()
    assert [] == stack.give("b")
    monkeypatch.setattr(pool, "_KEEPALIVE", -1.0)
    assert ["a"] == stack.give("c")
    assert ["c", "b"] == stack.close()
    assert ["late"] == stack.give("late")


def test_a_child_process_does_not_use_its_parents_connections(server: Server):
    """After a fork each side has a connection of its own, and both still work."""
    script = """
        import asyncio, os, sys
        from langchain_vluna._core.types import HttpRequest
        from langchain_vluna._io.transport import HttpTransport
        transport = HttpTransport(sys.argv[1])
        request = HttpRequest("POST", "/ok", {}, b"{}", 5.0)
        transport.send(request)
        child = os.fork()
        assert transport.send(request).status == 200
        if child == 0:
            assert asyncio.run(transport.asend(request)).status == 200
            transport.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert transport.send(request).status == 200
        transport.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), server.url], check=True, timeout=30)
    # The parent's one, the child's blocking one, the child's loop's one.
    assert (5, 3) == (len(server.requests), server.connections)


def test_a_transport_shows_its_origin_and_no_more():
    """The repr has no path, no user and no query."""
    assert "HttpTransport('https://gate.example')" == repr(HttpTransport("https://gate.example/mgt/v1"))


# --- failures -------------------------------------------------------------------------------------


def failure_of(colour: Colour, transport: HttpTransport, request: HttpRequest) -> TransportFailure:
    with pytest.raises(TransportFailure) as caught:
        colour.send(transport, request)
    return caught.value


@colours
def test_a_refused_connection_sent_nothing(colour: Colour):
    """When nobody listens, the gate cannot have received anything."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    failure = failure_of(colour, colour.transport(f"http://127.0.0.1:{port}"), post())
    assert failure.sent is False
    assert str(failure)


@colours
@pytest.mark.parametrize("path", ["/drop", "/half"])
def test_a_lost_answer_may_have_been_received(colour: Colour, path: str, server: Server):
    """A connection that breaks after the request leaves the outcome open."""
    assert failure_of(colour, colour.transport(server.url), post(path)).sent is True


@colours
@pytest.mark.parametrize("path", ["/drop", "/half"])
def test_a_connection_that_failed_is_not_used_again(colour: Colour, path: str, server: Server):
    """The next call gets a fresh one and succeeds."""
    transport = colour.transport(server.url)
    failure_of(colour, transport, post(path))
    assert 200 == colour.send(transport, post())[0].status
    assert 2 == server.connections


@colours
def test_a_silent_gate_times_out(colour: Colour, server: Server):
    """The seconds of the request bound the attempt; the gate may have received it."""
    assert failure_of(colour, colour.transport(server.url), post("/silent", timeout=1.0)).sent is True


@colours
def test_a_dripping_gate_times_out(colour: Colour, server: Server):
    """The whole attempt is bounded, however often a byte arrives."""
    assert failure_of(colour, colour.transport(server.url), post("/drip", timeout=1.0)).sent is True


def full_backlog() -> Iterator[str]:
    with socket.socket() as listener, contextlib.ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses instead of staying silent")
@colours
def test_a_host_that_does_not_answer_sent_nothing(colour: Colour):
    """A connection that is never made shows as such before the attempt times out."""
    for url in full_backlog():
        assert failure_of(colour, colour.transport(url), post(timeout=0.5)).sent is False


def test_a_cancelled_call_closes_its_connection(server: Server):
    """A half-read answer never reaches the next call."""
    transport = HttpTransport(server.url)

    async def main() -> None:
        running = asyncio.create_task(transport.asend(post("/slow")))
        await asyncio.to_thread(server.slow.wait, 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert 200 == (await transport.asend(post())).status

    run_strictly(main)
    assert 2 == server.connections


def test_an_interrupted_call_closes_its_connection(server: Server, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C in the middle of an answer leaves no connection that would give it to the next call."""
    transport = HttpTransport(server.url)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BlockingConnection, "exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.send(post())
    assert 200 == transport.send(post()).status
    transport.close()
    assert 2 == server.connections


# --- TLS ------------------------------------------------------------------------------------------


@colours
def test_certificates_are_verified(colour: Colour, tls_server: Server):
    """A certificate that nobody vouches for ends the call before anything is sent."""
    failure = failure_of(colour, colour.transport(tls_server.url), post())
    assert failure.sent is False
    assert "certificate" in str(failure).lower()
    assert [] == tls_server.requests


@colours
def test_a_certificate_of_ones_own_can_be_trusted(colour: Colour, tls_server: Server):
    """A context says what to trust, and connections are reused over TLS too."""
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    transport = colour.transport(tls_server.url, verify=trusting)
    assert [200, 200] == [response.status for response in colour.send(transport, post(), post())]
    assert 1 == tls_server.connections


@colours
@pytest.mark.parametrize("path", ["/drop", "/half"])
def test_failures_over_tls_are_told_apart_too(colour: Colour, path: str, tls_server: Server):
    """Closing a broken TLS connection brings no error of its own."""
    transport = colour.transport(tls_server.url, verify=ssl.create_default_context(cafile=CERTIFICATE))
    assert failure_of(colour, transport, post(path)).sent is True
    assert 200 == colour.send(transport, post())[0].status


@colours
def test_certificates_of_the_environment_are_used(colour: Colour, tls_server: Server, monkeypatch: pytest.MonkeyPatch):
    """`SSL_CERT_FILE` works as everywhere."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(CERTIFICATE))
    assert 200 == colour.send(colour.transport(tls_server.url), post())[0].status
