"""A local gate on a loopback port, for tests that need HTTP. Knows nothing of pytest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from langchain_vluna._core.types import Transport
from langchain_vluna.server import create_app


@contextmanager
def serve(local_gate: Transport) -> Iterator[str]:
    """Serve in a thread of its own; yields the base URL, prefix included.

    `local_gate.settings.model_copy(update={"base_url": url})` are the settings of a client.
    """
    # asyncio switches Nagle's algorithm off for what says that it is TCP, and only then.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(local_gate), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="gate-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/mgt/v1"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
