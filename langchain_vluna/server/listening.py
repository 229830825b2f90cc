"""A port for the application, and a thread or a process that serves it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Transport
from langchain_vluna.server.app import create_app

if TYPE_CHECKING:
    import uvicorn

__all__ = ["base_url", "listen", "serving", "web_server"]


def listen(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any that is free.

    Raises:
        ConfigurationError: The address cannot be taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio switches Nagle's algorithm off for what says that it is TCP, and only then.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _not_taken(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise _not_taken(host, port, error) from error
    return listener


def base_url(listener: socket.socket) -> str:
    """Return what a client on this machine puts into `VLUNA_SERVICE_BASE_URL`."""
    host, port, *_ = listener.getsockname()
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- the address a client dials instead
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/mgt/v1"


def web_server(local_gate: Transport) -> uvicorn.Server:
    """Put the application into a server that has yet to run.

    Raises:
        ConfigurationError: The extra `server` is not installed.
    """
    app = create_app(local_gate)
    try:
        import uvicorn
    except ImportError as error:
        msg = "the HTTP server needs the extra `server`: pip install 'langchain-vluna[server]'"
        raise ConfigurationError(msg) from error

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.close_streams()
            await super().shutdown(sockets)

    # Whose request it is decides about the page, so a header may not say it.
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
        )
    )


@contextmanager
def serving(local_gate: Transport, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread inside the block; yields the base URL, prefix included."""
    server = web_server(local_gate)
    listener = listen(host, port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="vluna-server", daemon=True)
    thread.start()
    try:
        yield base_url(listener)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _not_taken(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {host}:{port}: {error}; stop what listens there, or choose another port (0: any free one)"
    )
