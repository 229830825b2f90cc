"""Ways to use models that have made metering handlers wrong, and what each should come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langgraph.graph import END, START, StateGraph

from benchmarks.scoreboard.desk import Desk
from benchmarks.scoreboard.model import TrueEmbeddings

__all__ = ["BASIC", "Scenario"]

Play = Callable[[Desk], None]


@dataclass(frozen=True)
class Scenario:
    """What is done, and what it should come to."""

    name: str
    play: Play
    calls: int
    """Calls of the provider."""
    admitted: int
    """Runs that a gate should let in: each asks once and settles once."""
    denied: int = 0
    """Runs that a gate should deny: each asks once."""

    @property
    def gate_calls(self) -> int:
        return 2 * self.admitted + self.denied


def invoke(desk: Desk) -> None:
    desk.model().invoke("a question", desk.config())


def second_call_from_cache(desk: Desk) -> None:
    model = desk.model(cache=InMemoryCache())
    for _ in range(2):
        model.invoke("a question", desk.config())


def stream(desk: Desk) -> None:
    for _ in desk.model().stream("a question", desk.config()):
        pass


def aborted_stream(desk: Desk) -> None:
    chunks = desk.model().stream("a question", desk.config())
    for _ in range(3):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]


def cancelled_ainvoke(desk: Desk) -> None:
    model = desk.model(hang_after=0)

    async def play() -> None:
        task = asyncio.create_task(model.ainvoke("a question", desk.config()))
        await until(lambda: model.calls == 1)
        task.cancel()
        await asyncio.wait([task])

    run_async(play())


def batch_of_10(desk: Desk) -> None:
    desk.model().batch([f"question {number}" for number in range(10)], desk.config())


def parallel_branches(desk: Desk) -> None:
    branches: dict[str, Any] = {name: RunnableLambda(str) | desk.model() for name in "abc"}
    RunnableParallel(branches).invoke("a question", desk.config())


def three_choices(desk: Desk) -> None:
    desk.model().bind(n=3).invoke("a question", desk.config())


def retries(desk: Desk) -> None:
    model = desk.model(responses=[ConnectionError("provider"), "aaa bbb"])
    model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("a question", desk.config())


def fallback(desk: Desk) -> None:
    broken = desk.model(responses=[ConnectionError("provider")])
    broken.with_fallbacks([desk.model()]).invoke("a question", desk.config())


def fifty_customers(desk: Desk) -> None:
    model = desk.model()

    async def ask(number: int) -> None:
        customer = f"customer_{number:02}"
        await model.ainvoke(f"{customer}: {'x' * number}", desk.config(customer))

    async def play() -> None:
        await asyncio.gather(*map(ask, range(50)))

    run_async(play())


def attached_twice(desk: Desk) -> None:
    config = desk.config()
    desk.model().with_config(config).invoke("a question", {"callbacks": config["callbacks"] * 2})


class Refuses(BaseCallbackHandler):
    """Somebody else's handler, which stops every model."""

    raise_error = True
    run_inline = True

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Refuse."""
        msg = "not today"
        raise RuntimeError(msg)


def another_handler_aborts(desk: Desk) -> None:
    config = desk.config()
    config["callbacks"].append(Refuses())
    with suppress(RuntimeError):
        desk.model().invoke("a question", config)


def one_of_two_prompts_denied(desk: Desk) -> None:
    desk.subject.admit(1)
    config = desk.config()
    prompts: list[list[BaseMessage]] = [[HumanMessage("one")], [HumanMessage("two")]]
    with suppress(Exception):  # each gate has an error of its own
        desk.model().generate(prompts, callbacks=config["callbacks"], metadata=config["metadata"])


class State(TypedDict):
    """A graph's state."""

    text: str


def broken_graph_stream(desk: Desk) -> None:
    model = desk.model(hang_after=3)

    async def think(state: State) -> State:
        return {"text": (await model.ainvoke(state["text"])).text}

    graph = StateGraph(State)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    app: Any = graph.compile()

    async def play() -> None:
        seen = 0
        parts = app.astream({"text": "a question"}, desk.config(), stream_mode="messages")
        async for _ in parts:
            seen += 1
            if seen == 3:  # noqa: PLR2004 -- after which the model hangs
                break
        await parts.aclose()

    run_async(play())


def embeddings(desk: Desk) -> None:
    desk.embeddings(TrueEmbeddings(desk.truth)).embed_documents(["some text", "and some more"])


def run_async(play: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of its own."""
    asyncio.run(play)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that takes a moment."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.to_thread(lambda: None)


BASIC = (
    Scenario("invoke", invoke, calls=1, admitted=1),
    Scenario("second call from cache", second_call_from_cache, calls=1, admitted=2),
    Scenario("stream", stream, calls=1, admitted=1),
    Scenario("aborted stream", aborted_stream, calls=1, admitted=1),
    Scenario("cancelled ainvoke", cancelled_ainvoke, calls=1, admitted=1),
    Scenario("batch of 10", batch_of_10, calls=10, admitted=10),
    Scenario("parallel branches", parallel_branches, calls=3, admitted=3),
    Scenario("n = 3", three_choices, calls=1, admitted=1),
    Scenario("retries", retries, calls=2, admitted=2),
    Scenario("fallback", fallback, calls=2, admitted=2),
    Scenario("50 customers", fifty_customers, calls=50, admitted=50),
    Scenario("handler attached twice", attached_twice, calls=1, admitted=1),
    Scenario("another handler aborting after ours", another_handler_aborts, calls=0, admitted=1),
    Scenario("one of two prompts denied", one_of_two_prompts_denied, calls=0, admitted=1, denied=1),
    Scenario("a graph's stream broken", broken_graph_stream, calls=1, admitted=1),
    Scenario("embeddings", embeddings, calls=1, admitted=1),
)
