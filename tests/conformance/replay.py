"""Replays scenario files against a local gate, in the whole grammar of the golden scenarios.

Signs for itself, so that it shares no code with what it tests. `problems` is empty where everything matches.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import Generation, LocalGate
from tests.conformance.match import mismatches

Send = Callable[[HttpRequest], HttpResponse]

OWN_SCENARIOS = Path(__file__).parent / "scenarios"
PREFIX = "/mgt/v1"
PATHS = {
    "authorize": "/gate/authorize",
    "commit": "/gate/commits",
    "batch": "/gate/commits/batch",
    "ingest": "/gate/ingest",
    "cancel": "/gate/cancel",
}
START = 1_767_961_800.25  # 2026-01-09T12:30:00.250Z: far from the edge of any window

_SYMBOL = re.compile(r"\$k[0-9]+")


def load(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))]


def open_gate(scenario: Mapping[str, Any], generation: Generation, *, server_flaws: bool = False) -> LocalGate:
    """Return a gate with the settings of a scenario; its clock moves only when it is told to."""
    settings = scenario.get("setup", {}).get("settings", {})
    return LocalGate(
        auto_registry=settings.get("auto_registry", True),
        lease_ttl=settings.get("lease_ttl_seconds", 43200),
        grace=settings.get("late_commit_grace_ms", 60000) / 1000,
        generation=generation,
        server_flaws=server_flaws,
        clock=lambda: START,
    )


@dataclass
class Replay:
    """One run of one scenario; `send` is the gate itself or HTTP in front of it."""

    scenario: Mapping[str, Any]
    generation: Generation
    gate: LocalGate
    send: Send
    problems: list[str] = field(default_factory=list)
    """What differed, a line each."""
    answers: dict[str, Any] = field(default_factory=dict)
    """Data of the answer of each step."""
    symbols: dict[str, str] = field(default_factory=dict)
    """What `$k1`, `$b1` stand for."""
    seen: set[str] = field(default_factory=set)
    """Every text of any answer so far."""

    def run(self, alternative: Mapping[str, Any] | None = None) -> list[str]:
        """Set up, replay all steps, read the ledger. An alternative replaces expectations of steps, by their id."""
        other = alternative or {}
        self.set_up()
        for step in self.scenario["steps"]:
            changed = other.get("steps", {}).get(step.get("id"))
            self._step({**step, "expect": changed} if changed else step)
        self._ledger(self._mine(other.get("ledger") or self.scenario.get("ledger", {})))
        return self.problems

    # --- setup

    def set_up(self) -> None:
        setup = self.scenario.get("setup", {})
        for family in setup.get("families", ()):
            self.gate.family(family["code"], entitlement_required=family["entitlement_required"])
        for feature in setup.get("features", ()):
            self._set_up_feature(feature)
        for policy in setup.get("policies", ()):
            limit = self.gate.quota if policy["kind"] == "quota" else self.gate.rate
            limit(policy["feature"], policy["limit"], policy["window_sec"])
        fresh = [(who["principal"], self._user(who)) for who in setup.get("fresh", ())]
        for principal, user in _identities(self.scenario):
            if principal and (principal, self._user({"user": user})) not in fresh:
                self.gate.grant(principal, 0, self._user({"user": user}))
        for grant in setup.get("grants", ()):
            self.gate.grant(grant["principal"], grant["amount_xusd"], self._user(grant))
        for budget in setup.get("budgets", ()):
            opened = self.gate.budget(budget["principal"], budget["limit_xusd"], user_id=self._user(budget))
            self.symbols[budget["ref"]] = opened

    def _set_up_feature(self, feature: Mapping[str, Any]) -> None:
        self.gate.feature(
            feature["code"],
            family=feature["family"],
            active=feature.get("active", True),
            entitlement_required=feature.get("entitlement_required"),
        )
        for meter in feature.get("meters", ()):
            self._price(feature["code"], meter["code"], meter)

    def _price(self, feature: str, meter: str, price: Mapping[str, Any]) -> None:
        self.gate.price(
            feature,
            meter,
            price["price_xusd"],
            per=price.get("per_quantity", 1),
            unit=price.get("unit", "token"),
            rounding=price.get("rounding", "nearest"),
            cost_xusd=price.get("cost_xusd", 0),
            residual_mode=price.get("residual_mode"),
        )

    def _user(self, who: Mapping[str, Any]) -> str | None:
        return None if self.generation == "tutorial" else who.get("user")

    # --- steps

    def _step(self, step: Mapping[str, Any]) -> None:
        match step["op"]:
            case "advance_clock":
                self._advance(step)
            case "grant":
                self.gate.grant(step["principal"], step["amount_xusd"], self._user(step))
            case "set_feature":
                required = step.get("entitlement_required")
                self.gate.feature(step["feature"], active=step.get("active"), entitlement_required=required)
            case "set_price":
                self._price(step["feature"], step["meter"], step)
            case _:
                answer = self.send(self.request(step))
                self._compare(step, answer)

    def _advance(self, step: Mapping[str, Any]) -> None:
        if "seconds" in step:
            self.gate.advance(step["seconds"])
        else:
            window = step["to_next_window_sec"]
            self.gate.advance(window - self.gate.now() % window + 0.05)

    def request(self, step: Mapping[str, Any]) -> HttpRequest:
        """Return the signed request of a step, tampered with where the step says so."""
        http = step.get("http", {})
        method = http.get("method", "POST")
        target = PREFIX + (http["path"] if "path" in http else PATHS[step["op"]])
        content = self._content(step).encode()
        headers = {"content-type": "application/json; charset=utf-8", "x-realm-id": self.gate.settings.realm_id}
        if step.get("principal") is not None:
            headers["x-principal-id"] = step["principal"]
        if step.get("user") is not None and self.generation != "tutorial":
            headers["x-user-id"] = step["user"]
        if "key" in step:
            headers["idempotency-key"] = self.fill(step["key"])
        own = "v1" if self.generation == "tutorial" else "v2"
        version = {"v1": "v2", "v2": "v1"}[own] if http.get("sign_as") == "other" else own
        stale = http.get("tamper") == "stale_timestamp_resigned"
        ts, nonce = ("2016-01-01T00:00:00+00:00", "fixed-nonce") if stale else (str(self.gate.now()), uuid.uuid4().hex)
        self._sign(version, (method, target), headers, content, (ts, nonce))
        content = _tamper(http.get("tamper"), headers, content)
        headers |= http.get("headers", {})
        sent = {name: value for name, value in headers.items() if name not in http.get("omit", ())}
        return HttpRequest(method=method, target=target, headers=sent, content=content, timeout=30)

    def _content(self, step: Mapping[str, Any]) -> str:
        if "raw_body" in step:
            return str(step["raw_body"])
        return json.dumps(self.fill(step["body"]), ensure_ascii=False) if "body" in step else ""

    def _sign(
        self, version: str, line: tuple[str, str], headers: dict[str, str], content: bytes, stamp: tuple[str, str]
    ) -> None:
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        headers["content-digest"] = f"sha-256=:{digest}:"
        names = {
            "v1": ("x-billing-account-id", "x-principal-id", "idempotency-key"),
            "v2": ("x-principal-id", "x-user-id", "x-billing-account-id", "x-billing-user-id", "idempotency-key"),
        }[version]
        signed = ("content-digest", "content-type", "x-realm-id", *names)
        ts, nonce = stamp
        lines = [*line, f"ts:{ts}", f"nonce:{nonce}", *(f"{name}:{headers.get(name, '')}" for name in signed)]
        secret = base64.b64decode(self.gate.settings.service_key_secret.get_secret_value())
        mac = base64.b64encode(hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).digest()).decode()
        key_id = self.gate.settings.service_key_id
        headers["authorization"] = f"SVC-AUTH keyId={key_id},sig={mac},ts={ts},nonce={nonce},alg=HMAC-SHA256"

    def fill(self, value: Any) -> Any:
        """Put in what symbols stand for: keys, budgets, and fields of earlier answers."""
        if isinstance(value, Mapping):
            return {name: self.fill(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        if value in self.symbols:
            return self.symbols[value]
        if re.match(r"\$s[0-9]+\.", value):
            return self._earlier(value)
        return _SYMBOL.sub(lambda found: self.symbols.setdefault(found[0], str(uuid.uuid4())), value)

    def _earlier(self, reference: str) -> Any:
        reference, _, change = reference.partition("|")
        step, *path = reference.removeprefix("$").split(".")
        value = self.answers[step]
        for name in path:
            value = value[int(name)] if isinstance(value, list) else value[name]
        return value.rpartition(".")[0] + "." + "0" * 16 if change == "wrong_tail" else value

    # --- expectations

    def _mine(self, expected: Mapping[str, Any]) -> Mapping[str, Any]:
        chosen: Mapping[str, Any] = expected.get("by_generation", {}).get(self.generation, expected)
        return chosen

    def _compare(self, step: Mapping[str, Any], answer: HttpResponse) -> None:
        where, expect = step["id"], self._mine(step["expect"])
        body = json.loads(answer.content)
        self.answers[where] = body.get("data")
        for name, got in (("status", answer.status), ("ok", body.get("ok")), ("code", body.get("code"))):
            self._same(f"{where}.{name}", expect.get(name, got), got)
        if "message" in expect:
            message = str(body.get("message"))
            known = {"idempotency conflict": "idempotency_conflict"}
            self._same(f"{where}.message", known.get(expect["message"], expect["message"]), known.get(message, message))
        if "data" in expect:
            self.problems += mismatches(f"{where}.data", self.fill(expect["data"]), body.get("data"))
        for name in expect.get("new", ()):
            value = (body.get("data") or {}).get(name)
            if not value or value in self.seen:
                self.problems.append(f"{where}.data.{name}: expected a new value, got {value!r}")
        if "hints" in expect:
            hints = body.get("hints", [])
            self.problems += mismatches(f"{where}.hints", self.fill(expect["hints"]), hints, any_order=True)
        self.seen.update(_texts(body.get("data")))

    def _same(self, where: str, expected: object, got: object) -> None:
        if expected != got:
            self.problems.append(f"{where}: expected {expected!r}, got {got!r}")

    # --- ledger

    def _ledger(self, expected: Mapping[str, Any]) -> None:
        if "usage" in expected:
            rows = {self._row(row): self._usage_fields(row) for row in expected["usage"]}
            self._same("ledger.usage", rows, self._usage())
        for account in expected.get("accounts", ()):
            self._account(account)
        held = {budget.budget_id: budget for budget in self.gate.budgets()}
        for row in expected.get("budgets", ()):
            budget = held[self.symbols[row["ref"]]]
            shown = {"limit_xusd": str(budget.limit_xusd), "consumed_xusd": str(budget.consumed_xusd)}
            self.problems += mismatches(f"ledger.budgets.{row['ref']}", {k: row[k] for k in row if k != "ref"}, shown)
        for row in expected.get("quota_used", ()):
            used = self.gate.quota_used(row["feature"], row["principal"], self._user(row))
            self._same(f"ledger.quota_used.{row['feature']}", row["used_minor"], str(used.get(row["window_sec"], 0)))
        stored = {rating.commit_id: dict(rating.labels) for rating in self.gate.ratings()}
        for row in expected.get("labels", ()):
            commit_id = self.answers[row["step"]]["commit_id"]
            self._same(f"ledger.labels.{row['step']}", row["labels"], stored[commit_id])

    def _row(self, row: Mapping[str, Any]) -> tuple[str, str | None, str]:
        return row["principal"], self._user(row), row["feature"]

    @staticmethod
    def _usage_fields(row: Mapping[str, Any]) -> dict[str, int]:
        names = ("applied", "quantity_minor", "charged_xusd", "quarantined", "ingested")
        return {name: int(row[name]) for name in names}

    def _usage(self) -> dict[tuple[str, str | None, str], dict[str, int]]:
        usage: dict[tuple[str, str | None, str], dict[str, int]] = {}
        for rating in self.gate.ratings():
            empty = {"applied": 0, "quantity_minor": 0, "charged_xusd": 0, "quarantined": 0, "ingested": 0}
            row = usage.setdefault((rating.principal_id, rating.user_id, rating.feature_code), empty)
            if rating.status == "quarantined":
                row["quarantined"] += 1
                continue
            row["ingested" if rating.source == "ingest" else "applied"] += 1
            row["quantity_minor"] += rating.quantity
            row["charged_xusd"] += rating.amount_xusd
        return usage

    def _account(self, row: Mapping[str, Any]) -> None:
        user = self._user(row)
        where = f"ledger.accounts.{row['principal']}"
        own = [lease for lease in self.gate.leases() if (lease.principal_id, lease.user_id) == (row["principal"], user)]
        counts = {state: sum(lease.state == state for lease in own) for state in ("active", "closed", "canceled")}
        self._same(f"{where}.leases", row.get("leases", counts), counts)
        available = str(self.gate.balance(row["principal"], user))
        self._same(f"{where}.available_xusd", row.get("available_xusd", available), available)


def _tamper(how: str | None, headers: dict[str, str], content: bytes) -> bytes:
    """Spoil a signed request."""
    if how == "signature":
        head, tail = headers["authorization"].split("sig=")
        headers["authorization"] = f"{head}sig={'B' if tail[0] == 'A' else 'A'}{tail[1:]}"
    elif how == "digest":
        other = base64.b64encode(hashlib.sha256(content + b"other").digest()).decode()
        headers["content-digest"] = f"sha-256=:{other}:"
    elif how == "body":
        return content + b" "
    elif how == "authorization_format":
        headers["authorization"] = "SVC-AUTH nothing"
    elif how == "key_id":
        headers["authorization"] = re.sub(r"keyId=[^,]+", "keyId=pk-nobody", headers["authorization"])
    return content


def _identities(scenario: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield everybody a scenario names."""
    setup = scenario.get("setup", {})
    for who in (*scenario["steps"], *setup.get("grants", ()), *setup.get("budgets", ())):
        if "principal" in who:
            yield who["principal"], who.get("user")


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
