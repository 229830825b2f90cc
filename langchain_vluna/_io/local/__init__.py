"""The local gate: the rules of `_core.ledger` over SQLite, behind the `Transport` protocol."""

from __future__ import annotations

from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._io.local.admin import AccountView, BudgetView, LeaseView, MeterView, PolicyView
from langchain_vluna._io.local.auth import Generation
from langchain_vluna._io.local.faults import Fault, FaultKind
from langchain_vluna._io.local.gate import DEVELOPMENT, LocalGate

__all__ = [
    "DEVELOPMENT",
    "AccountView",
    "BudgetView",
    "Fault",
    "FaultKind",
    "Generation",
    "LeaseView",
    "LocalGate",
    "MeterView",
    "PolicyView",
    "Rating",
]
