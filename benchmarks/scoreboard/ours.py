"""This package, on the embedded gate."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings

from benchmarks.scoreboard.agents import TOOLS
from benchmarks.scoreboard.desk import CUSTOMER
from benchmarks.scoreboard.model import FEATURE
from langchain_vluna import Gate, GatedEmbeddings, VlunaCallbackHandler, VlunaMiddleware

__all__ = ["Ours"]

_EMBEDDINGS = "openai.text-embedding-3-small"


class Ours:
    """`langchain_vluna`; it settles inline, so that the calls of its gate are a fixed number."""

    name = "langchain-vluna"
    version = version("langchain-vluna")
    gates = True

    def __init__(self) -> None:
        self._gate = Gate.local(settle="inline")
        ledger = self._gate.local_gate
        assert ledger is not None
        self._ledger = ledger
        for meter in (f"{FEATURE}.tokens.input", f"{FEATURE}.tokens.output"):
            ledger.price(FEATURE, meter, 1)
        ledger.price(_EMBEDDINGS, f"{_EMBEDDINGS}.tokens.input", 1)
        for name in TOOLS:
            ledger.price(f"tool.{name}", f"tool.{name}", 1, unit="call")
        for customer in (CUSTOMER, *(f"customer_{number:02}" for number in range(50))):
            ledger.grant(customer, 10**9)
        self._handler = VlunaCallbackHandler(self._gate, principal_id=CUSTOMER)

    def handler(self, customer: str = CUSTOMER) -> BaseCallbackHandler:  # noqa: ARG002 -- the metadata tells
        return self._handler

    def middleware(self) -> Any:
        return VlunaMiddleware(self._gate, principal_id=CUSTOMER)

    def embeddings(self, inner: Embeddings) -> Embeddings:
        return GatedEmbeddings(inner, self._gate, feature_code=_EMBEDDINGS, principal_id=CUSTOMER)

    def metadata(self, customer: str) -> dict[str, Any]:
        return {"vluna_principal_id": customer}

    def admit(self, calls: int) -> None:
        self._ledger.rate(FEATURE, calls, 3600)

    def settle(self) -> None:
        """Wait for what no event ends, too: such runs are found within some seconds."""
        deadline = time.monotonic() + 10
        while (self._gate.flush(5.0) or self.open_leases()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def charged(self) -> dict[str, int]:
        tokens: dict[str, int] = {}
        for rating in self._ledger.ratings():
            if rating.status == "applied" and rating.feature_code in {FEATURE, _EMBEDDINGS}:
                tokens[rating.principal_id] = tokens.get(rating.principal_id, 0) + rating.quantity
        return tokens

    def gate_calls(self) -> int:
        return sum(self._ledger.requests.values())

    def open_leases(self) -> int:
        return sum(not lease.commits for lease in self._ledger.leases("active"))

    def close(self) -> None:
        self._gate.close()
        self._ledger.close()
