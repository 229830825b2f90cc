"""`serve`: the embedded gate over HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import SecretStr

from langchain_vluna._core.config import Settings
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.signing import decode_secret
from langchain_vluna._io.local import DEVELOPMENT, FaultKind, Generation, LocalGate
from langchain_vluna.cli.opening import DEFAULT_DB, is_loopback
from langchain_vluna.cli.options import Json
from langchain_vluna.cli.output import console, emit

__all__ = ["serve"]

_PREFIX = "/mgt/v1"
_SHORTEST_SECRET = 16
_FAULT = "KIND:VERB[:TIMES[:SECONDS]]"


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 3002,
    db: Annotated[
        Path, typer.Option("--db", envvar="VLUNA_DB", help="Database; made where there is none.", dir_okay=False)
    ] = DEFAULT_DB,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen beyond this machine; needs a service key of your own.")
    ] = False,
    generation: Annotated[
        str | None,
        typer.Option(
            "--generation",
            metavar="NAME",
            help="Serve tutorial, user or lease only; all by default.",
            show_default=False,
        ),
    ] = None,
    faults: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar=_FAULT, help="Let calls go wrong: drop_answer:commit:3. Can be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve an embedded gate over HTTP, for any language."""
    from langchain_vluna.server.listening import base_url, listen, web_server

    key = _own_key()
    if not is_loopback(host):
        _check_remote(host, key, allowed=allow_remote)
    local = LocalGate(db, settings=key, generation=_generation(generation))
    try:
        for fault in faults or ():
            _arm(local, fault)
        server = web_server(local)
        listener = listen(host, port)
        try:
            _announce(local, base_url(listener), db, as_json=as_json)
            # uvicorn takes the signals while it runs, and gives them back when it has shut down.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:
                console(stderr=True).print("stopped")
        finally:
            listener.close()
    finally:
        local.close()


def _own_key() -> Settings | None:
    """Return the realm and key of the environment, where it has them."""
    names = ("VLUNA_REALM_ID", "VLUNA_SERVICE_KEY_ID", "VLUNA_SERVICE_KEY_SECRET")
    realm, key_id, secret = (os.environ.get(name) for name in names)
    if key_id is None and secret is None:
        return None
    if not (key_id and secret):
        msg = "set both VLUNA_SERVICE_KEY_ID and VLUNA_SERVICE_KEY_SECRET to serve with a key of your own, or neither"
        raise ConfigurationError(msg)
    decode_secret(secret)
    return Settings(
        base_url=DEVELOPMENT.base_url,
        realm_id=realm or DEVELOPMENT.realm_id,
        service_key_id=key_id,
        service_key_secret=SecretStr(secret),
    )


def _check_remote(host: str, key: Settings | None, *, allowed: bool) -> None:
    if not allowed:
        msg = f"{host!r} can be reached from other machines; add --allow-remote if that is meant, or use 127.0.0.1"
        raise ConfigurationError(msg)
    secret = None if key is None else key.service_key_secret.get_secret_value()
    if secret is None or secret == DEVELOPMENT.service_key_secret.get_secret_value():
        msg = (
            "--allow-remote needs a service key of your own, since everybody knows the development key: set"
            " VLUNA_SERVICE_KEY_ID, and VLUNA_SERVICE_KEY_SECRET to what `openssl rand -base64 32` prints"
        )
        raise ConfigurationError(msg)
    if len(decode_secret(secret)) < _SHORTEST_SECRET:
        msg = f"VLUNA_SERVICE_KEY_SECRET has fewer than {_SHORTEST_SECRET} bytes; use `openssl rand -base64 32`"
        raise ConfigurationError(msg)


def _generation(name: str | None) -> Generation | None:
    if name is not None and name not in get_args(Generation):
        msg = f"generation {name!r} is not known; use {', '.join(get_args(Generation))}, or leave it out for all"
        raise ConfigurationError(msg)
    return name  # type: ignore[return-value]  # one of the literals, as just seen


def _arm(local: LocalGate, text: str) -> None:
    kind, _, rest = text.partition(":")
    verb, _, rest = rest.partition(":")
    times, _, length = rest.partition(":")
    try:
        local.fault(kind, verb or "*", int(times or 1), seconds=float(length) if length else None)  # type: ignore[arg-type]  # checked there
    except ValueError as error:
        msg = (
            f"--fault {text!r} is not {_FAULT}, such as delay:authorize:5:0.2 (kinds: {', '.join(get_args(FaultKind))})"
        )
        raise ConfigurationError(msg) from error


def _announce(local: LocalGate, url: str, db: Path, *, as_json: bool) -> None:
    environment = _environment(local.settings, url)
    lines = [f"export {name}={value}" for name, value in environment.items()]
    page = url.removesuffix(_PREFIX) + "/"
    data = {"url": url, "page": page, "db": str(db), "environment": environment}
    emit(data, lambda: "\n".join([*lines, "", f"serving {db} at {page} (Ctrl-C stops)"]), as_json=as_json)


def _environment(settings: Settings, url: str) -> Mapping[str, str]:
    """Return what a client sets. The development key is no secret; a key of one's own is never printed."""
    known = settings.service_key_secret == DEVELOPMENT.service_key_secret
    secret = settings.service_key_secret.get_secret_value() if known else "<the secret this server was started with>"
    return {
        "VLUNA_SERVICE_BASE_URL": url,
        "VLUNA_REALM_ID": settings.realm_id,
        "VLUNA_SERVICE_KEY_ID": settings.service_key_id,
        "VLUNA_SERVICE_KEY_SECRET": secret,
    }
