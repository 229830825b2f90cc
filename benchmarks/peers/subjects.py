"""The peers, each attached as its own documents say, one handler per customer where the handler holds the customer."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings

from benchmarks.peers.stub import BackEnd
from benchmarks.scoreboard.desk import CUSTOMER

__all__ = ["PEERS", "Peer"]


class Peer:
    """What is the same for all: no gate, no leases, embeddings as they are."""

    name = ""
    package = ""
    gates = False

    def __init__(self) -> None:
        self.version = version(self.package)
        self.handlers: dict[str, Any] = {}

    def make(self, customer: str) -> Any:
        """Return a new handler."""
        raise NotImplementedError

    def tokens_of(self, handler: Any) -> int:
        """Return the tokens that a handler has counted."""
        raise NotImplementedError

    def handler(self, customer: str = CUSTOMER) -> BaseCallbackHandler | None:
        if customer not in self.handlers:
            self.handlers[customer] = self.make(customer)
        return self.handlers[customer]  # type: ignore[no-any-return]

    def middleware(self) -> Any:
        return None

    def embeddings(self, inner: Embeddings) -> Embeddings:
        return inner

    def metadata(self, customer: str) -> dict[str, Any]:  # noqa: ARG002 -- for those that read it
        return {}

    def admit(self, calls: int) -> None:
        """Have no gate to tell."""

    def settle(self) -> None:
        """Have nothing to wait for."""

    def charged(self) -> dict[str, int]:
        return {customer: self.tokens_of(handler) for customer, handler in self.handlers.items()}

    def gate_calls(self) -> int | None:
        return None

    def open_leases(self) -> int | None:
        return None

    def close(self) -> None:
        """Have nothing to let go of."""


class LangChainCore(Peer):
    """`UsageMetadataCallbackHandler`, which comes with langchain-core."""

    name = "UsageMetadataCallbackHandler"
    package = "langchain-core"

    def make(self, customer: str) -> Any:  # noqa: ARG002 -- it knows no customers
        return import_module("langchain_core.callbacks.usage").UsageMetadataCallbackHandler()

    def tokens_of(self, handler: Any) -> int:
        return sum(usage["total_tokens"] for usage in handler.usage_metadata.values())


class Veqen(Peer):
    """`langchain-veqen`, with its ledger in a file."""

    name = "langchain-veqen"
    package = "langchain-veqen"

    def __init__(self) -> None:
        super().__init__()
        self._module = import_module("langchain_veqen")
        self._folder = tempfile.TemporaryDirectory()
        self._ledger = Path(self._folder.name) / "ledger.jsonl"
        import_module("veqen").init(ledger_file=str(self._ledger))

    def make(self, customer: str) -> Any:
        return self._module.VeqenCallbackHandler(customer=customer)

    def charged(self) -> dict[str, int]:
        tokens: Counter[str] = Counter()
        lines = self._ledger.read_text(encoding="utf-8").splitlines() if self._ledger.exists() else []
        for event in map(json.loads, lines):
            kinds = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
            tokens[event["customer"]] += sum(event[kind] for kind in kinds)
        return tokens

    def close(self) -> None:
        self._folder.cleanup()


class TokenCopilot(Peer):
    """`token-copilot`."""

    name = "token-copilot"
    package = "token-copilot"

    def make(self, customer: str) -> Any:  # noqa: ARG002 -- one per customer
        return import_module("token_copilot").TokenCoPilot()

    def tokens_of(self, handler: Any) -> int:
        return int(handler.tokens)


class Tokonomics(Peer):
    """`langchain-tokonomics`."""

    name = "langchain-tokonomics"
    package = "langchain-tokonomics"

    def make(self, customer: str) -> Any:  # noqa: ARG002 -- one per customer
        return import_module("langchain_tokonomics").TokonomicsCallbackHandler()

    def tokens_of(self, handler: Any) -> int:
        return int(handler.total_tokens)


class Primordia(Peer):
    """`langchain-primordia`, in its local mode."""

    name = "langchain-primordia"
    package = "langchain-primordia"

    def make(self, customer: str) -> Any:
        return import_module("langchain_primordia").PrimordiaCallbackHandler(agent_id=customer)

    def tokens_of(self, handler: Any) -> int:
        return int(handler.get_total_tokens())


class Trackly(Peer):
    """`trackly`, sending to loopback."""

    name = "trackly"
    package = "trackly"

    def __init__(self) -> None:
        super().__init__()
        self._back_end = BackEnd()

    def make(self, customer: str) -> Any:
        return (
            import_module("trackly")
            .Trackly(api_key="made-up", base_url=self._back_end.url, session_id=customer)
            .callback()
        )

    def settle(self) -> None:
        for handler in self.handlers.values():
            handler._worker._flush()  # noqa: SLF001 -- it has no public way to wait

    def charged(self) -> dict[str, int]:
        tokens: Counter[str] = Counter()
        for _, body in self._back_end.posts:
            for event in body["events"]:
                tokens[event["session_id"]] += event["total_tokens"] or 0
        return tokens

    def close(self) -> None:
        for handler in self.handlers.values():
            handler._worker.shutdown()  # noqa: SLF001 -- as above
        self._back_end.close()


class Langfuse(Peer):
    """`langfuse`: the usage of its generations, by the user that their metadata names."""

    name = "langfuse"
    package = "langfuse"
    _memory: Any = None
    _client: Any = None

    def __init__(self) -> None:
        super().__init__()
        if Langfuse._memory is None:
            module = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
            Langfuse._memory = module.InMemorySpanExporter()
            # A client per process: it keeps one for each public key.
            Langfuse._client = import_module("langfuse").Langfuse(
                public_key="pk-lf-made-up",
                secret_key="sk-lf-made-up",  # noqa: S106 -- nobody checks it
                base_url="http://127.0.0.1:9",
                span_exporter=Langfuse._memory,
            )
        Langfuse._memory.clear()
        self._handler = import_module("langfuse.langchain").CallbackHandler(public_key="pk-lf-made-up")

    def handler(self, customer: str = CUSTOMER) -> BaseCallbackHandler:  # noqa: ARG002 -- the metadata tells
        return self._handler  # type: ignore[no-any-return]

    def metadata(self, customer: str) -> dict[str, Any]:
        return {"langfuse_user_id": customer}

    def settle(self) -> None:
        Langfuse._client.flush()

    def charged(self) -> dict[str, int]:
        tokens: Counter[str] = Counter()
        for span in Langfuse._memory.get_finished_spans():
            usage = json.loads(span.attributes.get("langfuse.observation.usage_details") or "{}")
            user = span.attributes.get("langfuse.observation.metadata.langfuse_user_id")
            tokens[json.loads(user) if user else CUSTOMER] += usage.get("total", 0)
        return tokens


class Cycles(Peer):
    """`langchain-runcycles`: a middleware alone, with reservations in tokens."""

    name = "langchain-runcycles"
    package = "langchain-runcycles"
    gates = True

    def __init__(self) -> None:
        super().__init__()
        self._back_end = BackEnd()
        self._folder = tempfile.TemporaryDirectory()
        self._cycles = import_module("runcycles")

    def handler(self, customer: str = CUSTOMER) -> None:
        """Have none."""

    def middleware(self) -> Any:
        cycles, gate = self._cycles, import_module("langchain_runcycles").CyclesModelGate
        settings = cycles.CyclesConfig(base_url=self._back_end.url, api_key="made-up", journal_dir=self._folder.name)
        choices = {
            "subject": cycles.Subject(tenant=CUSTOMER),
            "action": cycles.Action(kind="llm.completion", name="gpt-4o-mini"),
            "mode": "reserve",
            "estimate": cycles.Amount(unit=cycles.Unit.TOKENS, amount=1000),
            "cost_fn": lambda response: cycles.Amount(
                unit=cycles.Unit.TOKENS, amount=response.result[0].usage_metadata["total_tokens"]
            ),
        }
        asynchronous = gate(cycles.AsyncCyclesClient(settings), **choices)

        class Both(gate):  # type: ignore[misc, valid-type]
            """It takes one client for sync agents and another for async ones; a user has to choose, we need both."""

            async def awrap_model_call(self, request: Any, handler: Any) -> Any:
                return await asynchronous.awrap_model_call(request, handler)

        return Both(cycles.CyclesClient(settings), **choices)

    def charged(self) -> dict[str, int]:
        commits = [body for path, body in self._back_end.posts if path.endswith("/commit")]
        return {CUSTOMER: sum(body["actual"]["amount"] for body in commits)}

    def gate_calls(self) -> int:
        return len(self._back_end.posts)

    def open_leases(self) -> int:
        paths = [path for path, _ in self._back_end.posts]
        settled = sum(path.endswith(("/commit", "/release")) for path in paths)
        return sum(path == "/v1/reservations" for path in paths) - settled

    def close(self) -> None:
        self._back_end.close()
        self._folder.cleanup()


PEERS: tuple[Callable[[], Peer], ...] = (
    LangChainCore,
    Cycles,
    Veqen,
    Langfuse,
    TokenCopilot,
    Tokonomics,
    Primordia,
    Trackly,
)
