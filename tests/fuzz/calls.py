"""Random requests: mostly sensible ones, so that they get deep, and sensible ones with one thing wrong."""

from __future__ import annotations

import json
import random
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_vluna._core.config import Settings
from langchain_vluna._core.signing import (
    authorization_header,
    canonical_string,
    content_digest,
    decode_secret,
    sign,
)

PRINCIPALS = ("acme", "globex", "initech", "acme, Inc.")
FEATURES = ("chat", "draw", "openai.gpt-4o", "free", "unpriced", "blocks")
METERS = ("chat", "chat.tokens.input", "chat.tokens.output", "blocks", "prepaid", "draw", "unknown.meter")
ODD: tuple[Any, ...] = (
    *(None, True, "", " ", 0, -1, 1.5, 1e400, 2**53, 2**53 - 1, 2**63, 2**64, 10**400, [], {}, [{}], [None], "\x00"),
    *(
        "\ud800",
        "é",
        "a/b",
        "a..b",
        "0x10",
        "1e3",
        "1e400",
        " 12 ",
        "9" * 400,
        "x" * 5000,
        "lease.abc.def",
        "lease..",
        "NaN",
    ),
    *({"\x00": "x"}, {"a": 10**400}, {"a": float("inf")}, {"a": [1, [2, {"b": 3}]]}, {"": ""}, {"a": "\ud800"}),
)
PAGE = ("summary", "journal", "customers", "leases", "spend", "catalogue")


@dataclass(frozen=True)
class Call:
    method: str
    target: str
    headers: Mapping[str, str]
    content: bytes


@dataclass
class Customer:
    principal: str
    user: str | None
    leases: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=30))
    """Field name, handle and feature of leases that were granted."""
    sent: deque[tuple[str, str, Any]] = field(default_factory=lambda: deque(maxlen=30))
    """Verb, key and body of what was asked, to be asked again."""


class Fuzzer:
    """Makes up requests and learns handles from the answers."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._random = random.Random(seed)
        self._settings = settings
        self._secret = decode_secret(settings.service_key_secret.get_secret_value())
        self._customers = [Customer(name, user) for name in PRINCIPALS for user in (None, "u1", "u2")]
        self._last: tuple[Customer, str, Any] | None = None

    def next(self) -> Call:
        choice = self._random.random
        self._last = None
        if choice() < 0.06:
            return self._page()
        customer = self._random.choice(self._customers)
        if customer.sent and choice() < 0.1:
            verb, key, body = self._random.choice(customer.sent)
            return self._signed(customer, verb, key, self._bent(body) if choice() < 0.2 else body)
        verb, body = self._question(customer)
        if choice() < 0.15:
            body = self._bent(body)
        key = uuid.UUID(int=self._random.getrandbits(128)).hex
        customer.sent.append((verb, key, body))
        self._last = (customer, verb, body)
        return self._signed(customer, verb, key, body)

    def heard(self, status: int, answer: Mapping[str, Any]) -> None:
        """Remember the lease that the last call brought."""
        if self._last is None or self._last[1] != "authorize" or status != 200:
            return
        data, customer = answer["data"], self._last[0]
        name = "lease_token" if "lease_token" in data else "lease"
        customer.leases.append((name, data[name], data["feature_code"]))

    # --- the gate's verbs

    def _question(self, customer: Customer) -> tuple[str, Any]:
        verb = self._random.choices(
            ("authorize", "commits", "commits/batch", "ingest", "cancel", "preflight", "limits"),
            (30, 30, 12, 10, 8, 3, 2),
        )[0]
        match verb:
            case "authorize" | "preflight":
                return verb, self._ask(customer)
            case "commits":
                return verb, self._usage(customer)
            case "commits/batch":
                items = [self._usage(customer) for _ in range(self._random.randint(0, 6))]
                return verb, {"items": [item | {"idempotency_key": f"i{self._small(10**9)}"} for item in items]}
            case "ingest":
                usage = self._usage(customer)
                return verb, {name: value for name, value in usage.items() if not name.startswith("lease")}
            case "cancel":
                return verb, {"lease_token": self._lease(customer)[1]}
            case _:
                return verb, {}

    def _ask(self, customer: Customer) -> dict[str, Any]:
        body: dict[str, Any] = {"feature_code": self._random.choice(FEATURES), "labels": self._labels()}
        if self._random.random() < 0.5:
            body["estimated_quantity_minor"] = str(self._small(5000))
        if customer.user is not None and self._random.random() < 0.2:
            body["lease"] = f"own-{self._small(10**6)}"
        return body

    def _usage(self, customer: Customer) -> dict[str, Any]:
        name, handle, feature = self._lease(customer)
        meters = [
            {"meter_code": self._random.choice(METERS), "quantity_minor": str(self._small(3000))}
            for _ in range(self._random.randint(0, 3))
        ]
        quantity = 2**53 - 1 if self._random.random() < 0.003 else self._small(3000)
        body = {name: handle, "feature_code": feature, "quantity_minor": str(quantity), "labels": self._labels()}
        return body | ({"meters": meters} if meters else {})

    def _lease(self, customer: Customer) -> tuple[str, str, str]:
        owner = customer if self._random.random() < 0.95 else self._random.choice(self._customers)
        if not owner.leases or self._random.random() < 0.05:
            return "lease_token", f"lease.{uuid.UUID(int=self._random.getrandbits(128))}.0123456789abcdef", "chat"
        return self._random.choice(owner.leases)

    def _labels(self) -> dict[str, str]:
        return {"run_id": f"r{self._small(500)}", "thread_id": f"t{self._small(20)}", "model": "m"}

    def _small(self, most: int) -> int:
        return self._random.randint(1, most)

    def _bent(self, body: Any) -> Any:
        """Return the body with one thing wrong, however deep."""
        if isinstance(body, dict) and body and self._random.random() < 0.9:
            name = self._random.choice(list(body))
            rest = dict(body)
            if self._random.random() < 0.15:
                del rest[name]
            else:
                rest[name] = self._bent(body[name])
            return rest
        if isinstance(body, list) and body and self._random.random() < 0.9:
            index = self._random.randrange(len(body))
            return [*body[:index], self._bent(body[index]), *body[index + 1 :]]
        return self._random.choice(ODD)

    def _signed(self, customer: Customer, verb: str, key: str, body: Any) -> Call:
        method = "GET" if verb == "limits" else "POST"
        content = b"" if method == "GET" else json.dumps(body).encode()
        target = f"/mgt/v1/gate/{verb}"
        if self._random.random() < 0.01:
            content = self._random.choice((b"", b"{", b"[" * 100_000, b"\xff\xfe", content[:-1], b"1" * 5000, b"null"))
        if self._random.random() < 0.01:
            target += self._random.choice(("/", "?a=b", "?feature_code=chat&feature_code=%00", "/x", "?%zz"))
        headers = {
            "content-digest": content_digest(content),
            "content-type": "application/json",
            "x-realm-id": self._settings.realm_id,
            "x-principal-id": customer.principal,
            "idempotency-key": key,
        }
        if customer.user is not None:
            headers["x-user-id"] = customer.user
        headers["authorization"] = self._authorization(method, target, headers)
        if self._random.random() < 0.02:
            headers[self._random.choice(list(headers))] = self._random.choice(
                ("", "x", "ÿ", "SVC-AUTH", "Bearer x", "k" * 3000)
            )
        return Call(method, target, headers, content)

    def _authorization(self, method: str, target: str, headers: Mapping[str, str]) -> str:
        canonical = canonical_string(
            "v2" if "x-user-id" in headers else "v1",
            method=method,
            target=target,
            ts="t",
            nonce="n",
            content_digest=headers["content-digest"],
            content_type=headers["content-type"],
            realm_id=headers["x-realm-id"],
            principal_id=headers["x-principal-id"],
            user_id=headers.get("x-user-id"),
            idempotency_key=headers["idempotency-key"],
        )
        signature = sign(self._secret, canonical)
        return authorization_header(key_id=self._settings.service_key_id, signature=signature, ts="t", nonce="n")

    # --- the page

    def _page(self) -> Call:
        headers = {"host": "localhost:3002", "x-vluna-page": "1", "content-type": "application/json"}
        if self._random.random() < 0.02:
            names = ("", "principal_id", "run_id", "thread_id", "limit", "before", "by", "span", "open", "after")
            values = ("", "x", "-1", "99999999999999999999", "customer", "week", "%00", "%ff", "t1", "r1", "'")
            asked = "&".join(f"{self._random.choice(names)}={self._random.choice(values)}" for _ in range(2))
            return Call("GET", f"/ui/api/{self._random.choice(PAGE)}?{asked}", headers, b"")
        what, body = self._change()
        content = json.dumps(self._bent(body) if self._random.random() < 0.3 else body).encode()
        return Call("POST", f"/ui/api/{what}", headers, content)

    def _change(self) -> tuple[str, dict[str, Any]]:
        customer, pick = self._random.choice(self._customers), self._random.choice
        who = {"principal_id": customer.principal, "user_id": customer.user}
        what = self._random.choices(
            ("grants", "withdrawals", "prices", "policies", "clock", "expiry"), (12, 1, 2, 3, 2, 1)
        )[0]
        changes: dict[str, dict[str, Any]] = {
            "grants": who | {"xusd": 2**53 - 1 if self._random.random() < 0.01 else self._small(200_000)},
            "withdrawals": who,
            "prices": {
                "feature_code": pick(FEATURES),
                "meter_code": pick(METERS),
                "xusd": pick((None, 0, 1, 7, 1000)),
                "per": pick((1, 1, 1000)),
                "rounding": pick(("floor", "nearest", "ceil")),
            },
            "policies": {
                "kind": pick(("quota", "rate")),
                "feature_code": pick(FEATURES),
                "limit": pick((None, None, 3, 50, 100_000)),
                "window_sec": pick((60, 3600)),
            },
            "clock": {"advance_seconds": pick((1, 60, 3600, 50_000, -60))},
            "expiry": {},
        }
        return what, changes[what]
