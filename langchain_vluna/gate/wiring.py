"""The gate as users hold it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.types import Call, Identity, Transport
from langchain_vluna._core.wire import Reply, rules
from langchain_vluna._io.client import Verbs
from langchain_vluna.gate.alarm import Alarm
from langchain_vluna.gate.bill import Bill
from langchain_vluna.gate.identity import Surroundings, surrounding

if TYPE_CHECKING:
    from langchain_vluna._core.config import RetryPolicy, Settings, Wire
    from langchain_vluna._io.local import LocalGate
    from langchain_vluna._io.outbox import Durability
    from langchain_vluna._io.relay import RelayTimes
    from langchain_vluna.gate.engine import Engine
    from langchain_vluna.gate.hints import OnHint
    from langchain_vluna.gate.policy import OnOrphan, OnUnavailable, Settle
    from langchain_vluna.gate.work import Work

__all__ = ["Gate"]

T = TypeVar("T")

_CLOSE_TIMEOUT = 10.0


class Gate(Verbs):
    """A gate, wired: client, outbox and relay. Share one per process among handlers, threads and event loops.

    Use it as a context manager, or `close` it; at the end of the interpreter it
    closes itself. What is not settled by then stays in the outbox for the next process.
    """

    def __init__(
        self,
        target: Settings | LocalGate | Transport,
        *,
        wire: Wire = "auto",
        outbox: str | os.PathLike[str] | None = None,
        settle: Settle = "background",
        on_unavailable: OnUnavailable = "deny",
        on_orphan: OnOrphan = "cancel",
        orphan_after: float = 3600.0,
        durability: Durability = "process",
        deny_memo: float = 1.0,
        max_unsettled: int = 100,
        timeout: float = 10.0,
        retry: RetryPolicy | None = None,
        relay: RelayTimes | None = None,
        on_hint: OnHint = None,
        on_alarm: Callable[[Alarm], object] | None = None,
    ) -> None:
        """Wire a gate.

        Args:
            target: Where the gate is: `Settings` of the service, an embedded `LocalGate`, or any transport.
            wire: The wire generation; found out by `auto`.
            outbox: File for what must not be lost, or `:memory:`. By default a file per realm and address in
                the user's state directory; in memory for a local gate or transport in memory.
            settle: `background` settles after the run, `inline` before the run's last callback returns.
            on_unavailable: `deny` raises when the gate gives no answer; `allow` lets the work run and ingests.
            on_orphan: What becomes of a run that never ended and delivered nothing: `cancel`, or `bill_estimate`.
            orphan_after: Seconds without an event after which a run counts as never ending.
            durability: What recorded means: `process` survives kill -9, `power` the loss of power.
            deny_memo: Seconds for which a denial is repeated without asking; 0 asks every time.
            max_unsettled: Runs of one customer that may wait unsettled; further ones settle inline.
            timeout: Seconds for one call of the gate with all its retries.
            retry: How often a call is tried.
            relay: Waits of the background settlement.
            on_hint: What is done about the gate's hints: a function called with each, or per hint type a function
                or one of `ignore`, `log`, `warn`, `raise`, `degrade`; see `langchain_vluna.gate.hints`.
            on_alarm: Called once per feature and meter when usage is not charged.
        """
        # The parts bring asyncio, pydantic and SQLite along, which an import alone should not cost.
        from langchain_vluna.gate.parts import assemble

        self._engine, self._transport, self._local_gate = assemble(
            target,
            wire=wire,
            outbox=outbox,
            settle=settle,
            on_unavailable=on_unavailable,
            on_orphan=on_orphan,
            orphan_after=orphan_after,
            durability=durability,
            deny_memo=deny_memo,
            max_unsettled=max_unsettled,
            timeout=timeout,
            retry=retry,
            relay=relay,
            on_hint=on_hint,
            on_alarm=on_alarm,
        )
        self._closing = weakref.finalize(self, _close_engine, self._engine)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Wire the service that the environment names, with `VLUNA_WIRE`, `VLUNA_OUTBOX` and `VLUNA_TIMEOUT`."""
        from langchain_vluna._core.config import Settings

        settings = Settings.from_env()
        choices: dict[str, Any] = {}
        for name, variable, kind in _OPTIONAL:
            text = os.environ.get(variable)
            if text:
                try:
                    choices[name] = kind(text)
                except ValueError as error:
                    msg = f"{variable}={text!r} is no number; give seconds, such as 10"
                    raise ConfigurationError(msg) from error
        return cls(settings, **{**choices, **overrides})

    @classmethod
    def local(cls, path: str | os.PathLike[str] = ":memory:", **overrides: Any) -> Self:
        """Wire an embedded gate that keeps its ledger in `path`: no account, no server."""
        from langchain_vluna._io.local import LocalGate

        return cls(LocalGate(str(path)), **overrides)

    def __repr__(self) -> str:
        return f"Gate({self._engine.client!r}, outbox={self._engine.outbox.path!r})"

    @property
    def local_gate(self) -> LocalGate:
        """The embedded gate behind this one.

        Raises:
            ConfigurationError: The target is no `LocalGate`.
        """
        if self._local_gate is None:
            msg = f"{self!r} has no embedded gate behind it; Gate.local() and Gate(LocalGate(...)) have one"
            raise ConfigurationError(msg)
        return self._local_gate

    @property
    def engine(self) -> Engine:
        """The parts that handlers share; not for users."""
        return self._engine

    def run(
        self,
        *,
        feature_code: str,
        principal_id: str,
        user_id: str | None = None,
        feature_family_code: str | None = None,
        estimated_quantity: int | None = None,
        budget: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Work:
        """Gate any work of your own: `with gate.run(...) as run: ...; run.record(quantity)`; also `async with`."""
        from langchain_vluna.gate.spec import RunSpec
        from langchain_vluna.gate.work import Work

        run_id = str(uuid4())
        spec = RunSpec(
            run_id=run_id,
            parent_id=None,
            root_id=run_id,
            kind="work",
            identity=Identity(principal_id, user_id),
            feature_code=feature_code,
            feature_family_code=feature_family_code,
            estimated_quantity=estimated_quantity,
            budget=budget,
            labels={"run_id": run_id, **rules.user_labels(labels)},
        )
        return Work(spec, self._engine)

    def identity(self, **values: Any) -> AbstractContextManager[Surroundings]:
        """Set principal_id, user_id, feature_code, feature_family_code, budget or labels for the code inside."""
        return surrounding(**values)

    def bill(self, *, run_id: str | None = None, thread_id: str | None = None, principal_id: str | None = None) -> Bill:
        """Return what a root run, a LangGraph thread or a customer has cost in this process so far."""
        given = {"run": run_id, "thread": thread_id, "principal": principal_id}
        keys = [(kind, str(value)) for kind, value in given.items() if value is not None]
        if len(keys) != 1:
            msg = "bill takes exactly one of run_id, thread_id and principal_id"
            raise ConfigurationError(msg)
        return self._engine.bills.get(keys[0])

    def flush(self, timeout: float | None = None) -> int:
        """Settle what waits; returns how many rows are still unsettled. Without a timeout: while there is progress."""
        return self._engine.relay.flush(timeout)

    async def aflush(self, timeout: float | None = None) -> int:  # noqa: ASYNC109 -- the twin of flush
        """Do what `flush` does, off the event loop."""
        import anyio.to_thread

        return await anyio.to_thread.run_sync(self.flush, timeout)

    def close(self, timeout: float | None = _CLOSE_TIMEOUT) -> int:
        """Settle open runs by the orphan rule and flush; returns how many rows stay for the next process."""
        left = self._engine.close(timeout)
        self._closing.detach()
        self._transport.close()
        return left

    async def aclose(self, timeout: float | None = _CLOSE_TIMEOUT) -> int:  # noqa: ASYNC109 -- the twin of close
        """Do what `close` does, off the event loop."""
        import anyio.to_thread

        left = await anyio.to_thread.run_sync(self._engine.close, timeout)
        self._closing.detach()
        await self._transport.aclose()
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def exchange(self, call: Call, retry: RetryPolicy | None = None) -> Flow[Reply]:
        return self._engine.client.exchange(call, retry)

    def perform(self, flow: Flow[T]) -> T:
        return self._engine.client.perform(flow)

    async def aperform(self, flow: Flow[T]) -> T:
        return await self._engine.client.aperform(flow)


_OPTIONAL: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("wire", "VLUNA_WIRE", str),
    ("outbox", "VLUNA_OUTBOX", str),
    ("timeout", "VLUNA_TIMEOUT", float),
)


def _close_engine(engine: Engine) -> None:
    engine.close(_CLOSE_TIMEOUT)
