"""A loopback server of OpenAI's and Anthropic's HTTP APIs whose answers are scripted and whose calls are counted.

    with LLMStub() as stub:
        stub.script("one", Answer(text="", tool_calls=(("add", {"a": 2, "b": 3}),)), Answer(status=500))
        model = ChatOpenAI(model="gpt-4o", base_url=stub.openai_base_url, api_key="made-up")

Answers are given in the order of calls, whichever API is called; after the last one comes the default answer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support import llm_wire
from tests.support.llm_wire import Answer, Event, Json, Tokens

__all__ = ["Answer", "LLMStub", "Tokens"]

Whole = Callable[[Answer, Json], Json]
Streamed = Callable[[Answer, Json], Iterator[Event]]

_ROUTES: dict[str, tuple[Whole, Streamed | None]] = {
    "/v1/chat/completions": (llm_wire.chat_body, llm_wire.chat_events),
    "/v1/completions": (llm_wire.completion_body, llm_wire.completion_events),
    "/v1/responses": (llm_wire.responses_body, llm_wire.responses_events),
    "/v1/embeddings": (llm_wire.embeddings_body, None),
    "/v1/messages": (llm_wire.messages_body, llm_wire.messages_events),
}


class LLMStub:
    """The server; a context manager. One instance serves any number of clients at once."""

    def __init__(self, *answers: Answer | str, keep_alive: bool = False) -> None:
        self.keep_alive = keep_alive
        """Off, because async clients that outlive an event loop stumble over connections of the old one."""
        self.default = Answer()
        self._answers: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.requests: list[tuple[str, Json]] = []
        """Path and body of every call, in order."""
        self.disconnects = 0
        """Streams whose client went away before their end."""
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="llm-stub", daemon=True
        )
        self.script(*answers)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def openai_base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        return self.url

    @property
    def calls(self) -> int:
        """Calls of any API, failed ones and retries included."""
        return len(self.requests)

    @property
    def calls_by_path(self) -> Counter[str]:
        return Counter(path for path, _ in self.requests)

    def script(self, *answers: Answer | str) -> None:
        """Queue answers; a plain string is an answer with that text and 100 + 20 tokens."""
        with self._lock:
            self._answers.extend(Answer(text=a) if isinstance(a, str) else a for a in answers)

    def release(self) -> None:
        """Let held answers go on, these and all later ones."""
        self._released.set()

    def hold(self) -> None:
        """Hold at `hold_after` again, after a `release`."""
        self._released.clear()

    def wait(self) -> None:
        """Block until `release`."""
        self._released.wait()

    def answer_to(self, path: str, body: Json) -> Answer:
        """Count a call and take its answer from the script."""
        with self._lock:
            self.requests.append((path, body))
            return self._answers.popleft() if self._answers else self.default


class _Server(ThreadingHTTPServer):
    """Ends with no thread and no socket left: connections kept alive are shut, then threads joined."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, stub: LLMStub) -> None:
        self.stub = stub
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take a client that resets its connection for what it is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        stub = self.server.stub
        path = self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path not in _ROUTES:
            self._send(404, llm_wire.error_body(404))
            return
        self.close_connection = self.close_connection or not stub.keep_alive
        answer = stub.answer_to(path, body)
        whole, streamed = _ROUTES[path]
        if answer.status != HTTPStatus.OK:
            self._send(answer.status, llm_wire.error_body(answer.status))
        elif body.get("stream") and streamed is not None:
            self._stream(answer, streamed(answer, body))
        else:
            if answer.hold_after == 0:
                stub.wait()
            self._send(200, whole(answer, body))

    def end_headers(self) -> None:
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Keep test output clean."""

    def _send(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self._write(content)

    def _stream(self, answer: Answer, events: Iterator[Event]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, (name, data) in enumerate(events):
            if number == answer.cut_after:
                self.close_connection = True  # without the last chunk: to the client a broken answer
                return
            if number == answer.hold_after:
                self.server.stub.wait()
            text = data if isinstance(data, str) else json.dumps(data)
            event = (f"event: {name}\n" if name else "") + f"data: {text}\n\n"
            if not self._write(f"{len(event.encode()):x}\r\n{event}\r\n".encode()):
                return
        self._write(b"0\r\n\r\n")

    def _write(self, content: bytes) -> bool:
        try:
            self.wfile.write(content)
            self.wfile.flush()
        except OSError:  # the client went away, which is what some tests are about
            self.server.stub.disconnects += 1
            self.close_connection = True
            return False
        return True
