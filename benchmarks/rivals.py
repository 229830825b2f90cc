"""What gating is measured against: bare round trips, the official SDK driven by hand, Cycles' middleware.

The two packages are installed once into a folder of the user's cache, without their dependencies, which this
project has already; they come last on the path.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import socket
import subprocess
import sys
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from benchmarks.subjects import SECRET, Subject

__all__ = ["REQUIREMENTS", "AioHttp", "Cycles", "HttpClient", "OfficialSdk", "RawSocket", "install"]

REQUIREMENTS = ("vlunaai==0.3.2", "langchain-runcycles==0.4.0", "runcycles==0.5.3")

_QUESTION = json.dumps({"feature_code": "bench.cheap-1", "estimated_quantity_minor": "6"}).encode()
_HEADERS = {
    "accept": "application/json",
    "content-type": "application/json; charset=utf-8",
    "authorization": "SVC-AUTH keyId=key-bench,sig=lR50iV+dSmvX0veFL/TV8mZNAAFRziwm4wpXN3BFJKA=,"
    "ts=2026-11-22T10:00:00.123456+00:00,nonce=00112233445566778899aabbccddeeff,alg=HMAC-SHA256",
    "content-digest": "sha-256=:lafdfj2caOHo2uUPhJoVjqZg9+IoDKZKIF/5JDCRYYA=:",
    "x-realm-id": "realm-bench",
    "x-principal-id": "customer-0",
    "idempotency-key": "0123456789abcdef0123456789abcdef-a",
}
_PATH = "/mgt/v1/gate/authorize"


def install() -> None:
    """Make the packages of `REQUIREMENTS` importable, installing them on first use."""
    folder = platformdirs.user_cache_path("langchain-vluna") / f"rivals-{'-'.join(REQUIREMENTS)}"
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.draft")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(draft)]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        draft.rename(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


class RawSocket(Subject):
    """One authorize over a socket that stays open, written and read in one piece each."""

    def __init__(self, url: str) -> None:
        host = urlsplit(url).netloc
        head = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, **_HEADERS}.items())
        self._request = f"POST {_PATH} HTTP/1.1\r\n{head}content-length: {len(_QUESTION)}\r\n\r\n".encode() + _QUESTION
        self._address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._socket = socket.create_connection(self._address)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def run(self) -> None:
        self._socket.sendall(self._request)
        if not self._socket.recv(65536).startswith(b"HTTP/1.1 200"):
            raise RuntimeError

    async def arun(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(self._request)
        if not (await reader.read(65536)).startswith(b"HTTP/1.1 200"):
            raise RuntimeError

    async def aclose(self) -> None:
        if self._streams is not None:
            self._streams[1].close()

    def close(self) -> None:
        self._socket.close()


class HttpClient(Subject):
    """One authorize over the standard library's client."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def run(self) -> None:
        self._connection.request("POST", _PATH, body=_QUESTION, headers=_HEADERS)
        json.loads(self._connection.getresponse().read())

    def close(self) -> None:
        self._connection.close()


class AioHttp(Subject):
    """One authorize over aiohttp."""

    def __init__(self, url: str) -> None:
        self._url = url + _PATH
        self._session: Any = None

    async def arun(self) -> None:
        if self._session is None:
            aiohttp = import_module("aiohttp")
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.post(self._url, data=_QUESTION, headers=_HEADERS) as response:
            json.loads(await response.read())

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class OfficialSdk(Subject):
    """Authorize, then commit what the model used, by hand. The SDK has no blocking form."""

    def __init__(self, url: str) -> None:
        install()
        self._sdk: Any = import_module("vlunaai")
        self._client = self._sdk.create_service_client(
            self._sdk.ServiceClientOptions(
                config=self._sdk.VlunaAIConfig(base_url=f"{url}/mgt/v1", realm_id="realm-bench"),
                service_key=self._sdk.ServiceKeyCredentials(key_id="key-bench", secret=SECRET),
                error_mode="raise",
            )
        )

    async def arun(self) -> None:
        run_id = secrets.token_hex(16)
        question = {"feature_code": "bench.cheap-1", "estimated_quantity_minor": "6"}
        answer = await self._client.gate_authorize(body=question, context=self._context(f"{run_id}-a"))
        usage = {
            "lease": answer.data.lease,
            "feature_code": "bench.cheap-1",
            "quantity_minor": "49",
            "meters": [
                {"meter_code": "bench.cheap-1.tokens.input", "quantity_minor": "40"},
                {"meter_code": "bench.cheap-1.tokens.output", "quantity_minor": "9"},
            ],
            "labels": {"run_id": run_id, "root_run_id": run_id, "model": "cheap-1", "usage_source": "reported"},
        }
        await self._client.gate_commit(body=usage, context=self._context(f"{run_id}-c"))

    def _context(self, key: str) -> Any:
        return self._sdk.RequestContext(principal_id="customer-0", user_id="user-0", idempotency_key=key)

    async def aclose(self) -> None:
        await self._client.close()


class Cycles(Subject):
    """`langchain-runcycles` around a model call that costs nothing: reserve, then commit."""

    def __init__(self, url: str) -> None:
        install()
        cycles: Any = import_module("runcycles")
        middleware: Any = import_module("langchain_runcycles")
        answer = import_module("langchain.agents.middleware").ModelResponse(result=[])
        config = cycles.CyclesConfig(base_url=url, api_key="key-bench")
        choices = {
            "subject": cycles.Subject(tenant="customer-0"),
            "action": cycles.Action(kind="llm.completion", name="bench.cheap-1"),
            "mode": "reserve",
            "estimate": cycles.Amount(unit=cycles.Unit.TOKENS, amount=49),
        }
        self._client, self._aclient = cycles.CyclesClient(config), cycles.AsyncCyclesClient(config)
        self._gate = middleware.CyclesModelGate(self._client, **choices)
        self._agate = middleware.CyclesModelGate(self._aclient, **choices)
        self._answer = answer

    def run(self) -> None:
        self._gate.wrap_model_call(None, lambda _: self._answer)

    async def arun(self) -> None:
        await self._agate.awrap_model_call(None, self._model)

    async def _model(self, _: object) -> Any:
        return self._answer

    async def aclose(self) -> None:
        await self._aclient.aclose()

    def close(self) -> None:
        self._client.close()
