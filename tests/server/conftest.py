"""A served gate, and a plain way to ask its page's API."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.listening import serving

NOON = 1_767_268_800.0
"""2026-01-01T12:00:00Z."""


@dataclass
class Page:
    host: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Return status, content (parsed where it is JSON) and headers; hyphens in header names are underscores."""
        connection = http.client.HTTPConnection(self.host, timeout=10)
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(
                method, path, content, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            raw = response.read()
        finally:
            connection.close()
        return response.status, json.loads(raw) if "json" in answered.get("content-type", "") else raw, answered

    def get(self, path: str) -> Any:
        status, answer, _ = self.ask("GET", f"/ui/api/{path}")
        assert 200 == status, answer
        return answer

    def change(self, what: str, body: Any = None, method: str = "POST") -> tuple[int, Any]:
        return self.ask(method, f"/ui/api/{what}", body, x_vluna_page="1")[:2]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[LocalGate]:
    gate = LocalGate(tmp_path / "gate.db", clock=lambda: NOON)
    yield gate
    gate.close()


@pytest.fixture
def page(gate: LocalGate) -> Iterator[Page]:
    with serving(gate) as url:
        yield Page(urlsplit(url).netloc)
