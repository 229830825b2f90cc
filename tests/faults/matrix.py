"""One trial of the fault matrix: runs over a faulty network, then calm, then the books."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from langchain_vluna import Gate, LocalGate, RetryPolicy
from langchain_vluna._io.local import Generation
from langchain_vluna._io.relay import RelayTimes
from langchain_vluna.gate.policy import OnUnavailable, Settle
from tests.faults.load import PRICES, Load, prepare
from tests.faults.proxy import KINDS, Plan, Proxy
from tests.support.conservation import Books, audit, rows_of
from tests.support.gate_server import serve
from tests.support.journal import Journal

__all__ = ["CASES", "Case", "Trial", "attempt"]

TIMEOUT: Final = 1.0
TIMES: Final = RelayTimes(linger=0.01, first_retry=0.01, last_retry=0.2, take_over=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How the gate is set up."""

    generation: Generation
    settle: Settle
    on_unavailable: OnUnavailable
    attempts: int = 3

    def __str__(self) -> str:
        return f"{self.generation}, {self.settle}, {self.on_unavailable}, {self.attempts} attempts"


CASES: Final = (
    Case(generation="tutorial", settle="background", on_unavailable="deny"),
    Case(generation="user", settle="background", on_unavailable="allow", attempts=2),
    Case(generation="user", settle="inline", on_unavailable="deny", attempts=1),
    Case(generation="tutorial", settle="inline", on_unavailable="allow"),
)


@dataclass
class Trial:
    """What came of it."""

    case: Case
    outcomes: Counter[str]
    injected: Counter[str]
    requests: int
    left: int
    """Rows that a flush over a mended network did not settle."""
    books: Books
    seconds: float
    strange: list[BaseException] = field(default_factory=list)

    def problems(self) -> list[str]:
        found = self.books.problems()
        if self.left:
            found.append(f"{self.left} rows are unsettled after the flush: {'; '.join(self.books.unsettled[:5])}")
        return found + [f"a run raised {error!r}" for error in self.strange[:5]]


def attempt(
    case: Case, folder: Path, *, runs: int, seed: int, rate: float = 0.3, kinds: Mapping[str, int] = KINDS
) -> Trial:
    """Make `runs` runs through a faulty proxy, half of them blocking and half not; mend it, flush, and audit."""
    began = time.monotonic()
    journal = Journal()
    with ExitStack() as stack:
        ledger = LocalGate(generation=case.generation)
        stack.callback(ledger.close)
        prepare(ledger)
        url = stack.enter_context(serve(ledger))
        proxy = stack.enter_context(Proxy(url, Plan(seed, rate, kinds), patience=TIMEOUT + 0.1))
        gate = Gate(
            ledger.settings.model_copy(update={"base_url": proxy.url}),
            wire=case.generation,
            outbox=folder / f"{seed}.outbox",
            settle=case.settle,
            on_unavailable=case.on_unavailable,
            deny_memo=0,
            timeout=TIMEOUT,
            retry=RetryPolicy(attempts=case.attempts, initial=0.002, maximum=0.02),
            relay=TIMES,
        )
        stack.callback(gate.close)
        load = Load(gate, journal)
        load.spread(runs)
        proxy.calm()
        left = gate.flush(20.0)
        books = audit(journal, ledger, rows_of(gate), prices=PRICES)
        return Trial(
            case=case,
            outcomes=load.outcomes,
            injected=proxy.injected,
            requests=proxy.requests,
            left=left,
            books=books,
            seconds=time.monotonic() - began,
            strange=load.strange,
        )
