"""Which gate a command works on: the database of an embedded one, or the service that the environment names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, cast, get_args
from urllib.parse import urlsplit

from langchain_vluna._core.config import RetryPolicy, Settings, Wire
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Transport
from langchain_vluna._core.wire import WireState
from langchain_vluna._io.client import Client
from langchain_vluna._io.local import LocalGate
from langchain_vluna._io.outbox import Outbox
from langchain_vluna._io.transport import HttpTransport
from langchain_vluna.gate import Alarm, Gate
from langchain_vluna.gate.parts import outbox_path

__all__ = ["DEFAULT_DB", "Target", "is_loopback", "opened_ledger", "opened_outbox", "opened_target"]

DEFAULT_DB: Final = Path("vluna.db")


@contextmanager
def opened_ledger(db: Path | None, *, create: bool = False) -> Iterator[LocalGate]:
    """Open the embedded gate's database: the one named, else `vluna.db` here.

    Raises:
        ConfigurationError: There is none, or the environment names another gate and no database was named.
    """
    if db is None and _elsewhere():
        msg = (
            "VLUNA_SERVICE_BASE_URL names a gate on another machine, whose prices, grants and ledger are kept there;"
            " for an embedded gate say which: --db vluna.db"
        )
        raise ConfigurationError(msg)
    path = DEFAULT_DB if db is None else db
    if not create:
        _must_exist(path)
    local = LocalGate(path)
    try:
        yield local
    finally:
        local.close()


@dataclass(frozen=True)
class Target:
    """A gate to ask, with the settings to ask it with."""

    transport: Transport
    settings: Settings
    wire: Wire | WireState
    outbox: str
    """Path of the outbox of programs that use this gate."""
    timeout: float = 10.0

    def client(self, retry: RetryPolicy | None = None) -> Client:
        return Client(self.transport, self.settings, wire=self.wire, timeout=self.timeout, retry=retry)

    def gate(self, outbox: Path, on_alarm: Callable[[Alarm], object]) -> Gate:
        """Wire a gate that settles what is in an outbox."""
        if isinstance(self.transport, LocalGate):
            return Gate(self.transport, outbox=outbox, on_alarm=on_alarm)
        return Gate(self.settings, outbox=outbox, wire=_wire(), timeout=self.timeout, on_alarm=on_alarm)


@contextmanager
def opened_target(db: Path | None) -> Iterator[Target]:
    """Find the gate: the database where one is named, else the environment's service, else `vluna.db` here.

    Raises:
        ConfigurationError: There is none, or its settings are incomplete.
    """
    if db is None and not os.environ.get("VLUNA_SERVICE_BASE_URL") and DEFAULT_DB.exists():
        db = DEFAULT_DB
    if db is not None:
        with opened_ledger(db) as local:
            yield Target(local, local.settings, WireState.per_call(), str(outbox_path(local, local.settings)))
        return
    settings = Settings.from_env()
    transport = HttpTransport(settings.base_url)
    outbox = os.environ.get("VLUNA_OUTBOX") or str(outbox_path(settings, settings))
    try:
        yield Target(transport, settings, _wire(), outbox, _timeout())
    finally:
        transport.close()


@contextmanager
def opened_outbox(db: Path | None, path: Path | None) -> Iterator[Outbox | None]:
    """Open an outbox to look at: the one named, else that of the gate; `None` where there is no such file."""
    if path is None:
        with opened_target(db) as target:
            path = Path(target.outbox)
    if not path.exists():
        yield None
        return
    outbox = Outbox(str(path))
    try:
        yield outbox
    finally:
        outbox.close()


def _timeout() -> float:
    text = os.environ.get("VLUNA_TIMEOUT") or "10"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        msg = f"VLUNA_TIMEOUT={text!r} is no positive number; give seconds, such as 10, or unset it"
        raise ConfigurationError(msg)
    return seconds


def _wire() -> Wire:
    named = os.environ.get("VLUNA_WIRE") or "auto"
    if named not in get_args(Wire):
        msg = f"VLUNA_WIRE={named!r} is no wire generation; set one of {', '.join(get_args(Wire))}, or unset it"
        raise ConfigurationError(msg)
    return cast("Wire", named)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _elsewhere() -> bool:
    host = urlsplit(os.environ.get("VLUNA_SERVICE_BASE_URL", "")).hostname
    return host is not None and not is_loopback(host)


def _must_exist(path: Path) -> None:
    if not path.exists():
        msg = (
            f"there is no database {str(path)!r}; name one with --db, or make one:"
            " langchain-vluna serve, langchain-vluna grant, or Gate.local(path)"
        )
        raise ConfigurationError(msg)
