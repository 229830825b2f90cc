"""Turns what a client sent to a local gate into a scenario, so that it can be replayed like the golden ones.

    gate = RecordingGate()
    ...                                     # set it up, run the client against it
    assert [] == replay_problems(gate)

Answers that never arrived and answers 5xx are left out: the client's next attempt of the same request is there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import Generation, LocalGate
from tests.conformance.replay import PATHS, PREFIX, Replay, open_gate

Exchange = tuple[HttpRequest, HttpResponse]

_OPS = {path: op for op, path in PATHS.items()}
_HANDLES = ("lease_token", "lease")
_STABLE = {
    "authorize": ("feature_code", "feature_family_code", "budget_id"),
    "commit": ("amount_xusd", "cost_xusd", "budget_id"),
    "ingest": ("amount_xusd", "cost_xusd", "budget_id"),
    "cancel": ("cancelled", "released_cap"),
    "batch": ("committed_count", "failed_count"),
}
_LINE = ("meter_code", "quantity_minor", "unit_price_xusd", "amount_xusd")
_VOLATILE = ("seconds", "until", "expires_at", "delta_ms")


class RecordingGate(LocalGate):
    """A local gate that remembers its set-up and every exchange."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.options = options
        self.setup: dict[str, list[dict[str, Any]]] = {"features": [], "grants": [], "policies": [], "budgets": []}
        self.log: list[Exchange | dict[str, Any]] = []
        self._logging = threading.Lock()
        super().__init__(*args, **options)

    @property
    def exchanges(self) -> list[Exchange]:
        return [entry for entry in self.log if isinstance(entry, tuple)]

    def send(self, request: HttpRequest) -> HttpResponse:
        return self._logged(request, super().send(request))

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return self._logged(request, await super().asend(request))

    def _logged(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        with self._logging:
            self.log.append((request, response))
        return response

    def price(self, feature_code: str, meter_code: str, xusd: int | None, *args: Any, **options: Any) -> None:
        super().price(feature_code, meter_code, xusd, *args, **options)
        given = dict(zip(("per", "unit", "rounding"), args, strict=False)) | options
        price = {
            "price_xusd": xusd,
            "per_quantity": given.get("per", 1),
            "rounding": given.get("rounding", "nearest"),
            "unit": given.get("unit", "token"),
        }
        if self.log:
            self.log.append({"op": "set_price", "feature": feature_code, "meter": meter_code, **price})
            return
        feature = self._feature_setup(feature_code)
        feature["meters"].append({"code": meter_code, **price})

    def _feature_setup(self, code: str) -> dict[str, Any]:
        for feature in self.setup["features"]:
            if feature["code"] == code:
                return feature
        feature = {"code": code, "family": "auto.registry", "active": True, "meters": []}
        self.setup["features"].append(feature)
        return feature

    def feature(self, feature_code: str, **options: Any) -> None:
        super().feature(feature_code, **options)
        changes = {name: value for name, value in options.items() if value is not None}
        if self.log:
            self.log.append({"op": "set_feature", "feature": feature_code, **changes})
        else:
            self._feature_setup(feature_code).update(changes)

    def grant(self, principal_id: str, xusd: int, user_id: str | None = None) -> None:
        super().grant(principal_id, xusd, user_id)
        grant = {"principal": principal_id, "user": user_id, "amount_xusd": xusd}
        if self.log:
            self.log.append({"op": "grant", **grant})
        else:
            self.setup["grants"].append(grant)

    def quota(self, feature_code: str, limit: int | None, window_sec: int) -> None:
        super().quota(feature_code, limit, window_sec)
        self._policy_setup(feature_code, "quota", limit, window_sec)

    def rate(self, feature_code: str, limit: int | None, window_sec: int) -> None:
        super().rate(feature_code, limit, window_sec)
        self._policy_setup(feature_code, "rate", limit, window_sec)

    def _policy_setup(self, feature: str, kind: str, limit: int | None, window_sec: int) -> None:
        policy = {"feature": feature, "kind": kind, "limit": limit, "window_sec": window_sec}
        self.setup["policies"].append(policy)

    def budget(self, principal_id: str, xusd: int, *, user_id: str | None = None, name: str | None = None) -> str:
        budget_id = super().budget(principal_id, xusd, user_id=user_id, name=name)
        ref = f"$b{len(self.setup['budgets']) + 1}"
        budget = {"ref": ref, "principal": principal_id, "user": user_id, "limit_xusd": xusd, "id": budget_id}
        self.setup["budgets"].append(budget)
        return budget_id


def replay_problems(gate: RecordingGate) -> list[str]:
    """Replay on a fresh gate what one recorded; return what came out differently."""
    generation = _generation(gate.exchanges)
    scenario = scenario_of(gate, generation)
    fresh = open_gate(scenario, generation)
    return Replay(scenario, generation, fresh, fresh.send).run()


def scenario_of(gate: RecordingGate, generation: Generation) -> dict[str, Any]:
    """Return a scenario in the grammar of the golden ones."""
    options = gate.options
    settings = {
        "auto_registry": options.get("auto_registry", True),
        "lease_ttl_seconds": options.get("lease_ttl", 43200),
        "late_commit_grace_ms": options.get("grace", 60) * 1000,
    }
    budgets = {budget["id"]: budget["ref"] for budget in gate.setup["budgets"]}
    return {
        "format": 1,
        "name": "recorded",
        "generation": [generation],
        "setup": {"settings": settings, **gate.setup},
        "steps": steps_of(gate.log, budgets),
    }


def steps_of(
    log: Iterable[Exchange | dict[str, Any]], budgets: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return steps for exchanges; other entries are steps already. Budgets map ids to their symbols."""
    names = _Names(dict(budgets or {}))
    steps: list[dict[str, Any]] = []
    for entry in log:
        if not isinstance(entry, tuple):
            steps.append(entry)
        elif entry[1].status < 500:
            steps.append(names.step(f"s{len(steps) + 1}", *entry))
    return steps


class _Names:
    """What the values of one recording are called in its scenario."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known
        self._keys: dict[str, str] = {}

    def step(self, step_id: str, request: HttpRequest, response: HttpResponse) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.target.removeprefix(PREFIX)
        op = _OPS.get(path, "raw") if request.method == "POST" else "raw"
        step: dict[str, Any] = {"id": step_id, "op": op}
        if op == "raw":
            step["http"] = {"method": request.method, "path": path}
        step |= {"principal": headers.get("x-principal-id"), "user": headers.get("x-user-id")}
        if "idempotency-key" in headers:
            step["key"] = self._key(headers["idempotency-key"])
        if request.content:
            step["body"] = self._named(json.loads(request.content))
        return {**step, "expect": self._expect(step_id, op, response)}

    def _key(self, key: str) -> str:
        return self._keys.setdefault(key, f"$k{len(self._keys) + 1}")

    def _named(self, value: Any, field: str = "") -> Any:
        if isinstance(value, Mapping):
            return {name: self._named(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self._named(item) for item in value]
        if field == "idempotency_key":
            return self._key(value)
        return self._known.get(value, value) if isinstance(value, str) else value

    def _expect(self, step_id: str, op: str, response: HttpResponse) -> dict[str, Any]:
        body = json.loads(response.content)
        expect = {"status": response.status, **{name: body[name] for name in ("ok", "code", "message") if name in body}}
        hints = [{k: v for k, v in hint.items() if k not in _VOLATILE} for hint in body.get("hints", ())]
        expect["hints"] = self._named(hints)
        data = body.get("data")
        if op == "raw" or not isinstance(data, Mapping):
            return expect
        expect["data"] = self._named({name: data[name] for name in _STABLE[op] if name in data})
        if "lines" in data:
            expect["data"]["lines"] = [{name: line[name] for name in _LINE if name in line} for line in data["lines"]]
        if op == "batch":
            expect["data"]["items"] = [self._item(step_id, item) for item in data["items"]]
        for name in (*_HANDLES, "commit_id"):
            if name in data:
                self._identity(expect, step_id, name, data[name])
        return expect

    def _identity(self, expect: dict[str, Any], step_id: str, name: str, value: str) -> None:
        """Expect a value seen before to be the same again, and any other to be new."""
        if value in self._known:
            expect["data"][name] = self._known[value]
        else:
            self._known[value] = f"${step_id}.{name}"
            expect.setdefault("new", []).append(name)

    def _item(self, step_id: str, item: Mapping[str, Any]) -> dict[str, Any]:
        expected: dict[str, Any] = {"index": item["index"], "status": item["status"]}
        if "error" in item:
            expected["error"] = {"type": item["error"]["type"]}
        if "commit" in item:
            commit = item["commit"]
            expected["commit"] = {"amount_xusd": commit["amount_xusd"]}
            known = self._known.setdefault(commit["commit_id"], f"${step_id}.items.{item['index']}.commit.commit_id")
            if not known.startswith(f"${step_id}."):
                expected["commit"]["commit_id"] = known
        return expected


def _generation(exchanges: Iterable[Exchange]) -> Generation:
    """Tell by what was sent: the newest generation says `lease`, the older ones differ by the user."""
    requests = [request for request, _ in exchanges]
    if any(b'"lease":' in request.content.replace(b" ", b"") for request in requests):
        return "lease"
    users = any(name.lower() == "x-user-id" for request in requests for name in request.headers)
    return "user" if users else "tutorial"
