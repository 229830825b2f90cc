"""Speaks to a local gate in plain calls, signed with code of the test suite's own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import Generation, LocalGate
from tests.conformance.replay import Replay


@dataclass(frozen=True)
class Reply:
    status: int
    body: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, response: HttpResponse) -> Reply:
        return cls(response.status, json.loads(response.content))

    @property
    def data(self) -> Any:
        return self.body["data"]

    @property
    def refusal(self) -> tuple[int, str, str]:
        return self.status, self.body["code"], self.body["message"]

    @property
    def hints(self) -> list[str]:
        return [hint["type"] for hint in self.body.get("hints", ())]


class Caller:
    """One customer of a gate."""

    def __init__(
        self, gate: LocalGate, generation: Generation = "tutorial", principal: str = "acme", user: str | None = "u1"
    ) -> None:
        self.gate = gate
        self._who = {"principal": principal, "user": user}
        self._signer = Replay({"steps": []}, generation, gate, gate.send)
        self._handle = "lease" if generation == "lease" else "lease_token"

    def request(self, op: str, body: Any, key: str | None = None, **step: Any) -> HttpRequest:
        return self._signer.request({"op": op, "key": key or uuid.uuid4().hex, "body": body, **self._who, **step})

    def call(self, op: str, body: Any, key: str | None = None) -> Reply:
        return Reply.of(self.gate.send(self.request(op, body, key)))

    def get(self, path: str) -> Reply:
        step = {"op": "raw", "http": {"method": "GET", "path": path}, **self._who}
        return Reply.of(self.gate.send(self._signer.request(step)))

    def post(self, path: str, body: Any) -> Reply:
        step = {"op": "raw", "http": {"method": "POST", "path": path}, "key": uuid.uuid4().hex, "body": body}
        return Reply.of(self.gate.send(self._signer.request({**step, **self._who})))

    def authorize(self, feature: str = "chat", key: str | None = None, **fields: Any) -> Reply:
        return self.call("authorize", {"feature_code": feature, **fields}, key)

    def lease(self, feature: str = "chat", **fields: Any) -> str:
        """Return the handle of a new lease."""
        return str(self.authorize(feature, **fields).data[self._handle])

    def usage(self, lease: str, quantity: int = 10, feature: str = "chat", **fields: Any) -> dict[str, Any]:
        return {self._handle: lease, "feature_code": feature, "quantity_minor": str(quantity), **fields}

    def commit(
        self, lease: str, quantity: int = 10, feature: str = "chat", key: str | None = None, **fields: Any
    ) -> Reply:
        return self.call("commit", self.usage(lease, quantity, feature, **fields), key)

    def ingest(self, quantity: int = 10, feature: str = "chat", key: str | None = None, **fields: Any) -> Reply:
        return self.call("ingest", {"feature_code": feature, "quantity_minor": str(quantity), **fields}, key)

    def cancel(self, lease: str, key: str | None = None) -> Reply:
        return self.call("cancel", {"lease_token": lease}, key)

    def batch(self, items: list[dict[str, Any]], key: str | None = None) -> Reply:
        return self.call("batch", {"items": items}, key)
