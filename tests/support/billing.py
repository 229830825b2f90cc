"""What surface tests judge by: a witness of LangChain's own events, and a till whose ledger must agree with it.

Knows nothing of pytest. The witness shares no code with the package: it reads `usage_metadata` and counts.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from langchain_vluna import Gate, LocalGate, RetryPolicy, VlunaCallbackHandler
from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna._io.local import Generation
from tests.conformance.record import RecordingGate, scenario_of
from tests.conformance.replay import START, Replay, open_gate
from tests.support.conservation import rows_of
from tests.support.gate_server import serve

__all__ = ["CUSTOMER", "GRANT", "MODEL", "USER", "Stand", "Till", "Witness", "tokens_of"]

CUSTOMER: Final = "customer_1"
USER: Final = "user_1"
MODEL: Final = "scripted.scripted-1"
GRANT: Final = 10**9
INPUT_XUSD: Final = 3
OUTPUT_XUSD: Final = 15
CALL_XUSD: Final = 1000
TOOLS: Final = ("add", "fail", "ask", "search")


@dataclass
class Seen:
    """One run as LangChain told of it."""

    kind: str
    name: str
    root_id: str
    metadata: Mapping[str, Any]
    tokens: tuple[int, int] | None = None
    """Input and output of a model that ended and said so."""
    ended: bool = False


class Witness(BaseCallbackHandler):
    """Keeps what LangChain tells of models and tools: by run id, in any thread."""

    run_inline = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: dict[UUID, str] = {}
        self.runs: dict[str, Seen] = {}
        self.texts: list[str] = []
        """Streamed texts, in order."""

    def finished(self, kind: str) -> dict[str, Seen]:
        """Return the runs of a kind that ended well."""
        return {run_id: seen for run_id, seen in self.runs.items() if seen.kind == kind and seen.ended}

    def _root(self, run_id: UUID, parent_run_id: UUID | None) -> str:
        root = str(run_id) if parent_run_id is None else self._roots.get(parent_run_id, str(parent_run_id))
        with self._lock:
            return self._roots.setdefault(run_id, root)

    def _begin(self, kind: str, what: str, /, **told: Any) -> None:
        root = self._root(told["run_id"], told.get("parent_run_id"))
        seen = Seen(kind, what, root, dict(told.get("metadata") or {}))
        with self._lock:
            self.runs[str(told["run_id"])] = seen

    def on_chain_start(self, serialized: Any, inputs: Any, **told: Any) -> None:
        self._root(told["run_id"], told.get("parent_run_id"))

    def on_chat_model_start(self, serialized: Any, messages: Any, **told: Any) -> None:
        self._begin("model", (told.get("metadata") or {}).get("ls_model_name", ""), **told)

    def on_llm_start(self, serialized: Any, prompts: Any, **told: Any) -> None:
        self._begin("model", (told.get("metadata") or {}).get("ls_model_name", ""), **told)

    def on_tool_start(self, serialized: Any, input_str: Any, **told: Any) -> None:
        self._begin("tool", serialized["name"], **told)

    def on_retriever_start(self, serialized: Any, query: Any, **told: Any) -> None:
        self._begin("retriever", told.get("name") or "", **told)

    def on_llm_new_token(self, token: Any, **told: Any) -> None:
        self.texts.append(token)

    def on_llm_end(self, response: LLMResult, **told: Any) -> None:
        seen = self.runs[str(told["run_id"])]
        usage = getattr(getattr(response.generations[0][0], "message", None), "usage_metadata", None)
        seen.tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else None
        seen.ended = True

    def on_tool_end(self, output: Any, **told: Any) -> None:
        self.runs[str(told["run_id"])].ended = True

    def on_retriever_end(self, documents: Any, **told: Any) -> None:
        self.runs[str(told["run_id"])].ended = True


class Stand:
    """Passes requests to whichever gate is being tested, so that one HTTP server does for all."""

    gate: LocalGate

    def send(self, request: HttpRequest) -> HttpResponse:
        return self.gate.send(request)

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return await self.gate.asend(request)

    def close(self) -> None:
        """Keep the gate: the test owns it."""

    async def aclose(self) -> None:
        """Keep the gate: the test owns it."""

    def serve(self) -> AbstractContextManager[str]:
        """Serve over HTTP; the value is the base URL."""
        return serve(self)


def price_all(ledger: LocalGate) -> None:
    """Price the scripted model's tokens and the calls of the tools that tests use."""
    ledger.price(MODEL, f"{MODEL}.tokens.input", INPUT_XUSD)
    ledger.price(MODEL, f"{MODEL}.tokens.output", OUTPUT_XUSD)
    for name in TOOLS:
        ledger.price(f"tool.{name}", f"tool.{name}", CALL_XUSD, unit="call")


@dataclass
class Till:
    """A gate, its ledger and a witness. `generation` decides the wire; with a stand it is spoken over HTTP."""

    generation: Generation
    url: str | None = None
    stand: Stand | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `Gate`."""
    ledger_options: Mapping[str, Any] = field(default_factory=dict)
    """Of `LocalGate`."""
    grant: int = GRANT
    """What the customer has."""
    unpaid: int = 0
    """Model runs that a test ends on purpose so that they cost nothing; any other such run fails it."""

    def __post_init__(self) -> None:
        self.ledger = RecordingGate(generation=self.generation, clock=lambda: START, **self.ledger_options)
        price_all(self.ledger)
        self.ledger.grant(CUSTOMER, self.grant, self.user)
        self.witness = Witness()
        options: dict[str, Any] = {
            "wire": self.generation,
            "outbox": ":memory:",
            "retry": RetryPolicy(initial=0.001),
            **self.options,
        }
        if self.stand is None:
            self.gate = Gate(self.ledger, **options)
            return
        self.stand.gate = self.ledger
        self.gate = Gate(self.ledger.settings.model_copy(update={"base_url": self.url}), **options)

    @property
    def user(self) -> str | None:
        """The user id that this wire needs."""
        return None if self.generation == "tutorial" else USER

    def handler(self, **options: Any) -> VlunaCallbackHandler:
        return VlunaCallbackHandler(self.gate, **{"principal_id": CUSTOMER, "user_id": self.user, **options})

    def config(self, handler: VlunaCallbackHandler | None = None, **more: Any) -> Any:
        """Return a run's config with a handler and the witness."""
        return {"callbacks": [handler or self.handler(), self.witness], **more}

    def unwitnessed(self, handler: VlunaCallbackHandler | None = None, **more: Any) -> Any:
        """Return a run's config with a handler alone, for model runs that are denied.

        langchain-core prepares the calls of all handlers and leaves those after the one that raises un-awaited.
        """
        return {"callbacks": [handler or self.handler()], **more}

    def close(self) -> None:
        self.gate.close()
        silent = self.uncharged()
        self.ledger.close()
        assert self.unpaid == len(silent), f"charged nothing in silence: {silent}"

    def uncharged(self) -> dict[str, Seen]:
        """Return the model runs that ended with usage and are neither applied nor alarmed nor pending."""
        known = {rating.labels.get("run_id") for rating in self.ledger.ratings()}
        known |= {row.run_id for row in rows_of(self.gate) if row.usage is not None}
        return {
            run_id: seen
            for run_id, seen in self.witness.finished("model").items()
            if seen.tokens is not None and run_id not in known
        }

    # --- the ledger's word

    @property
    def asked(self) -> int:
        """How often the gate was asked for leave."""
        return self.ledger.requests["authorize"]

    def balance(self) -> int:
        return self.ledger.balance(CUSTOMER, self.user)

    def ratings(self) -> list[Rating]:
        """Settle what waits, and return what was charged."""
        assert 0 == self.gate.flush(10.0)
        return self.ledger.ratings()

    def open_leases(self) -> list[str]:
        """Settle what waits, and return the features of leases that nobody committed or cancelled."""
        assert 0 == self.gate.flush(10.0)
        return [view.feature_code for view in self.ledger.leases("active") if not view.commits]

    def by_run(self) -> dict[str, Rating]:
        """Return ratings by the run they are of; a run charged twice is an error."""
        ratings = self.ratings()
        found = {rating.labels["run_id"]: rating for rating in ratings}
        assert len(ratings) == len(found), "a run was charged twice"
        return found

    def assert_exact(self, *, asked: int | None = None) -> None:
        """Every run the witness saw end is charged once, with its own tokens and labels, and nothing else is.

        `asked`: how often the gate must have been asked, by default once per run.
        """
        ratings = self.by_run()
        models, tools = self.witness.finished("model"), self.witness.finished("tool")
        assert {run_id: seen.tokens for run_id, seen in models.items()} == {
            run_id: tokens_of(rating) for run_id, rating in ratings.items() if "model" in rating.labels
        }
        assert {run_id: (f"tool.{seen.name}", 1) for run_id, seen in tools.items()} == {
            run_id: (rating.feature_code, rating.quantity)
            for run_id, rating in ratings.items()
            if "tool" in rating.labels
        }
        assert len(models) + len(tools) == len(ratings)
        for run_id, rating in ratings.items():
            assert "applied" == rating.status
            assert self.expected_labels(run_id) == dict(rating.labels)
            assert (CUSTOMER, self.user) == (rating.principal_id, rating.user_id)
        spent = sum(
            INPUT_XUSD * seen.tokens[0] + OUTPUT_XUSD * seen.tokens[1] for seen in models.values() if seen.tokens
        )
        assert spent + CALL_XUSD * len(tools) == GRANT - self.balance()
        assert [] == self.open_leases()
        assert (len(ratings) if asked is None else asked) == self.asked

    def expected_labels(self, run_id: str) -> dict[str, str]:
        """Return the labels that a run's charge must carry."""
        seen = self.witness.runs[run_id]
        labels = {"run_id": run_id, "root_run_id": seen.root_id, seen.kind: seen.name, "usage_source": "reported"}
        if seen.kind == "model":
            labels["provider"] = "scripted"
        if "thread_id" in seen.metadata:
            labels["thread_id"] = str(seen.metadata["thread_id"])
        return labels

    def assert_nothing_charged(self) -> None:
        assert [] == self.ratings()
        assert [] == self.open_leases()

    def assert_replays(self) -> None:
        """What was sent is a story in the scenario grammar, and a fresh gate tells it to the same end."""
        assert 0 == self.gate.flush(10.0)
        scenario = scenario_of(self.ledger, self.generation) | {"ledger": self._books()}
        fresh = open_gate(scenario, self.generation)
        try:
            problems = Replay(scenario, self.generation, fresh, fresh.send).run()
        finally:
            fresh.close()
        assert not problems, "\n".join(problems)

    def _books(self) -> dict[str, Any]:
        """Return what the ledger shows, as scenario files have it."""
        rows: dict[tuple[str, str | None, str], Counter[str]] = {}
        for rating in self.ledger.ratings():
            row = rows.setdefault((rating.principal_id, rating.user_id, rating.feature_code), Counter())
            applied = rating.status == "applied"
            row["quarantined" if not applied else "ingested" if rating.source == "ingest" else "applied"] += 1
            row["quantity_minor"] += rating.quantity * applied
            row["charged_xusd"] += rating.amount_xusd * applied
        names = ("applied", "ingested", "quarantined", "quantity_minor", "charged_xusd")
        leases = Counter((view.principal_id, view.user_id, view.state) for view in self.ledger.leases())
        whose = {key[:2] for key in leases}
        return {
            "usage": [
                {"principal": who, "user": user, "feature": feature} | {name: row[name] for name in names}
                for (who, user, feature), row in rows.items()
            ],
            "accounts": [
                {
                    "principal": who,
                    "user": user,
                    "available_xusd": str(self.ledger.balance(who, user)),
                    "leases": {state: leases[who, user, state] for state in ("active", "closed", "canceled")},
                }
                for who, user in whose
            ],
        }


def tokens_of(rating: Rating) -> tuple[int, int]:
    """Return input and output tokens of a rating, held against its quantity."""
    kinds = {code.removeprefix(f"{rating.feature_code}.tokens."): count for code, count in rating.meters.items()}
    assert rating.quantity == sum(kinds.values())
    return kinds.get("input", 0), kinds.get("output", 0)
