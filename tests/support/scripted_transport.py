"""A transport that answers from a script and remembers what it was sent, in both colours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse

__all__ = ["Answer", "ScriptedTransport", "answer", "mismatch", "refusal"]

Answer = HttpResponse | TransportFailure | Callable[[HttpRequest], HttpResponse]
"""A response, a failure to raise, or what makes a response of the request."""


def answer(
    data: Any,
    *,
    status: int = 200,
    code: str = "OK",
    hints: Iterable[dict[str, Any]] = (),
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    """Return a success in the gate's envelope."""
    body = {"ok": True, "code": code, "data": data} | ({"hints": list(hints)} if hints else {})
    return HttpResponse(status, headers or {}, json.dumps(body).encode())


def refusal(
    status: int,
    code: str | None = None,
    message: str | None = None,
    *,
    hints: Iterable[dict[str, Any]] = (),
    headers: dict[str, str] | None = None,
    **more: Any,
) -> HttpResponse:
    """Return a refusal in the gate's envelope."""
    body: dict[str, Any] = {"ok": False, "code": code, "message": message, "meta": {"status": status}, **more}
    if hints:
        body["hints"] = list(hints)
    return HttpResponse(status, headers or {}, json.dumps(body).encode())


def mismatch() -> HttpResponse:
    """Return what a gate answers to a signature of the wrong generation, or of the wrong secret."""
    return refusal(401, "AUTH.INVALID_SERVICE_SIGNATURE", "Signature mismatch")


class ScriptedTransport:
    """Plays `script` from its start; a request beyond its end is an error of the test."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.requests: list[HttpRequest] = []

    def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        if not self.script:
            msg = f"nothing scripted for request {len(self.requests)}: {request!r}"
            raise AssertionError(msg)
        step = self.script.pop(0)
        if isinstance(step, TransportFailure):
            raise step
        return step if isinstance(step, HttpResponse) else step(request)

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return self.send(request)

    def close(self) -> None:
        self.script.clear()

    async def aclose(self) -> None:
        self.close()

    @property
    def bodies(self) -> list[Any]:
        """What was sent, decoded."""
        return [json.loads(request.content) for request in self.requests]
