"""A gate that answers at once, or after a fixed wait: what is measured beside it is the client alone.

It says yes to everything, in the forms of `vlunaai` and of Cycles too, so that all clients read answers of the
same size. It runs in a process of its own and prints its port: `python -m benchmarks.stub <seconds>`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

__all__ = ["main"]

_DAY = '"window_start":"2026-11-22T00:00:00.000Z","window_end":"2026-11-23T00:00:00.000Z"'
_SNAPSHOT = (
    '{{"schema":"gate/rational-pricing-snapshot:v1","algorithm":"integer_rational_floor_v1","pricing_kind":"{kind}",'
    '"computed_at":"2026-11-22T10:00:00.000Z","unit":"token","fingerprint":"fp","rate_identity":"rate",'
    '"unit_price_xusd":"3","unit_quantity_minor":"1","quantity_minor":"{quantity}","previous_remainder_numer":"0",'
    '"amount_xusd":"{amount}","next_remainder_numer":"0","effective_at":"2026-11-01T00:00:00.000Z","provenance":{{}}}}'
)
_LINE = (
    '{{"rating_status":"priced","line_id":"{serial}","meter_code":"{meter}","quantity_minor":"{quantity}",'
    '"unit_price_xusd":"3","unit_quantity_minor":"1","rate_identity":"rate","amount_xusd":"{amount}",'
    f'"pricing_snapshot":{_SNAPSHOT.replace("{kind}", "revenue")},"pricing_fingerprint":"fp","cost_xusd":"0",'
    '"unit_cost_xusd":"0","cost_unit_quantity_minor":"1","cost_rate_identity":"rate",'
    f'"cost_snapshot":{_SNAPSHOT.replace("{kind}", "cost")},"cost_fingerprint":"fp"}}}}'
)
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nConnection: keep-alive\r\n"
    "Keep-Alive: timeout=72\r\nContent-Length: {}\r\n\r\n{}"
)

served: Counter[str] = Counter()
_serial = count(1)


def _lease(body: dict[str, Any], _: str) -> str:
    serial = next(_serial)
    token = f"lease.{serial:08x}-0000-4000-8000-{serial:012x}.{serial:016x}"
    return (
        f'"lease_token":"{token}","lease_id":"{token[6:42]}","lease":"{token}",'
        f'"feature_code":"{body["feature_code"]}","feature_family_code":"llm",{_DAY}'
    )


def _commit(body: dict[str, Any]) -> str:
    serial = next(_serial)
    meters = body.get("meters") or [{"meter_code": body["feature_code"], "quantity_minor": body["quantity_minor"]}]
    amounts = [3 * int(meter["quantity_minor"]) for meter in meters]
    lines = ",".join(
        _LINE.format(serial=serial, meter=meter["meter_code"], quantity=meter["quantity_minor"], amount=amount)
        for meter, amount in zip(meters, amounts, strict=True)
    )
    return f'"commit_id":"commit-{serial}","amount_xusd":"{sum(amounts)}","cost_xusd":"0","lines":[{lines}]'


def _single(body: dict[str, Any], _: str) -> str:
    return _commit(body)


def _batch(body: dict[str, Any], _: str) -> str:
    items = body["items"]
    served["items"] += len(items)
    outcomes = ",".join(
        f'{{"index":{index},"status":"committed","commit":{{{_commit(item)}}}}}' for index, item in enumerate(items)
    )
    return f'"items":[{outcomes}],"committed_count":{len(items)},"failed_count":0'


def _cancel(_: dict[str, Any], __: str) -> str:
    return '"cancelled":true,"released_cap":"0","trace_id":"cancel_1"'


_VERBS: dict[str, tuple[str, Callable[[dict[str, Any], str], str]]] = {
    "/mgt/v1/gate/authorize": ("authorize", _lease),
    "/mgt/v1/gate/commits": ("commit", _single),
    "/mgt/v1/gate/commits/batch": ("batch", _batch),
    "/mgt/v1/gate/ingest": ("ingest", _single),
    "/mgt/v1/gate/cancel": ("cancel", _cancel),
}


def answer(path: str, content: bytes) -> str:
    """Return the body of the answer, and count the request by verb."""
    if path == "/served":
        return json.dumps(served)
    body = json.loads(content) if content else {}
    if path in _VERBS:
        verb, handle = _VERBS[path]
        served[verb] += 1
        return f'{{"ok":true,"code":"OK","data":{{{handle(body, path)}}}}}'
    if path == "/v1/reservations":
        served["reserve"] += 1
        return (
            f'{{"decision":"ALLOW","reservation_id":"rsv_{next(_serial)}","affected_scopes":["tenant:bench"],'
            '"expires_at_ms":4102444800000,"remaining_ttl_ms":60000,"scope_path":"tenant:bench",'
            f'"reserved":{json.dumps(body["estimate"])}}}'
        )
    served["settle"] += 1
    return f'{{"status":"COMMITTED","charged":{json.dumps(body.get("actual"))}}}'


class _Connection(asyncio.Protocol):
    """As little HTTP as a keep-alive client needs."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._received) < whole:
                return
            path = self._received[:end].split(b" ", 2)[1].decode()
            text = answer(path, self._received[end + 4 : whole])
            self._received = self._received[whole:]
            response = _HEAD.format(len(text), text).encode()
            if self._wait and path != "/served":
                self._loop.call_later(self._wait, self._transport.write, response)
            else:
                self._transport.write(response)


async def main(wait: float) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(wait), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
