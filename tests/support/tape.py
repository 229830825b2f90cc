"""What a gate was asked and answered, told as a scenario in the grammar of the golden ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from langchain_vluna._core.types import HttpRequest, HttpResponse

__all__ = ["Tape"]

_OPS = {
    "/gate/authorize": "authorize",
    "/gate/commits": "commit",
    "/gate/commits/batch": "batch",
    "/gate/ingest": "ingest",
    "/gate/cancel": "cancel",
}
_PREFIX = "/mgt/v1"
_NEW = ("lease_token", "lease_id", "lease", "commit_id")
_SAME = ("feature_code", "feature_family_code", "amount_xusd", "committed_count", "failed_count", "cancelled")
_LINE = ("meter_code", "quantity_minor", "unit_price_xusd", "amount_xusd")


class Tape:
    """Requests with their answers, in the order of the answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: list[tuple[HttpRequest, HttpResponse]] = []

    def add(self, request: HttpRequest, response: HttpResponse) -> None:
        with self._lock:
            self._heard.append((request, response))

    def scenario(self, generation: str, setup: Mapping[str, Any], known: tuple[str, str | None]) -> dict[str, Any]:
        """Tell the story so far; `known` is an account that exists from the start."""
        teller = _Teller()
        with self._lock:
            heard = list(self._heard)
        steps = [teller.step(number, *pair) for number, pair in enumerate(heard, 1)]
        account = {"id": "s0", "op": "grant", "principal": known[0], "user": known[1], "amount_xusd": 0}
        return {
            "format": 1,
            "name": "recorded",
            "generation": [generation],
            "backing": "run",
            "setup": dict(setup),
            "steps": [account, *steps],
        }


class _Teller:
    """Puts symbols for what differs from one replay to the next: keys and lease handles."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._handles: dict[str, str] = {}

    def step(self, number: int, request: HttpRequest, response: HttpResponse) -> dict[str, Any]:
        where = f"s{number}"
        step: dict[str, Any] = {
            "id": where,
            "op": _OPS[request.target.removeprefix(_PREFIX)],
            "principal": request.headers.get("x-principal-id"),
            "user": request.headers.get("x-user-id"),
            "key": self._key(request.headers["idempotency-key"]),
            "body": self._told(json.loads(request.content)),
        }
        answer = json.loads(response.content)
        step["expect"] = self._expectation(where, response.status, answer)
        return step

    def _key(self, key: str) -> str:
        return self._keys.setdefault(key, f"$k{len(self._keys) + 1}")

    def _told(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {inner: self._told(item, inner) for inner, item in value.items()}
        if isinstance(value, list):
            return [self._told(item) for item in value]
        if name in {"lease_token", "lease"}:
            return self._handles[value]
        return self._key(value) if name == "idempotency_key" else value

    def _expectation(self, where: str, status: int, answer: Mapping[str, Any]) -> dict[str, Any]:
        data = answer.get("data") or {}
        for name in ("lease_token", "lease"):
            if name in data:
                self._handles.setdefault(data[name], f"${where}.{name}")
        expected = {name: answer[name] for name in ("ok", "code", "message") if name in answer}
        expected |= {"status": status, "hints": answer.get("hints", []), "data": _fixed(data)}
        return expected | {"new": [name for name in _NEW if data.get(name)]}


def _fixed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a replay must answer alike."""
    fixed = {name: data[name] for name in _SAME if name in data}
    if "lines" in data:
        fixed["lines"] = [{name: line[name] for name in _LINE if name in line} for line in data["lines"]]
    if "items" in data:
        fixed["items"] = [
            {"index": item["index"], "status": item["status"]}
            | ({"commit": _fixed(item["commit"])} if "commit" in item else {})
            for item in data["items"]
        ]
    return fixed
