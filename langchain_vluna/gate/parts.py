"""The parts of a gate, chosen and checked."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vluna._core.config import RetryPolicy, Settings, Wire
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Transport
from langchain_vluna._core.wire import WireState
from langchain_vluna._io.client import Client
from langchain_vluna._io.outbox import Durability, Outbox
from langchain_vluna._io.relay import RelayTimes
from langchain_vluna.gate.alarm import Alarm
from langchain_vluna.gate.engine import Engine
from langchain_vluna.gate.hints import OnHint
from langchain_vluna.gate.policy import OnOrphan, OnUnavailable, RunPolicy, Settle, choose, is_number

if TYPE_CHECKING:
    from langchain_vluna._io.local import LocalGate

__all__ = ["assemble", "outbox_path"]


def assemble(
    target: Settings | LocalGate | Transport,
    *,
    wire: Wire,
    outbox: str | os.PathLike[str] | None,
    settle: Settle,
    on_unavailable: OnUnavailable,
    on_orphan: OnOrphan,
    orphan_after: float,
    durability: Durability,
    deny_memo: float,
    max_unsettled: int,
    timeout: float,
    retry: RetryPolicy | None,
    relay: RelayTimes | None,
    on_hint: OnHint,
    on_alarm: Callable[[Alarm], object] | None,
) -> tuple[Engine, Transport, LocalGate | None]:
    """Return the engine of a gate, its transport, and the embedded gate where it is one; see `Gate` for the words.

    Raises:
        ConfigurationError: A value is not one that the gate takes.
    """
    choose("durability", durability, Durability)
    _check_seconds(deny_memo=deny_memo, timeout=timeout)
    _check_kinds(target, outbox=outbox, retry=retry, relay=relay, on_alarm=on_alarm)
    policy = RunPolicy(
        on_unavailable=on_unavailable,
        on_orphan=on_orphan,
        orphan_after=orphan_after,
        settle=settle,
        max_unsettled=max_unsettled,
    )
    local_gate = _embedded(target)
    settings = _settings(target)
    transport = _transport(target)
    takes_all = wire == "auto" and local_gate is not None and local_gate.generation is None
    state = WireState.per_call() if takes_all else WireState(wire)
    engine = Engine(
        Client(transport, settings, wire=state, timeout=timeout, retry=retry),
        Outbox(str(outbox_path(target, settings) if outbox is None else outbox), durability=durability),
        policy=policy,
        times=relay or RelayTimes(),
        deny_memo=deny_memo,
        revision=lambda: getattr(target, "revision", 0),
        on_hint=on_hint,
        on_alarm=on_alarm,
    )
    return engine, transport, local_gate


def outbox_path(target: Settings | Transport, settings: Settings) -> str | Path:
    """Return where a gate keeps its outbox unless it is told otherwise."""
    local_gate = _embedded(target)
    if local_gate is not None:
        return local_gate.path if local_gate.path == ":memory:" else f"{local_gate.path}.outbox"
    if not isinstance(target, Settings):
        return ":memory:"
    import platformdirs

    address = f"{settings.realm_id}\n{settings.base_url}".encode()
    name = f"{hashlib.sha256(address).hexdigest()[:16]}.outbox"
    return platformdirs.user_state_path("langchain-vluna") / name


def _embedded(target: object) -> LocalGate | None:
    # Whoever has a local gate has imported its module; nobody else needs the ledger.
    module = sys.modules.get("langchain_vluna._io.local")
    return target if module is not None and isinstance(target, module.LocalGate) else None


def _transport(target: Settings | Transport) -> Transport:
    if not isinstance(target, Settings):
        return target
    from langchain_vluna._io.transport import HttpTransport

    return HttpTransport(target.base_url)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "outbox": ((str, os.PathLike), "a path or ':memory:'"),
    "retry": ((RetryPolicy,), "a RetryPolicy"),
    "relay": ((RelayTimes,), "RelayTimes"),
    "on_alarm": ((Callable,), "a callable"),  # type: ignore[dict-item]  # an abstract class, as far as mypy knows
}


def _check_seconds(**given: object) -> None:
    for name, value in given.items():
        if not is_number(value) or not value >= 0:
            msg = f"{name} must be a number of seconds, 0 or more, got {value!r}"
            raise ConfigurationError(msg)


def _check_kinds(target: object, **given: object) -> None:
    if not isinstance(target, Settings) and not all(hasattr(target, name) for name in ("send", "asend")):
        msg = f"a gate's target must be Settings, a LocalGate or a Transport (or use Gate.from_env()), got {target!r}"
        raise ConfigurationError(msg)
    for name, value in given.items():
        kinds, wanted = _KINDS[name]
        if value is not None and not isinstance(value, kinds):
            msg = f"{name} must be {wanted}, got {value!r}"
            raise ConfigurationError(msg)


def _settings(target: Settings | Transport) -> Settings:
    if isinstance(target, Settings):
        return target
    settings = getattr(target, "settings", None)
    return settings if isinstance(settings, Settings) else Settings.from_env()
