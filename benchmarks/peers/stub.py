"""A loopback server that keeps what it is sent, and answers as the back ends of the peers do."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

__all__ = ["BackEnd"]


class BackEnd:
    """Says yes to everything; `posts` are paths and bodies in order."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Any]] = []
        self._serial = count(1)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                outer.posts.append((self.path, body))
                self._answer(outer.answer(self.path, body))

            def do_GET(self) -> None:
                self._answer({})

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

            def _answer(self, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str, body: Any) -> Any:
        """Answer in the form of Cycles; nobody else reads the answer."""
        if path == "/v1/reservations":
            return {
                "decision": "ALLOW",
                "reservation_id": f"rsv_{next(self._serial)}",
                "affected_scopes": ["tenant:bench"],
                "expires_at_ms": 4102444800000,
                "remaining_ttl_ms": 60000,
                "scope_path": "tenant:bench",
                "reserved": body.get("estimate"),
            }
        if path.endswith("/release"):
            return {"status": "RELEASED", "released": {"unit": "TOKENS", "amount": 0}}
        return {"status": "COMMITTED", "charged": body.get("actual")}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
