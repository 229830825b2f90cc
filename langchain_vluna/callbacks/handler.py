"""The callback handler: LangChain's events, told to the gate.

Each event is written once, as a flow, and shown to LangChain in the colour it asks
for. Start events raise what must block a run; end and error events never raise,
because the user has paid for the answer they carry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from langchain_core.callbacks import BaseCallbackHandler

from langchain_vluna._core.errors import ConfigurationError, GateRejected, VlunaError
from langchain_vluna._core.exchange import Flow, Turn
from langchain_vluna.callbacks.advice import advised
from langchain_vluna.callbacks.colour import TwoColoured, never_raises
from langchain_vluna.gate import Bill, Gate

if TYPE_CHECKING:
    import asyncio

    from langchain_vluna.callbacks.describe import Started
    from langchain_vluna.callbacks.metering import ModelMeter, ToolMeter
    from langchain_vluna.callbacks.options import (
        Choice,
        Estimate,
        Features,
        Idempotency,
        Labels,
        Meters,
        OnAbort,
        OnMissingUsage,
        Tools,
    )
    from langchain_vluna.gate.spec import OpenRun, RunId, RunKind, UsageBody

__all__ = ["VlunaCallbackHandler"]

logger = logging.getLogger("langchain_vluna")

Loop: TypeAlias = "asyncio.AbstractEventLoop | None"


class VlunaCallbackHandler(BaseCallbackHandler):
    """Asks the gate before each model and tool run, and settles what each used.

    One handler serves sync and async runs, many threads and many customers at once. Attach it where callbacks
    go: `config={"callbacks": [handler]}`.
    """

    raise_error = True
    run_inline = True

    def __init__(
        self,
        gate: Gate,
        *,
        principal_id: Choice = None,
        user_id: Choice = None,
        features: Features = None,
        feature_family_code: Choice = None,
        tools: Tools = "all",
        retrievers: Tools = None,
        meters: Meters = "input_output",
        estimate: Estimate = "auto",
        labels: Labels = None,
        budget: Choice = None,
        on_missing_usage: OnMissingUsage = "estimate",
        on_abort: OnAbort = "bill_delivered",
        idempotency: Idempotency = "run",
    ) -> None:
        """Attach a gate.

        Args:
            gate: What to ask and to settle with.
            principal_id: Who pays, or a callable of `RunInfo`, unless the call itself says so.
            user_id: The user, where the gate has users; as `principal_id`.
            features: Feature codes of your own, by default code or by model or tool name, or a callable.
            feature_family_code: Family of features the gate does not know yet.
            tools: Which tools are gated: `all`, `None`, names, names with how each is measured (`calls`, `seconds`,
                `bytes` or a callable of input and output), or a callable of the name.
            retrievers: As `tools`, for retrievers.
            meters: What of a model's tokens is told apart; a callable of usage and feature code gives its own
                meters or a bare quantity, 0 or no meters for what is free; `None` sends the total alone.
            estimate: What the gate is told to expect: `auto`, `None`, a number of tokens or a callable.
            labels: Labels of your own for every charge, or a callable.
            budget: A budget that every run is checked against.
            on_missing_usage: What becomes of a run whose provider reports no usage.
            on_abort: What becomes of a run whose consumer leaves before its end.
            idempotency: `run` charges every attempt; `step` charges a LangGraph step once, however often it is
                retried or resumed.
        """
        if not isinstance(gate, Gate):
            msg = f"a handler's gate must be a Gate, such as Gate.from_env() or Gate.local(), got {gate!r}"
            raise ConfigurationError(msg)
        # What describes runs knows LangChain's messages, which take longer to import than all of this package.
        from langchain_vluna.callbacks import describe
        from langchain_vluna.callbacks.options import HandlerOptions
        from langchain_vluna.usage import BatchReports

        self.gate = gate
        self._options = HandlerOptions(
            principal_id=principal_id,
            user_id=user_id,
            features=features,
            feature_family_code=feature_family_code,
            tools=tools,
            retrievers=retrievers,
            meters=meters,
            estimate=estimate,
            labels=labels,
            budget=budget,
            on_missing_usage=on_missing_usage,
            on_abort=on_abort,
            idempotency=idempotency,
        )
        self._describe = describe
        self._engine = gate.engine
        self._open = gate.engine.book.open_meter
        self._reports = BatchReports()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.gate!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Stay one object: deep copies of a model, such as `model_copy(deep=True)`, are gated by the same gate."""
        return self

    def bill(self, run_id: RunId) -> Bill:
        """Return what a root run has cost so far; live."""
        return self.gate.bill(run_id=str(run_id))

    @property
    def ignore_retriever(self) -> bool:
        return False

    @property
    def ignore_retry(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True

    @TwoColoured
    def on_chat_model_start(
        self, loop: Loop, serialized: dict[str, Any] | None, messages: Sequence[Any], **params: Any
    ) -> Flow[None]:
        """Ask the gate whether a chat model may run."""
        yield from self._start_model(loop, serialized, messages, params)

    @TwoColoured
    def on_llm_start(
        self, loop: Loop, serialized: dict[str, Any] | None, prompts: Sequence[str], **params: Any
    ) -> Flow[None]:
        """Ask the gate whether a plain LLM may run."""
        yield from self._start_model(loop, serialized, prompts, params)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: Any, **_: Any) -> None:
        """Count what a stream delivers."""
        meter = self._open(run_id)
        if meter is not None:
            try:
                meter.add(token, chunk)  # type: ignore[attr-defined]
            except Exception:
                # Border: the end of the run still tells its usage; a token that cannot be read must not break it.
                logger.debug("a streamed token could not be counted", exc_info=True)

    def on_stream_event(self, event: Any, *, run_id: Any, **_: Any) -> None:
        """Count what an event stream delivers."""
        meter = self._open(run_id)
        if meter is not None:
            try:
                meter.add_event(event)  # type: ignore[attr-defined]
            except Exception:
                # Border: as for tokens.
                logger.debug("a stream event could not be counted", exc_info=True)

    @TwoColoured
    @never_raises
    def on_llm_end(self, response: Any, *, run_id: RunId, **_: Any) -> Flow[None]:
        """Record what a model run used."""
        run = self._engine.book.find(run_id)
        if run is not None and isinstance(run.meter, self._describe.ModelMeter):
            # Starts of one request share nothing else: async ones are told in tasks of their own.
            batch = run.spec.parent_id, run.spec.feature_code, run.caller.thread_id, run.caller.frame_id
            yield from self._end(run, run.meter.finished(response, self._reports, batch), "nothing to charge")

    @TwoColoured
    @never_raises
    def on_llm_error(self, error: BaseException, *, run_id: RunId, **_: Any) -> Flow[None]:
        """Cancel what failed; charge what was delivered before the consumer walked away."""
        run = self._engine.book.find(run_id)
        if run is not None:
            from langchain_vluna.callbacks.others import broke_off

            left = broke_off(error)
            if not left:
                self._engine.tree.failed(run_id)
            yield from self._end(run, run.meter.partial() if left else None, type(error).__name__)

    @TwoColoured
    def on_tool_start(self, loop: Loop, serialized: dict[str, Any] | None, input_str: str, **params: Any) -> Flow[None]:
        """Ask the gate whether a tool may run."""
        name = (serialized or {}).get("name") or params.get("name") or "tool"
        inputs = params.get("inputs") or input_str
        yield from self._start_tool(
            loop, self._describe.started(serialized, params), kind="tool", name=name, inputs=inputs
        )

    @TwoColoured
    @never_raises
    def on_tool_end(self, output: Any, *, run_id: RunId, **_: Any) -> Flow[None]:
        """Record what a tool or retriever used."""
        self._leave(run_id)
        run = self._engine.book.find(run_id)
        if run is not None and isinstance(run.meter, self._describe.ToolMeter):
            yield from self._end(run, run.meter.finished(output), "nothing to charge")

    @TwoColoured
    @never_raises
    def on_tool_error(self, error: BaseException, *, run_id: RunId, **_: Any) -> Flow[None]:
        """Cancel what failed, was cancelled or interrupted."""
        self._leave(run_id)
        self._engine.tree.failed(run_id)
        run = self._engine.book.find(run_id)
        if run is not None:
            yield from self._end(run, None, type(error).__name__)

    @TwoColoured
    def on_retriever_start(
        self, loop: Loop, serialized: dict[str, Any] | None, query: str, **params: Any
    ) -> Flow[None]:
        """Ask the gate whether a retriever may run, where `retrievers` says so."""
        name = params.get("name") or (serialized or {}).get("name") or "retriever"
        yield from self._start_tool(
            loop, self._describe.started(serialized, params), kind="retriever", name=name, inputs=query
        )

    on_retriever_end = on_tool_end
    on_retriever_error = on_tool_error

    @TwoColoured
    def on_chain_start(self, loop: Loop, serialized: Any, inputs: Any, **params: Any) -> Flow[None]:
        """Note what belongs together; a decision model, which comes as a chain, is asked for."""
        started = self._describe.started(serialized, params)
        self._engine.tree.begin(started.run_id, started.parent_run_id, started.namespace)
        if params.get("run_type") == "llm":
            yield from self._start_model(loop, serialized, inputs, params)

    @TwoColoured
    @never_raises
    def on_chain_end(self, outputs: Any, *, run_id: RunId, **_: Any) -> Flow[None]:
        """Notice what is still open below a chain that ended."""
        self._leave(run_id)
        run = self._engine.book.find(run_id)
        if run is not None and isinstance(run.meter, self._describe.ModelMeter):
            yield from self._end(run, run.meter.decided(outputs), "nothing to charge")

    on_chain_error = on_tool_error

    def _start_model(self, loop: Loop, serialized: Any, prompts: Any, params: dict[str, Any]) -> Flow[None]:
        yield Turn()
        started = self._describe.started(serialized, params)
        meter = self._describe.model_run(started, self._options, self._engine.tree, prompts, params)
        yield from self._start(meter, loop)

    def _start_tool(self, loop: Loop, started: Started, *, kind: RunKind, name: str, inputs: object) -> Flow[None]:
        meter = self._describe.tool_run(started, self._options, self._engine.tree, kind=kind, name=name, inputs=inputs)
        self._engine.tree.begin(
            started.run_id, started.parent_run_id, started.namespace, tool_call_id=started.tool_call_id
        )
        if meter is not None:
            yield Turn()
            yield from self._start(meter, loop)
            meter.admitted()

    def _start(self, meter: ModelMeter | ToolMeter, loop: Loop) -> Flow[None]:
        estimates = self._engine.policy.on_orphan == "bill_estimate"
        fallback = meter.fallback() if estimates and isinstance(meter, self._describe.ModelMeter) else None
        try:
            yield from self._engine.start(meter.spec, meter=meter, fallback=fallback, loop=loop)
        except VlunaError as error:
            self._engine.tree.failed(meter.spec.run_id)
            if isinstance(error, GateRejected):
                raise advised(error, meter.spec.kind) from error.__cause__
            raise

    def _end(self, run: OpenRun, used: UsageBody | None, otherwise: str) -> Flow[None]:
        if used is None:
            yield from self._engine.book.failed(run, otherwise)
        else:
            yield from self._engine.book.used(run, used)

    def _leave(self, run_id: RunId) -> None:
        self._engine.tree.end(run_id)
        self._engine.watch.parent_ended(run_id)
