"""Faults on demand, so that tests see what a bad day brings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from langchain_vluna._core.errors import TransportFailure
from langchain_vluna._core.ledger.answers import failure
from langchain_vluna._core.ledger.model import Refusal
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io import forks
from langchain_vluna._io.local.routing import response

__all__ = ["Fault", "FaultKind", "Faults", "Step"]

FaultKind = Literal["drop_answer", "status_500", "status_429", "status_402", "reset", "delay"]


class Fault:
    """One armed fault. As a context manager it is disarmed at the end of the block."""

    def __init__(
        self, kind: FaultKind, *, on: str, times: int, seconds: float, disarm: Callable[[Fault], None]
    ) -> None:
        self.kind = kind
        self.on = on
        self.remaining = times
        """How many more requests it hits."""
        self.seconds = seconds
        self._disarm = disarm

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._disarm(self)

    def __repr__(self) -> str:
        return f"Fault({self.kind!r}, on={self.on!r}, remaining={self.remaining}, seconds={self.seconds})"


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one request: how long it waits, what it gets instead of an answer, whether that is lost."""

    wait: float = 0
    canned: HttpResponse | None = None
    lost: str | None = None

    @classmethod
    def of(cls, fault: Fault, request: HttpRequest) -> Step:
        match fault.kind:
            case "reset":
                raise TransportFailure("connection reset by the local gate (a fault on demand)", sent=True)
            case "drop_answer":
                return cls(lost="answer dropped by the local gate (a fault on demand)")
            case "status_500":
                return cls(canned=response(500, failure(Refusal.unexpected())))
            case "status_429":
                hint = {"type": "rate.limit", "seconds": math.ceil(fault.seconds), "remaining": 0}
                refusal = Refusal(429, "LIMIT.RATE_EXCEEDED", "rate limit exceeded", (hint,))
                return cls(canned=response(429, failure(refusal)))
            case "status_402":
                hint = {"type": "funding.xusd_shortfall", "shortfall_xusd": 1}
                refusal = Refusal(402, "SERVER.CONFIG", "grant balance exhausted", (hint,))
                return cls(canned=response(402, failure(refusal)))
            case "delay":
                late = f"no answer within {request.timeout} s (a fault on demand)"
                return cls(min(fault.seconds, request.timeout), lost=late if fault.seconds > request.timeout else None)

    def deliver(self, answer: HttpResponse) -> HttpResponse:
        if self.lost is not None:
            raise TransportFailure(self.lost, sent=True)
        return answer


class Faults:
    """Armed faults, first armed first used."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        self._lock = forks.Lock()

    def arm(self, kind: FaultKind, *, on: str, times: int, seconds: float) -> Fault:
        fault = Fault(kind, on=on, times=times, seconds=seconds, disarm=self._disarm)
        with self._lock:
            self._armed.append(fault)
        return fault

    def take(self, verb: str) -> Fault | None:
        """Return the fault that hits this request, and count it."""
        if not self._armed:
            return None
        with self._lock:
            fault = next((armed for armed in self._armed if armed.on in {verb, "*"}), None)
            if fault is not None:
                fault.remaining -= 1
                if fault.remaining <= 0:
                    self._armed.remove(fault)
            return fault

    def armed(self) -> list[Fault]:
        with self._lock:
            return list(self._armed)

    def disarm_all(self) -> None:
        with self._lock:
            self._armed.clear()

    def _disarm(self, fault: Fault) -> None:
        with self._lock:
            if fault in self._armed:
                self._armed.remove(fault)
