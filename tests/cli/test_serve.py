"""`serve` and `fault`: the embedded gate over HTTP, as another process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna import Gate, GateRejected, GateUnavailable, LocalGate, RetryPolicy, Settings
from langchain_vluna.server.listening import serving
from tests.support.bad_days import BAD_DAYS, BadDay, impatient, old_lease, set_up, symptom

KEY = "b3VyLW93bi1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcw=="


@contextmanager
def served(folder: Path, *args: str, **environ: str) -> Iterator[dict[str, Any]]:
    """Run `serve` until the end of the block; yields what it announced."""
    command = [sys.executable, "-m", "langchain_vluna", "serve", "--port", "0", "--json", *args]
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = ""
            assert process.stdout is not None
            for line in process.stdout:
                lines += line
                if line == "}\n":
                    break
            assert lines, process.communicate()
            announced = json.loads(lines)
            yield announced
            process.send_signal(signal.SIGINT)
            announced["out"], announced["err"] = process.communicate(timeout=20)
            announced["code"] = process.returncode
        finally:
            process.kill()


def client(announced: dict[str, Any], secret: str | None = None, **settings: Any) -> Gate:
    told = announced["environment"]
    known = Settings.from_env({**told, "VLUNA_SERVICE_KEY_SECRET": secret or told["VLUNA_SERVICE_KEY_SECRET"]})
    return Gate(known, outbox=":memory:", **settings)


def test_a_gate_for_other_processes(tmp_path: Path):
    """What is announced is what a client needs, and what it is charged is in the database."""
    local = LocalGate(tmp_path / "my.db")
    local.price("f", "f", 3)
    local.grant("acme", 100)
    with served(tmp_path, "--db", "my.db") as announced:
        assert announced["page"] == announced["url"].removesuffix("mgt/v1")
        with client(announced) as gate:
            gate.commit(gate.authorize(feature_code="f", principal_id="acme"), quantity=7)
    assert 0 == announced["code"]
    assert "stopped" in announced["err"]
    assert 79 == local.balance("acme")


def test_faults_from_the_start(tmp_path: Path):
    """A fault given at the start hits as many calls as it says."""
    once = RetryPolicy(attempts=1)
    with served(tmp_path, "--fault", "status_500:authorize:1") as announced, client(announced, retry=once) as gate:
        with pytest.raises(GateUnavailable):
            gate.authorize(feature_code="f", principal_id="acme")
        gate.authorize(feature_code="f", principal_id="acme")


def test_a_key_of_ones_own(tmp_path: Path):
    """With a key in the environment only that key is accepted, and its secret is not printed."""
    environ = {"VLUNA_SERVICE_KEY_ID": "mine", "VLUNA_SERVICE_KEY_SECRET": KEY, "VLUNA_REALM_ID": "my-realm"}
    with served(tmp_path, "--host", "0.0.0.0", "--allow-remote", **environ) as announced:  # noqa: S104 -- its subject
        told = announced["environment"]
        assert ("mine", "my-realm") == (told["VLUNA_SERVICE_KEY_ID"], told["VLUNA_REALM_ID"])
        assert told["VLUNA_SERVICE_BASE_URL"].startswith("http://127.0.0.1:")
        with client(announced, secret=KEY) as gate:
            gate.authorize(feature_code="f", principal_id="acme")
        with client(announced, secret="YW5vdGhlcg==") as gate, pytest.raises(GateRejected):
            gate.authorize(feature_code="f", principal_id="acme")
    assert KEY not in json.dumps(announced)


def test_lines_to_paste(run, monkeypatch: pytest.MonkeyPatch):
    """The four lines are shell, and the development secret is in them."""
    ran: list[object] = []

    class Server:
        def run(self, sockets: list[socket.socket]) -> None:
            ran.append(sockets)

    monkeypatch.setattr("langchain_vluna.server.listening.web_server", lambda gate: Server())
    lines = run("serve", "--port", "0").out.splitlines()
    assert 4 == sum(line.startswith("export VLUNA_") for line in lines)
    assert "export VLUNA_REALM_ID=realm-local" in lines
    assert lines[-1].startswith("serving vluna.db at http://127.0.0.1:")
    assert 1 == len(ran)


@pytest.mark.parametrize(
    ("args", "environ", "words"),
    [
        (("--host", "0.0.0.0"), {}, "can be reached from other machines; add --allow-remote"),  # noqa: S104 -- its subject
        (("--host", "::"), {}, "add --allow-remote"),
        (("--host", "192.0.2.1"), {"VLUNA_SERVICE_KEY_ID": "k", "VLUNA_SERVICE_KEY_SECRET": KEY}, "add --allow-remote"),
        (("--host", "0.0.0.0", "--allow-remote"), {}, "needs a service key of your own"),  # noqa: S104 -- its subject
        (
            ("--host", "example.org", "--allow-remote"),
            {"VLUNA_SERVICE_KEY_ID": "k", "VLUNA_SERVICE_KEY_SECRET": "c2hvcnQ="},
            "has fewer than 16 bytes",
        ),
        (
            ("--host", "0.0.0.0", "--allow-remote"),  # noqa: S104 -- its subject
            {
                "VLUNA_SERVICE_KEY_ID": "k",
                "VLUNA_SERVICE_KEY_SECRET": LocalGate().settings.service_key_secret.get_secret_value(),
            },
            "everybody knows the development key",
        ),
        ((), {"VLUNA_SERVICE_KEY_ID": "k"}, "set both VLUNA_SERVICE_KEY_ID and VLUNA_SERVICE_KEY_SECRET"),
        ((), {"VLUNA_SERVICE_KEY_ID": "k", "VLUNA_SERVICE_KEY_SECRET": "not base64"}, "base64"),
        (("--generation", "newest"), {}, "generation 'newest' is not known; use tutorial, user, lease"),
        (("--fault", "drop_answer:commit:often"), {}, "--fault 'drop_answer:commit:often' is not KIND:VERB"),
        (("--fault", "meteor:commit"), {}, "fault('meteor'"),
    ],
)
def test_refusals(run, monkeypatch: pytest.MonkeyPatch, args, environ: dict[str, str], words: str):
    """What would be dangerous or impossible is refused before anything listens."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("langchain_vluna.server.listening.listen", lambda *_: pytest.fail("it listens"))
    done = run("serve", "--port", "0", *args, code=2)
    assert words in done.err
    assert KEY not in done.err


def test_a_port_that_is_taken(run):
    """A port that is taken is named, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("serve", "--port", str(port), code=2)
    assert f"cannot listen on 127.0.0.1:{port}" in done.err
    assert "another port" in done.err


def test_faults_of_a_running_gate(run, local: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """Faults are armed, shown and taken away while the gate runs."""
    with serving(local) as url:
        monkeypatch.setenv("VLUNA_SERVICE_BASE_URL", url)
        assert "nothing to show" in run("fault").out
        (armed,) = run("fault", "drop_answer", "--on", "commit", "--times", "3", "--json").json["faults"]
        assert ("drop_answer", "commit", 3) == (armed["kind"], armed["on"], armed["remaining"])
        run("fault", "delay", "--seconds", "0.5")
        run("fault", "outage")
        assert ["drop_answer", "delay", "reset"] == [fault.kind for fault in local.faults]
        assert "drop_answer" in run("fault").out
        assert [] == run("fault", "none", "--json").json["faults"]
    assert [] == local.faults


@pytest.mark.parametrize("day", BAD_DAYS, ids=str)
def test_bad_days_of_a_running_gate(run, local: LocalGate, day: BadDay):
    """Each kind of bad day is met by the next call, and over when that is said."""
    set_up(local)
    with serving(local) as url, impatient(local, url) as gate:
        lease = old_lease(gate)
        on = ("--on", "authorize") if day.on is not None else ()
        seconds = () if day.seconds is None else ("--seconds", day.seconds)
        shown = run("fault", day.command, *on, *seconds, "--server", url).out
        assert ("s ahead" if day.command == "skew" else "" if day.command == "expire" else day.kind) in shown
        assert day.symptom == symptom(gate, local, lease)
        run("fault", "none", "--server", url)
        run("fault", "skew", "--seconds", -local.ahead, "--server", url)
        assert "well" == symptom(gate, local, old_lease(gate))


def test_faults_need_a_running_gate(run, local: LocalGate, monkeypatch: pytest.MonkeyPatch):
    """Nobody there, somebody else there, and a skew without length are each said."""
    assert "start one with langchain-vluna serve" in run("fault", "--server", "http://127.0.0.1:9", code=4).err
    with serving(local) as url:
        monkeypatch.setenv("VLUNA_SERVICE_BASE_URL", url)
        assert "a skew needs its length" in run("fault", "skew", code=2).err
        assert "seconds: Input should be greater" in run("fault", "delay", "--seconds", "-1", code=2).err


def test_a_gate_without_a_page(run, local: LocalGate):
    """A gate that `serve` does not run cannot be broken on demand, and that is said."""

    class Other:
        settings, send, asend = local.settings, local.send, local.asend

        def close(self) -> None:
            """Nothing to close."""

        async def aclose(self) -> None:
            """Nothing to close."""

    with serving(Other()) as url:
        assert "it is no gate that langchain-vluna serve runs" in run("fault", "--server", url, code=2).err
