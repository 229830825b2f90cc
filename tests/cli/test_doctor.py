"""The doctor finds each thing that can be wrong, and says what to do about it."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna import Gate, LocalGate, Settings
from langchain_vluna._core.types import HttpRequest, HttpResponse, Identity
from langchain_vluna._io.client import Client
from langchain_vluna._io.local import Generation
from langchain_vluna._io.transport import HttpTransport
from langchain_vluna.cli.doctor.asking import Question, ask
from langchain_vluna.cli.doctor.reach import reach
from langchain_vluna.cli.doctor.storage import examine_outbox
from langchain_vluna.server.listening import serving

CERTIFICATE = Path(__file__).resolve().parent.parent / "io" / "tls" / "localhost.pem"
FEATURE = "openai.gpt5"


def environment(monkeypatch: pytest.MonkeyPatch, settings: Settings, url: str, **changes: str) -> None:
    values = {
        "VLUNA_SERVICE_BASE_URL": url,
        "VLUNA_REALM_ID": settings.realm_id,
        "VLUNA_SERVICE_KEY_ID": settings.service_key_id,
        "VLUNA_SERVICE_KEY_SECRET": settings.service_key_secret.get_secret_value(),
        **changes,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def found(done: Any) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in done.json}


@contextmanager
def odd_server(*, status: int = 200, date: str | None = None, tls: bool = False) -> Iterator[str]:
    """Something that is no gate: it answers every GET alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/mgt/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reached(url: str, now: float | None = None) -> dict[str, Any]:
    transport = HttpTransport(url)
    try:
        return {one.check: one for one in reach(url, transport, time.time if now is None else lambda: now)}
    finally:
        transport.close()


def test_all_is_well(run, local: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """With everything in place each check is fine, and no lease stays open."""
    with serving(local) as url:
        environment(monkeypatch, local.settings, url)
        done = run("doctor", "--principal", "acme", "--feature", FEATURE, "--json")
        text = run("doctor", "--principal", "acme", "--feature", FEATURE)
    checks = found(done)
    assert {"ok"} == {one["status"] for one in checks.values()}, text
    assert {"settings", "dns", "connection", "http", "clock", "signature", "customer", "generation", "outbox"} <= set(
        checks
    )
    assert "tutorial" == checks["generation"]["detail"]
    assert "all is well" in text.out
    assert {"canceled"} == {lease.state for lease in local.leases()}


@pytest.mark.parametrize(("generation", "user"), [("user", "u1"), ("lease", "u1"), ("tutorial", None)])
def test_generations_are_told(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: Generation, user: str | None
):
    """The doctor says which generation a gate speaks."""
    local = LocalGate(generation=generation)
    local.grant("acme", 100)
    local.price("f", "f", 1)
    who = ("--principal", "acme", *(() if user is None else ("--user", user)))
    with serving(local) as url:
        environment(monkeypatch, local.settings, url)
        checks = found(run("doctor", *who, "--feature", "f", "--meters", "none", "--json"))
    assert generation == checks["generation"]["detail"]


def test_dry_runs_take_no_lease(run, monkeypatch: pytest.MonkeyPatch):
    """Where the generation is known to have dry runs, no lease is asked for."""
    local = LocalGate(generation="lease")
    local.grant("acme", 100, "u1")
    local.price("f", "f", 1)
    with serving(local) as url:
        environment(monkeypatch, local.settings, url, VLUNA_WIRE="lease")
        run("doctor", "--principal", "acme", "--user", "u1", "--feature", "f", "--meters", "none")
    assert (0, 1) == (local.requests["authorize"], local.requests["preflight"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"VLUNA_REALM_ID": ""}, "not set in the environment: VLUNA_REALM_ID"),
        ({"VLUNA_SERVICE_BASE_URL": "gate.example"}, "VLUNA_SERVICE_BASE_URL: "),
        ({"VLUNA_SERVICE_KEY_SECRET": "not base64!"}, "base64"),
        ({"VLUNA_WIRE": "newest"}, "VLUNA_WIRE='newest' is no wire generation; set one of auto, tutorial"),
        ({"VLUNA_TIMEOUT": "soon"}, "VLUNA_TIMEOUT='soon' is no positive number"),
    ],
)
def test_settings_that_are_wrong(run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str):
    """A setting that is missing or impossible is named, and nothing else is tried."""
    environment(monkeypatch, LocalGate().settings, "http://127.0.0.1:9/mgt/v1", **changes)
    (check,) = run("doctor", "--json", code=1).json
    assert ("settings", "failed") == (check["check"], check["status"])
    assert words in check["detail"]
    assert "not base64!" not in check["detail"]


def test_nobody_listens(run, monkeypatch: pytest.MonkeyPatch):
    """A closed port is a failed connection; what rests on it is not tried, the outbox is looked at all the same."""
    environment(monkeypatch, LocalGate().settings, "http://127.0.0.1:9/mgt/v1")
    checks = found(run("doctor", "--principal", "acme", "--feature", FEATURE, "--json", code=1))
    assert ["ok", "ok", "failed", "skipped", "ok"] == [one["status"] for one in checks.values()]
    assert "VLUNA_SERVICE_BASE_URL" in checks["connection"]["fix"]


def test_a_name_without_address(monkeypatch: pytest.MonkeyPatch):
    """A host that cannot be found is a failed name."""

    def nothing(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    (check,) = reached("https://no.such.gate/mgt/v1").values()
    assert ("dns", "failed") == (check.check, check.status)
    assert "'no.such.gate' has no address" in check.detail


def test_a_certificate_that_nobody_trusts(monkeypatch: pytest.MonkeyPatch):
    """An unknown certificate fails until SSL_CERT_FILE names its authority."""
    with odd_server(tls=True) as url:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        refused = reached(url)
        assert "failed" == refused["tls"].status
        assert "SSL_CERT_FILE" in (refused["tls"].fix or "")
        assert "http" not in refused
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        trusted = reached(url)
        assert "ok" == trusted["tls"].status
        assert "certificate valid for" in trusted["tls"].detail
        assert "ok" == trusted["http"].status
        late = reached(url, now=ssl.cert_time_to_seconds("Oct 20 16:41:50 2126 GMT"))
        assert "renew the certificate" in (late["tls"].fix or "")


@pytest.mark.parametrize(
    ("skew", "status"), [(0, "ok"), (-3, "ok"), (20, "warning"), (-20, "warning"), (3600, "failed")]
)
def test_the_clock(skew: float, status: str):
    """A clock that differs from the gate's is a warning, or a failure where signatures would suffer."""
    with odd_server(date=formatdate(1_800_000_000, usegmt=True)) as url:
        check = reached(url, now=1_800_000_000.5 + skew)["clock"]
    assert status == check.status
    assert status == "ok" or ("ahead of" if skew > 0 else "behind") in check.detail


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_gate_without_a_clock(date: str | None):
    """Where the gate does not tell its time, the clock is not judged."""
    with odd_server(date=date) as url:
        assert "skipped" == reached(url)["clock"].status


def test_something_that_is_no_gate(run, monkeypatch: pytest.MonkeyPatch):
    """A server that is no gate is a warning at its health, and a failure when it is asked."""
    with odd_server(status=404) as url:
        environment(monkeypatch, LocalGate().settings, url)
        checks = found(run("doctor", "--principal", "acme", "--json", code=1))
    assert "warning" == checks["http"]["status"]
    assert "GET /health answers 404" in checks["http"]["detail"]


def test_a_connection_without_answer():
    """Something that accepts and says nothing useful is a failed request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(4):
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        check = reached(f"http://127.0.0.1:{listener.getsockname()[1]}/mgt/v1")["http"]
    assert "failed" == check.status
    assert "no answer to GET /health" in check.detail


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"VLUNA_SERVICE_KEY_SECRET": "YW5vdGhlcg=="}, "VLUNA_SERVICE_KEY_SECRET"),
        ({"VLUNA_SERVICE_KEY_ID": "key-other"}, "check VLUNA_SERVICE_KEY_ID"),
        ({"VLUNA_REALM_ID": "realm-other"}, "check VLUNA_REALM_ID"),
    ],
)
def test_credentials_that_are_wrong(run, local: LocalGate, monkeypatch: pytest.MonkeyPatch, changes, words: str):
    """A refused signature names the setting to mend, and shows no secret."""
    with serving(local) as url:
        environment(monkeypatch, local.settings, url, **changes)
        done = run("doctor", "--principal", "acme", "--feature", FEATURE, "--json", code=1)
    check = found(done)["signature"]
    assert "failed" == check["status"]
    assert words in check["detail"]
    assert "YW5vdGhlcg==" not in done.out
    assert "feature openai.gpt5" not in found(done)


def test_a_user_is_missing(run, monkeypatch: pytest.MonkeyPatch):
    """A gate that bills users says so, and the fix names the option."""
    local = LocalGate(generation="user")
    with serving(local) as url:
        environment(monkeypatch, local.settings, url, VLUNA_WIRE="user")
        checks = found(run("doctor", "--principal", "acme", "--json", code=1))
        environment(monkeypatch, local.settings, url, VLUNA_WIRE="auto")
        guessed = found(run("doctor", "--principal", "acme", "--json", code=1))
    assert "user_id is missing for principal 'acme'" in checks["customer"]["detail"]
    assert "--user" in checks["customer"]["fix"]
    assert "--user" in guessed["signature"]["fix"]


def test_a_customer_without_money(run, local: LocalGate):
    """A denial names its reason, and for an embedded gate the command that helps."""
    checks = found(run("doctor", "--principal", "poor", "--feature", FEATURE, "--json", code=1))
    assert "denied (funding)" in checks[f"feature {FEATURE}"]["detail"]
    assert "langchain-vluna grant poor 10usd" == checks[f"feature {FEATURE}"]["fix"]


@pytest.mark.parametrize(
    ("arrange", "reason", "fix"),
    [
        (lambda gate: gate.rate(FEATURE, 0, 60), "rate", "langchain-vluna rate"),
        (lambda gate: gate.quota(FEATURE, 0, 60), "quota", "langchain-vluna quota"),
        (lambda gate: gate.entitle(FEATURE), "entitlement", "LocalGate"),
    ],
)
def test_other_denials(run, local: LocalGate, arrange, reason: str, fix: str):
    """Rate, quota and entitlement are told apart."""
    arrange(local)
    check = found(run("doctor", "--principal", "acme", "--feature", FEATURE, "--json", code=1))[f"feature {FEATURE}"]
    assert f"denied ({reason})" in check["detail"]
    assert fix in check["fix"]


def test_an_inactive_feature(run, local: LocalGate):
    """A feature that the gate refuses is a failure with the gate's words."""
    local.feature(FEATURE, active=False)
    check = found(run("doctor", "--principal", "acme", "--feature", FEATURE, "--json", code=1))[f"feature {FEATURE}"]
    assert "feature inactive" in check["detail"]


def test_hints_are_warnings(run, local: LocalGate):
    """What the gate warns of while it admits is passed on."""
    local.rate(FEATURE, 2, 86_400)
    check = found(run("doctor", "--principal", "acme", "--feature", FEATURE, "--json"))[f"feature {FEATURE}"]
    assert ("warning", "admitted, with rate.limit") == (check["status"], check["detail"])


def test_prices_of_each_meter(run, local: LocalGate):
    """Each meter that a handler would send needs a price; a missing one comes with the command that sets it."""
    args = ("doctor", "--principal", "acme", "--feature", FEATURE, "--feature", "tool.search", "--meters")
    checks = found(run(*args, "detailed", "--json", code=1))
    assert "ok" == checks[f"price of {FEATURE}.tokens.input"]["status"]
    missing = checks[f"price of {FEATURE}.tokens.reasoning"]
    assert "is not known to the gate" in missing["detail"]
    assert f"langchain-vluna price {FEATURE} 1 --meter {FEATURE}.tokens.reasoning" == missing["fix"]
    assert "is known, but has no price" in checks["price of tool.search"]["detail"]
    local.price("tool.search", "tool.search", 5, unit="call")
    run(*args, "input_output")
    assert f"price of {FEATURE}" in found(run(*args, "none", "--json"))


def test_unpriced_meters_of_a_service(run, monkeypatch: pytest.MonkeyPatch):
    """With a service the fix is not a command of ours."""
    local = LocalGate()
    local.grant("acme", 5)
    with serving(local) as url:
        environment(monkeypatch, local.settings, url)
        check = found(run("doctor", "--principal", "acme", "--feature", "f", "--meters", "none", "--json", code=1))
    assert "at the gate" in check["price of f"]["fix"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (HttpResponse(404, {}, b'{"ok":false,"code":"RESOURCE.NOT_FOUND","message":"no"}'), "skipped"),
        (HttpResponse(200, {}, b'{"ok":true,"data":{"count":0}}'), "skipped"),
        (HttpResponse(200, {}, b'{"ok":true,"data":{"items":[{"meter_code":"f","pricing":{}},7]}}'), "ok"),
        (HttpResponse(200, {}, b'{"ok":true,"data":[{"meter_code":"f","pricing":null}]}'), "failed"),
    ],
)
def test_gates_that_list_their_meters_otherwise(local: LocalGate, answer: HttpResponse, status: str):
    """Without a list of meters prices are not judged; a list in an envelope is read."""

    class Other:
        settings = local.settings

        def send(self, request: HttpRequest) -> HttpResponse:
            return answer if request.target.endswith("/gate/meters") else local.send(request)

        async def asend(self, request: HttpRequest) -> HttpResponse:
            return self.send(request)

        def close(self) -> None:
            """Nothing to close."""

        async def aclose(self) -> None:
            """Nothing to close."""

    local.price("f", "f", 1)
    client = Client(Other(), local.settings, wire="tutorial")
    question = Question(Identity("acme"), ["f"], None, authorize=True, local=False)
    checks = {one.check: one for one in ask(client, question)}
    assert status == checks["price of f"].status


def test_a_folder_that_is_not_there(tmp_path: Path):
    """An outbox whose folder is still to be made is judged by the folder above."""
    assert "ok" == examine_outbox(str(tmp_path / "a" / "b" / "outbox"), time.time).status


def test_an_outbox_that_cannot_be_written(run, local: LocalGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A read-only outbox is a failure."""
    with Gate(local, outbox=tmp_path / "vluna.db.outbox") as gate:
        with gate.run(feature_code=FEATURE, principal_id="acme") as work:
            work.record(1)
        gate.flush()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "cannot be written" in found(run("doctor", "--json", code=1))["outbox"]["detail"]


def test_leaving_out_the_lease(run, local: LocalGate):
    """With --no-authorize no lease is taken; prices are looked at all the same."""
    args = ("--principal", "acme", "--feature", FEATURE, "--no-authorize", "--json")
    checks = found(run("doctor", *args))
    assert "skipped" == checks[f"feature {FEATURE}"]["status"]
    assert "ok" == checks[f"price of {FEATURE}.tokens.output"]["status"]
    assert [] == local.leases()


def test_asking_less(run, local: LocalGate):
    """Without a customer nobody is asked, and without features no lease is taken; both are said."""
    assert "name a customer: --principal" in run("doctor").out
    assert "name what you use: --feature" in run("doctor", "--principal", "acme").out
    assert [] == local.leases()


@pytest.mark.parametrize(
    ("args", "words"),
    [(("--meters", "all"), "--meters 'all' is not known"), (("--feature", "no such feature"), "no such feature")],
)
def test_questions_that_make_no_sense(run, local: LocalGate, args, words: str):
    """An option with an impossible value is refused before anything is asked."""
    assert words in run("doctor", "--principal", "acme", *args, code=2).err


def test_an_outbox_that_fills(run, local: LocalGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows that wait for long are a warning, dead ones a failure, each with the command that helps."""
    clock = time.time
    with Gate(local, outbox=tmp_path / "vluna.db.outbox", timeout=0.2) as gate:
        with gate.run(feature_code=FEATURE, principal_id="acme") as work:
            work.record(1)
        gate.flush()
        assert "0 rows wait, 0 are refused" in found(run("doctor", "--json"))["outbox"]["detail"]
        with local.fault("reset", on="commit", times=99), local.fault("reset", on="batch", times=99):
            with gate.run(feature_code=FEATURE, principal_id="acme") as work:
                work.record(1)
            monkeypatch.setattr(time, "time", lambda: clock() + 3600)
            late = found(run("doctor", "--json"))["outbox"]
            monkeypatch.setattr(time, "time", clock)
            assert ("warning", "langchain-vluna outbox flush") == (late["status"], late["fix"])
            local.feature(FEATURE, active=False)
        gate.flush()
        dead = found(run("doctor", "--json", code=1))["outbox"]
        assert "1 are refused for good" in dead["detail"]
        assert "outbox retry" in dead["fix"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files are POSIX's")
def test_an_outbox_that_others_can_read(run, local: LocalGate, tmp_path: Path):
    """An outbox that others can read is a warning with the command that closes it."""
    with Gate(local, outbox=tmp_path / "vluna.db.outbox") as gate:
        with gate.run(feature_code=FEATURE, principal_id="acme") as work:
            work.record(1)
        gate.flush()
    (tmp_path / "vluna.db.outbox").chmod(0o644)
    check = found(run("doctor", "--json"))["outbox"]
    assert ("warning", "chmod 600 vluna.db.outbox") == (check["status"], check["fix"])


def test_an_outbox_that_is_none(run, local: LocalGate, tmp_path: Path):
    """A file that is no outbox is a failure that names it."""
    (tmp_path / "vluna.db.outbox").write_text("a shopping list, and nothing that SQLite would know")
    assert "vluna.db.outbox" in found(run("doctor", "--json", code=1))["outbox"]["detail"]


def test_an_outbox_without_a_place(run, local: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """A folder that cannot be written is found before the first run needs it."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    check = found(run("doctor", "--json", code=1))["outbox"]
    assert "is not writable" in check["detail"]
    assert "VLUNA_OUTBOX" in check["fix"]
