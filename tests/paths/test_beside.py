"""Tracers and instrumentations attached at the same time: nobody loses an event, and totals stay exact."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.tracers import LangChainTracer

from langchain_vluna import GateDenied, gated
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import MODEL, Till
from tests.surfaces.shapes import add, calling

ASK: Any = {"messages": [("user", "2 + 3?")]}
MODES = ["invoke", "ainvoke", "stream", "astream"]


@pytest.fixture
def calls_left_behind() -> Iterator[None]:
    """Collect what langchain-core leaves un-awaited before another test is blamed for it.

    It prepares the calls of all handlers, and never gets to those behind one that raises.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()


class Counting:
    """Counts starts and ends by run, whoever is told."""

    def __init__(self) -> None:
        self.open: Counter[Any] = Counter()
        self.starts = 0
        self.errors: list[str] = []

    def start(self, run_id: Any) -> None:
        self.open[run_id] += 1
        self.starts += 1

    def end(self, run_id: Any, error: object = None) -> None:
        self.open[run_id] -= 1
        if error is not None:
            self.errors.append(type(error).__name__)

    @property
    def dangling(self) -> list[Any]:
        return [run_id for run_id, count in self.open.items() if count]


class Sync(BaseCallbackHandler, Counting):
    """A plain handler."""

    def on_chain_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.start(run_id)

    on_chat_model_start = on_tool_start = on_chain_start

    def on_chain_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.end(run_id)

    on_llm_end = on_tool_end = on_chain_end

    def on_chain_error(self, error: BaseException, *, run_id: Any, **__: Any) -> None:
        self.end(run_id, error)

    on_llm_error = on_tool_error = on_chain_error


class Inline(Sync):
    """A plain handler that async managers run first."""

    run_inline = True


class Async(AsyncCallbackHandler, Counting):
    """An async handler."""

    async def on_chain_start(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.start(run_id)

    on_chat_model_start = on_tool_start = on_chain_start

    async def on_chain_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.end(run_id)

    on_llm_end = on_tool_end = on_chain_end

    async def on_chain_error(self, error: BaseException, *, run_id: Any, **__: Any) -> None:
        self.end(run_id, error)

    on_llm_error = on_tool_error = on_chain_error


def run(runnable: Any, mode: str, value: Any, config: Any) -> None:
    async def arun() -> None:
        if mode == "ainvoke":
            await runnable.ainvoke(value, config)
        else:
            async for _ in runnable.astream(value, config):
                pass

    if mode.startswith("a"):
        asyncio.run(arun())
    elif mode == "invoke":
        runnable.invoke(value, config)
    else:
        list(runnable.stream(value, config))


KINDS: list[type[Any]] = [Sync, Inline, Async]


@pytest.mark.parametrize("mode", MODES)
def test_handlers_on_both_sides_see_every_event(till: Till, mode: str):
    """Before and after ours, sync, inline and async: each sees the same starts, and an end for each."""
    before, after = [kind() for kind in KINDS], [kind() for kind in KINDS]
    agent = create_agent(ScriptedChatModel(responses=[calling]), [add])
    run(agent, mode, ASK, {"callbacks": [*before, till.handler(), *after]})
    assert 1 == len({other.starts for other in (*before, *after)})
    assert [] == [other.dangling for other in (*before, *after) if other.dangling]
    assert [MODEL, MODEL, "tool.add"] == sorted(rating.feature_code for rating in till.ratings())


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["config", "gated"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["model", "tool", "agent"])
def test_a_denial_leaves_nobody_with_a_start_and_no_end(make_till, kind: type[Any], how: str, mode: str, what: str):
    """Who was told of a run before it was denied is told that it failed, whether ours is first or last."""
    till = make_till(grant=0) if what != "tool" else make_till()
    till.ledger.entitle("tool.add")
    other = kind()
    subjects: dict[str, Callable[[], Any]] = {
        "model": ScriptedChatModel,
        "tool": lambda: add,
        "agent": lambda: create_agent(ScriptedChatModel(), [add]),
    }
    subject = subjects[what]()
    value: Any = {"model": "question", "tool": {"a": 1, "b": 2}, "agent": ASK}[what]
    with ExitStack() as stack:
        callbacks: list[Any] = [other]
        if how == "gated":
            stack.enter_context(gated(till.handler()))
        else:
            callbacks = [other, till.handler()]
        if what == "tool" and mode == "stream":
            mode = "invoke"
        with pytest.raises(GateDenied):
            run(subject, mode, value, {"callbacks": callbacks})
    assert [] == other.dangling
    assert set(other.errors) <= {"GateDenied"}


def test_a_handler_that_fails_to_hear_of_a_denial_hides_nothing(make_till, caplog: pytest.LogCaptureFixture):
    """The caller gets the denial, not the other handler's error."""

    class Broken(BaseCallbackHandler):
        raise_error = True

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            """Hear it."""

        def on_llm_error(self, *_: Any, **__: Any) -> None:
            raise KeyError

    till = make_till(grant=0)
    with pytest.raises(GateDenied):
        ScriptedChatModel().invoke("question", {"callbacks": [Broken(), till.handler()]})
    assert "another handler failed" in caplog.text


def test_two_gates_on_one_model(till: Till, make_till):
    """When the second gate denies, the lease that the first gave is let go at once."""
    poor = make_till(grant=0)
    with pytest.raises(GateDenied):
        ScriptedChatModel().invoke("question", {"callbacks": [till.handler(), poor.handler()]})
    till.gate.flush()
    assert ["canceled"] == [lease.state for lease in till.ledger.leases()]


# --- the tracers that people use


class Client:
    """Stands in for LangSmith's client and keeps what it is sent."""

    def __init__(self) -> None:
        self.tracing_queue = None
        self.created: dict[Any, dict[str, Any]] = {}
        self.updated: dict[Any, dict[str, Any]] = {}

    def create_run(self, **run: Any) -> None:
        self.created[run["id"]] = run

    def update_run(self, run_id: Any, **run: Any) -> None:
        self.updated[run_id] = run


class LangSmith:
    """LangSmith's tracer over a client that keeps what it is sent."""

    def __init__(self, stack: ExitStack) -> None:
        self._client = Client()
        self.callbacks: list[Any] = [LangChainTracer(client=self._client)]  # type: ignore[arg-type]

    def clear(self) -> None:
        self._client.created.clear()
        self._client.updated.clear()

    def names(self) -> list[str]:
        return sorted(run["name"] for run in self._client.created.values())

    def unfinished(self) -> list[str]:
        ended = {key for key, run in self._client.updated.items() if run.get("end_time")}
        return [
            run["name"] for key, run in self._client.created.items() if key not in ended and not run.get("end_time")
        ]


class Spans:
    """Started and ended spans of an OpenTelemetry provider of its own."""

    def __init__(self) -> None:
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        started: list[str] = []
        ended: list[str] = []

        class Keep(sdk.SpanProcessor):  # type: ignore[misc, name-defined]
            def on_start(self, span: Any, parent_context: Any = None) -> None:
                started.append(span.name)

            def on_end(self, span: Any) -> None:
                ended.append(span.name)

        self.callbacks: list[Any] = []
        self._started, self._ended = started, ended
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(Keep())

    def clear(self) -> None:
        self._started.clear()
        self._ended.clear()

    def names(self) -> list[str]:
        return sorted(self._started)

    def unfinished(self) -> list[str]:
        return list((Counter(self._started) - Counter(self._ended)).elements())


class OpenTelemetry(Spans):
    """OpenTelemetry's LangChain instrumentation, as OpenLLMetry ships it."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        instrumentor = pytest.importorskip("opentelemetry.instrumentation.langchain").LangchainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)
        stack.callback(instrumentor.uninstrument)


class OpenInference(Spans):
    """OpenInference's LangChain instrumentation."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        instrumentor = pytest.importorskip("openinference.instrumentation.langchain").LangChainInstrumentor()
        instrumentor.instrument(tracer_provider=self.provider)
        stack.callback(instrumentor.uninstrument)


class Langfuse(Spans):
    """Langfuse's handler, exporting to nowhere."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        langfuse, handler = pytest.importorskip("langfuse"), pytest.importorskip("langfuse.langchain")
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        # Langfuse keeps one client for each key, and gives it out again after it was shut down.
        key = f"pk-lf-{uuid4().hex}"
        client = langfuse.Langfuse(
            public_key=key,
            secret_key="sk-lf-made-up",
            base_url="http://127.0.0.1:9",
            tracer_provider=self.provider,
            span_exporter=memory.InMemorySpanExporter(),
        )
        stack.callback(client.shutdown)
        self.callbacks = [handler.CallbackHandler(public_key=key)]


OTHERS: list[type[Any]] = [LangSmith, OpenTelemetry, OpenInference, Langfuse]
ONE_OR_ALL = pytest.mark.parametrize(
    "kinds", [*([kind] for kind in OTHERS), OTHERS], ids=[*(kind.__name__ for kind in OTHERS), "all"]
)
Get = Callable[[list[type[Any]]], list[Any]]


@pytest.fixture(scope="module")
def get_others() -> Iterator[Get]:
    """Make each tracer once: instrumentations cannot be made twice in a process. Skips what is not installed."""
    known: dict[type[Any], Any] = {}
    with ExitStack() as stack:

        def get(kinds: list[type[Any]]) -> list[Any]:
            for kind in kinds:
                if kind not in known:
                    known[kind] = kind(stack)
                known[kind].clear()
            return [known[kind] for kind in kinds]

        yield get


def trace(others: list[Any], till: Till | None, mode: str) -> None:
    """Run an agent with tracers and, where there is a till, with ours in the middle."""
    callbacks = [callback for other in others for callback in other.callbacks]
    if till is not None:
        callbacks.insert(len(callbacks) // 2, till.handler())
    run(create_agent(ScriptedChatModel(responses=[calling]), [add]), mode, ASK, {"callbacks": callbacks})


@pytest.mark.parametrize("mode", MODES)
@ONE_OR_ALL
def test_a_tracer_sees_what_it_sees_without_us(till: Till, get_others: Get, kinds: list[type[Any]], mode: str):
    """Each tracer, and all of them together, record the same runs with and without ours, and our totals are exact."""
    others = get_others(kinds)
    trace(others, None, mode)
    expected = [other.names() for other in others]
    assert all(expected)
    get_others(kinds)
    trace(others, till, mode)
    assert expected == [other.names() for other in others]
    assert [] == [name for other in others for name in other.unfinished()]
    assert [MODEL, MODEL, "tool.add"] == sorted(rating.feature_code for rating in till.ratings())
    assert [] == till.open_leases()


@pytest.mark.usefixtures("calls_left_behind")
@pytest.mark.parametrize("mode", MODES)
@ONE_OR_ALL
def test_a_tracer_is_not_left_waiting_by_a_denial(make_till, get_others: Get, kinds: list[type[Any]], mode: str):
    """Whatever a tracer was told of has an end when the gate denies the model."""
    till, others = make_till(grant=0), get_others(kinds)
    with pytest.raises(GateDenied):
        trace(others, till, mode)
    assert [] == [name for other in others for name in other.unfinished()]
