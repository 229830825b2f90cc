"""Pairs of authorize and commit a second over HTTP, with the database on disk, beside a bare echo server.

`python -m benchmarks.serve --pairs 10000` starts both servers in processes of their own, one after the other, and asks
them with the same client: the same signed requests over the same keep-alive connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from langchain_vluna._core.config import Settings
from langchain_vluna._core.signing import authorization_header, canonical_string, content_digest, decode_secret, sign
from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.listening import listen, web_server

FEATURE = "openai.gpt-4o"
CUSTOMERS = 20
_LEASE = "lease.00000000-0000-4000-a000-000000000000.0000000000000000"


# --- servers


def serve_gate(listener: socket.socket, path: str) -> None:
    web_server(LocalGate(path)).run(sockets=[listener])


def serve_echo(listener: socket.socket, _: str) -> None:
    config = uvicorn.Config(
        echo, log_config=None, access_log=False, lifespan="off", ws="none", proxy_headers=False, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listener])


async def echo(_: Any, receive: Any, send: Any) -> None:
    """Answer with what was sent, made as long as the gate's own answers are."""
    body = (await receive())["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def process(serve: Callable[[socket.socket, str], None], path: str) -> Iterator[tuple[int, int]]:
    """Serve in a process of its own; yields the port and the process's id."""
    listener = listen("127.0.0.1", 0)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listener, path), daemon=True)
    server.start()
    try:
        yield listener.getsockname()[1], server.pid or 0
    finally:
        server.terminate()
        server.join()
        listener.close()


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- client


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length and self._answer is not None:
            self._buffer = b""
            self._answer.set_result(body if head.startswith(b"HTTP/1.1 200") else b"")

    async def ask(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


@dataclass
class Client:
    settings: Settings
    numbers: Iterator[int]
    took: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._secret = decode_secret(self.settings.service_key_secret.get_secret_value())

    async def work(self, port: int) -> None:
        """Authorize and commit until the numbers are used up."""
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        labels = {"run_id": "01a20452-160a-757c-99da-dd452e598ddb", "model": "gpt-4o", "usage_source": "reported"}
        for number in self.numbers:
            start = time.perf_counter()
            customer = f"customer-{number % CUSTOMERS}"
            asked = {"feature_code": FEATURE, "estimated_quantity_minor": "1200"}
            answer = await connection.ask(self._request("authorize", asked, customer, f"a{number}"))
            lease = json.loads(answer).get("data", {}).get("lease_token", _LEASE)
            meters = [
                {"meter_code": f"{FEATURE}.tokens.input", "quantity_minor": "300"},
                {"meter_code": f"{FEATURE}.tokens.output", "quantity_minor": "45"},
            ]
            usage = {"lease_token": lease, "feature_code": FEATURE, "quantity_minor": "345", "meters": meters}
            done = await connection.ask(self._request("commits", {**usage, "labels": labels}, customer, f"c{number}"))
            if not done:
                message = f"pair {number} was refused"
                raise SystemExit(message)
            self.took.append(time.perf_counter() - start)

    def _request(self, verb: str, body: Any, customer: str, key: str) -> bytes:
        content = json.dumps(body).encode()
        target, digest, kind = f"/mgt/v1/gate/{verb}", content_digest(content), "application/json"
        canonical = canonical_string(
            "v1",
            method="POST",
            target=target,
            ts="2026-01-10T00:00:00+00:00",
            nonce=key,
            content_digest=digest,
            content_type=kind,
            realm_id=self.settings.realm_id,
            principal_id=customer,
            idempotency_key=key,
        )
        signed = authorization_header(
            key_id=self.settings.service_key_id,
            signature=sign(self._secret, canonical),
            ts="2026-01-10T00:00:00+00:00",
            nonce=key,
        )
        return (
            f"POST {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\ncontent-type: {kind}\r\n"
            f"content-digest: {digest}\r\nx-realm-id: {self.settings.realm_id}\r\nx-principal-id: {customer}\r\n"
            f"idempotency-key: {key}\r\nauthorization: {signed}\r\n\r\n"
        ).encode() + content


async def measure(port: int, pid: int, settings: Settings, *, pairs: int, connections: int) -> str:
    """Return what came of it in words, after a tenth as many pairs to warm up."""
    client = Client(settings, iter(range(-(pairs // 10), 0)))
    await asyncio.gather(*(client.work(port) for _ in range(connections)))
    client = Client(settings, iter(range(pairs)))
    start, used = time.perf_counter(), cpu(pid)
    await asyncio.gather(*(client.work(port) for _ in range(connections)))
    speed, each = pairs / (time.perf_counter() - start), (cpu(pid) - used) / pairs
    median, slow = statistics.median(client.took), statistics.quantiles(client.took, n=100)[98]
    return (
        f"{speed:,.0f} pairs/s, {each * 1e6:.0f} µs of the server's CPU each,"
        f" {median * 1e3:.1f} ms in the middle, 99 in 100 within {slow * 1e3:.1f} ms"
    )


def set_up(path: str) -> Settings:
    gate = LocalGate(path)
    for meter, xusd in (("input", 3), ("output", 15)):
        gate.price(FEATURE, f"{FEATURE}.tokens.{meter}", xusd)
    for number in range(CUSTOMERS):
        gate.grant(f"customer-{number}", 2**50)
    gate.close()
    return gate.settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {options}")
    for _ in range(options.rounds):
        for name, serve in (("gate", serve_gate), ("echo", serve_echo)):
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder) / "vluna.db")
                settings = set_up(path)
                with process(serve, path) as (port, pid):
                    run = measure(port, pid, settings, pairs=options.pairs, connections=options.connections)
                    print(f"{name}: {asyncio.run(run)}", flush=True)


if __name__ == "__main__":
    main()
