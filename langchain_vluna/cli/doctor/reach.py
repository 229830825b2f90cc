"""Whether the gate can be reached: name, connection, certificate, HTTP, and the clock it shows."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.types import HttpRequest, HttpResponse, Transport
from langchain_vluna.cli.doctor.findings import Finding, failed, fine, skipped, warned

__all__ = ["reach"]

_TIMEOUT = 5.0
_SKEW_OK = 5
_SKEW_BAD = 60
_OK = 200
_SOON = 14
_ADDRESS = "check VLUNA_SERVICE_BASE_URL"


def reach(base_url: str, transport: Transport, now: Callable[[], float]) -> Iterator[Finding]:
    """Find out how far a request gets; ends with the first failure."""
    parts = urlsplit(base_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    for finding in (_name(host, port), _connection(host, port, secure=secure, now=now)):
        yield finding
        if finding.status == "failed":
            return
    request = HttpRequest("GET", "/health", {}, b"", timeout=_TIMEOUT)
    try:
        # The first one opens the connection; only the second shows how long an answer takes.
        transport.send(request)
        before = now()
        answer = transport.send(request)
    except TransportFailure as failure:
        yield failed("http", f"no answer to GET /health: {failure}", f"{_ADDRESS}, and that a gate runs there")
        return
    after = now()
    yield _health(answer, after - before)
    yield _clock(answer, (before + after) / 2)


def _name(host: str, port: int) -> Finding:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return failed("dns", f"{host!r} has no address: {error}", f"{_ADDRESS}, and the name server of this machine")
    return fine("dns", f"{host} is {', '.join(dict.fromkeys(str(address[4][0]) for address in found))}")


def _connection(host: str, port: int, *, secure: bool, now: Callable[[], float]) -> Finding:
    check = "tls" if secure else "connection"
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT) as plain:
            if not secure:
                return fine(check, f"{host}:{port} accepts connections, without encryption")
            with _trust().wrap_socket(plain, server_hostname=host) as encrypted:
                return _certificate(check, encrypted, now())
    except ssl.SSLError as error:
        fix = "let SSL_CERT_FILE name the certificate authority, or mend the certificate of the gate"
        return failed(check, f"{host}:{port} is not trusted: {error}", fix)
    except OSError as error:
        return failed(check, f"{host}:{port} does not accept connections: {error}", f"{_ADDRESS}, firewalls and VPN")


def _trust() -> ssl.SSLContext:
    """Trust what the transport trusts."""
    import certifi

    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())


def _certificate(check: str, connection: ssl.SSLSocket, now: float) -> Finding:
    version, shown = connection.version(), connection.getpeercert() or {}
    expiry = shown.get("notAfter")
    if not isinstance(expiry, str):
        return fine(check, f"{version}")
    days = (ssl.cert_time_to_seconds(expiry) - now) / 86_400
    detail = f"{version}, certificate valid for {days:.0f} days"
    return fine(check, detail) if days > _SOON else warned(check, detail, "renew the certificate of the gate")


def _health(answer: HttpResponse, took: float) -> Finding:
    if answer.status == _OK:
        return fine("http", f"GET /health answers 200 in {took * 1000:.0f} ms")
    return warned("http", f"GET /health answers {answer.status}", f"{_ADDRESS}: a gate answers 200 there, unsigned")


def _clock(answer: HttpResponse, now: float) -> Finding:
    shown = answer.headers.get("date")
    try:
        theirs = parsedate_to_datetime(shown or "").astimezone(UTC).timestamp()
    except ValueError:
        return skipped("clock", "the gate does not tell its time")
    # Dates of HTTP are cut to seconds: on average, half a second is missing.
    skew = now - theirs - 0.5
    detail = f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the gate"
    if abs(skew) <= _SKEW_OK:
        return fine("clock", f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC, as the gate's")
    fix = "set the clock of this machine, best by NTP: requests are signed with the time"
    return failed("clock", detail, fix) if abs(skew) > _SKEW_BAD else warned("clock", detail, fix)
