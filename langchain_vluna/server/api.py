"""What the page asks and changes, as JSON below `/ui/api/`.

Everything reads or writes the database, so everything runs in a thread: the gate's own requests come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import anyio.to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server import models
from langchain_vluna.server.guard import API
from langchain_vluna.server.models import parse_query

__all__ = ["Api"]

_SPANS: Final = {"hour": (60_000, 60), "day": (1_800_000, 48), "week": (21_600_000, 28), "month": (86_400_000, 30)}
"""Length of a bucket in milliseconds, and how many there are."""
_SERIES: Final = 7
"""As many names as colours can be told apart; the rest is one."""
_LONGEST_BODY: Final = 65_536

Row = dict[str, Any]
ModelT = TypeVar("ModelT", bound=BaseModel)


class Api:
    def __init__(self, gate: LocalGate) -> None:
        self._gate = gate
        self._views = gate.views
        self.routes = [
            Route(f"{API}summary", _answering(lambda _: self._summary()), methods=["GET"]),
            Route(f"{API}journal", _answering(self._journal), methods=["GET"]),
            Route(f"{API}customers", _answering(self._customers), methods=["GET"]),
            Route(f"{API}leases", _answering(self._leases), methods=["GET"]),
            Route(f"{API}spend", _answering(self._spend), methods=["GET"]),
            Route(f"{API}catalogue", _answering(lambda _: self._catalogue()), methods=["GET"]),
            Route(f"{API}grants", _changing(models.Grant, self._grant), methods=["POST"]),
            Route(f"{API}withdrawals", _changing(models.Withdrawal, self._withdraw), methods=["POST"]),
            Route(f"{API}prices", _changing(models.NewPrice, self._price), methods=["POST"]),
            Route(f"{API}policies", _changing(models.NewPolicy, self._policy), methods=["POST"]),
            Route(f"{API}faults", _changing(models.NewFault, self._fault), methods=["POST"]),
            Route(f"{API}faults", _answering(lambda _: self._mend()), methods=["DELETE"]),
            Route(f"{API}clock", _changing(models.Clock, self._clock), methods=["POST"]),
            Route(f"{API}expiry", _changing(models.Expiry, self._expire), methods=["POST"]),
        ]

    # --- questions

    def _summary(self) -> Row:
        gate = self._gate
        return {
            "realm_id": gate.settings.realm_id,
            "key_id": gate.settings.service_key_id,
            "generation": gate.generation,
            "database": gate.path,
            "now_ms": math.floor(gate.now() * 1000),
            "ahead_seconds": gate.ahead,
            "requests": dict(gate.requests),
            "faults": [
                {"kind": fault.kind, "on": fault.on, "remaining": fault.remaining, "seconds": fault.seconds}
                for fault in gate.faults
            ],
            **self._views.totals(),
        }

    def _journal(self, request: Request) -> Row:
        query = parse_query(models.JournalQuery, request)
        entries = self._views.journal(query.filter(), before=query.before, limit=query.limit, newest_first=True)
        return {"entries": entries}

    def _customers(self, request: Request) -> Row:
        query = parse_query(models.RowQuery, request)
        return {"customers": self._views.customers(query.filter(), limit=query.limit)}

    def _leases(self, request: Request) -> Row:
        query = parse_query(models.LeaseQuery, request)
        return {"leases": self._views.leases(query.filter(), open_only=query.open, limit=query.limit)}

    def _spend(self, request: Request) -> Row:
        query = parse_query(models.SpendQuery, request)
        step_ms, count = _SPANS[query.span]
        now_ms = math.floor(self._gate.now() * 1000)
        since_ms = now_ms - now_ms % step_ms - (count - 1) * step_ms
        rows = self._views.spend(query.by, query.filter(), since_ms=since_ms, step_ms=step_ms)
        return {"since_ms": since_ms, "step_ms": step_ms, "count": count, "series": _series(rows, count)}

    def _catalogue(self) -> Row:
        return {"meters": self._views.meters(), "policies": self._views.policies()}

    # --- changes

    def _grant(self, grant: models.Grant) -> Row:
        self._gate.grant(grant.principal_id, grant.xusd, grant.user_id)
        return {"balance_xusd": self._gate.balance(grant.principal_id, grant.user_id)}

    def _withdraw(self, wallet: models.Withdrawal) -> Row:
        return {"withdrawn_xusd": self._gate.withdraw(wallet.principal_id, wallet.user_id)}

    def _price(self, price: models.NewPrice) -> Row:
        self._gate.price(price.feature_code, price.meter_code, price.xusd, price.per, price.unit, price.rounding)
        return {}

    def _policy(self, policy: models.NewPolicy) -> Row:
        change = self._gate.quota if policy.kind == "quota" else self._gate.rate
        change(policy.feature_code, policy.limit, policy.window_sec)
        return {}

    def _fault(self, fault: models.NewFault) -> Row:
        self._gate.fault(fault.kind, fault.on, fault.times, seconds=fault.seconds)
        return {}

    def _mend(self) -> Row:
        self._gate.mend()
        return {}

    def _clock(self, clock: models.Clock) -> Row:
        self._gate.advance(clock.advance_seconds)
        return {"ahead_seconds": self._gate.ahead}

    def _expire(self, expiry: models.Expiry) -> Row:
        return {"expired": self._gate.expire_leases(expiry.lease_id)}


def _series(rows: Iterable[Row], count: int) -> list[Row]:
    """Turn rows into one series per name, the dearest first; what is beyond the colours is added up."""
    by_name: dict[str, Row] = {}
    for row in rows:
        if not 0 <= row["bucket"] < count:
            # The clock was put back: what is still to come is not shown.
            continue
        name = str(row["name"])
        series = by_name.setdefault(name, _empty(name, count))
        _add(series, {**row, "xusd_by_bucket": {row["bucket"]: int(row["xusd"])}})
    ranked = sorted(by_name.values(), key=lambda series: (-series["xusd"], series["name"]))
    shown, rest = ranked[:_SERIES], ranked[_SERIES:]
    if rest:
        others = _empty(f"{len(rest)} others", count)
        for series in rest:
            _add(others, {**series, "xusd_by_bucket": dict(enumerate(series["by_bucket"]))})
        shown.append(others)
    return shown


def _empty(name: str, count: int) -> Row:
    return {"name": name, "runs": 0, "quantity": 0, "xusd": 0, "by_bucket": [0] * count}


def _add(series: Row, row: Row) -> None:
    series["runs"] += row["runs"]
    series["quantity"] += int(row["quantity"])
    series["xusd"] += int(row["xusd"])
    for bucket, xusd in row["xusd_by_bucket"].items():
        series["by_bucket"][bucket] += xusd


def _answering(answer: Callable[[Request], Row]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await _in_thread(lambda: answer(request))

    return endpoint


def _changing(model: type[ModelT], change: Callable[[ModelT], Row]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > _LONGEST_BODY:
                return JSONResponse({"error": f"the body is longer than {_LONGEST_BODY} bytes"}, 413)
        return await _in_thread(lambda: change(model.model_validate_json(content)))

    return endpoint


async def _in_thread(work: Callable[[], Row]) -> Response:
    return JSONResponse(await anyio.to_thread.run_sync(work), headers={"cache-control": "no-store"})
