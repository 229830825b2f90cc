"""A ledger with prices and money, and real LangChain runs over it; both may be told to go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages.ai import UsageMetadata

from langchain_vluna import Gate, LocalGate, RetryPolicy, VlunaCallbackHandler
from langchain_vluna._io.relay import RelayTimes
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.hall import Switched

__all__ = ["COLOURS", "CUSTOMER", "FEATURE", "QUICK", "TOKENS", "Shop", "call", "open_shop", "price"]

COLOURS = ("invoke", "ainvoke", "stream", "astream")
CUSTOMER = "customer_1"
FEATURE = "scripted.scripted-1"
TOKENS = 17
"""What each run reports."""
QUICK = RelayTimes(linger=0.01, first_retry=0.02, last_retry=0.2, take_over=0.2, give_up=0.5)


def price(ledger: LocalGate, feature: str = FEATURE) -> None:
    """Price a model's tokens."""
    for side, xusd in (("input", 2), ("output", 3)):
        ledger.price(feature, f"{feature}.tokens.{side}", xusd)


def call(runnable: Any, colour: str, config: Any) -> None:
    """Make one run to its end, on an event loop of its own where it needs one."""

    async def read() -> None:
        async for _ in runnable.astream("hello", config):
            pass

    match colour:
        case "invoke":
            runnable.invoke("hello", config)
        case "stream":
            list(runnable.stream("hello", config))
        case "ainvoke":
            asyncio.run(runnable.ainvoke("hello", config))
        case _:
            asyncio.run(read())


class Witness(BaseCallbackHandler):
    """Comes after the package's handler and adds up what models reported at their ends."""

    run_inline = True

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def on_llm_end(self, response: Any, **told: Any) -> None:
        self.tokens.append(response.generations[0][0].message.usage_metadata["total_tokens"])


@dataclass
class Shop:
    """A gate with its ledger behind a switch."""

    gate: Gate
    ledger: LocalGate
    line: Switched
    alarms: list[Any]
    witness: Witness = field(default_factory=Witness)

    def __post_init__(self) -> None:
        self.model = self.scripted()

    @staticmethod
    def scripted(**options: Any) -> ScriptedChatModel:
        """Return a model that reports the same each time."""
        usage = UsageMetadata(input_tokens=10, output_tokens=TOKENS - 10, total_tokens=TOKENS)
        return ScriptedChatModel(usage=usage, **options)

    @property
    def unwitnessed(self) -> Any:
        """Of runs that are denied: langchain-core leaves the calls of later handlers un-awaited then."""
        return {"callbacks": [VlunaCallbackHandler(self.gate, principal_id=CUSTOMER)]}

    @property
    def config(self) -> Any:
        return {"callbacks": [*self.unwitnessed["callbacks"], self.witness]}

    def charged(self) -> list[int]:
        """Settle what waits, and return what was charged."""
        assert 0 == self.gate.flush(10.0)
        return [rating.quantity for rating in self.ledger.ratings() if rating.status == "applied"]

    def open_leases(self) -> list[str]:
        return [lease.lease_id for lease in self.ledger.leases("active") if not lease.commits]

    def assert_exact(self, runs: int) -> None:
        """So many runs ended, each was charged once what its model reported, and no lease is open."""
        assert runs == len(self.witness.tokens)
        assert sorted(self.witness.tokens) == sorted(self.charged())
        assert [] == self.open_leases()


@contextmanager
def open_shop(ledger: LocalGate | None = None, **options: Any) -> Iterator[Shop]:
    """Open a gate over a ledger with money; options are those of `Gate`."""
    ledger = ledger or LocalGate()
    price(ledger)
    ledger.grant(CUSTOMER, 10**9)
    line, alarms = Switched(ledger), list[Any]()
    settings: dict[str, Any] = {
        "wire": "tutorial",
        "outbox": ":memory:",
        "relay": QUICK,
        "retry": RetryPolicy(attempts=1),
        "deny_memo": 0,
        "on_alarm": alarms.append,
    }
    gate = Gate(line, **{**settings, **options})
    try:
        yield Shop(gate, ledger, line, alarms)
    finally:
        line.on = True
        gate.close(5.0)
