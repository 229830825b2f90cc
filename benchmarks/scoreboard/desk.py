"""Where a scenario runs: a provider that counts, and the handler under test."""

from __future__ import annotations

from typing import Any, Protocol

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings

from benchmarks.scoreboard.model import TrueModel, Truth

__all__ = ["CUSTOMER", "Desk", "Subject"]

CUSTOMER = "customer"


class Subject(Protocol):
    """A metering handler, made anew for each scenario."""

    name: str
    version: str
    gates: bool
    """Whether it asks somebody for leave before the work, so that it has gate calls and leases."""

    def handler(self, customer: str = CUSTOMER) -> BaseCallbackHandler | None:
        """Return the handler for a customer, the same one each time; `None` where there is only a middleware."""

    def middleware(self) -> Any:
        """Return its agent middleware, `None` where it has none."""

    def embeddings(self, inner: Embeddings) -> Embeddings:
        """Return embeddings as its users are told to use them."""

    def metadata(self, customer: str) -> dict[str, Any]:
        """Return what tells a call's customer."""

    def admit(self, calls: int) -> None:
        """Let the gate admit that many more calls, and deny all others."""

    def settle(self) -> None:
        """Wait until what was counted is charged."""

    def charged(self) -> dict[str, int]:
        """Return tokens by customer."""

    def gate_calls(self) -> int | None:
        """Return how often the gate was called, `None` where there is none."""

    def open_leases(self) -> int | None:
        """Return how much is still held by calls that are over, `None` where nothing is."""

    def close(self) -> None:
        """Let go of everything."""


class Desk:
    """One scenario's provider and handler."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.truth = Truth()

    def model(self, **options: Any) -> TrueModel:
        return TrueModel(**{"responses": ["aaa bbb ccc ddd eee fff"], "truth": self.truth, **options})

    def config(self, customer: str = CUSTOMER, **more: Any) -> Any:
        """Return a call's config with the handler, as its users attach it."""
        handler = self.subject.handler(customer)
        return {"callbacks": [handler] if handler else [], "metadata": self.subject.metadata(customer), **more}

    def middleware(self) -> list[Any]:
        """Return the middleware of those who have nothing else."""
        return [] if self.subject.handler() else [self.subject.middleware()]

    def embeddings(self, inner: Embeddings) -> Embeddings:
        return self.subject.embeddings(inner)
