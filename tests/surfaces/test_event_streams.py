"""LangChain's event streams of version 3, which models may deliver in without reporting a single token."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES
from tests.surfaces.waiting import settled_sync

pytestmark = pytest.mark.usefixtures("quick_watch", "beta")


@pytest.fixture
def beta() -> Iterator[None]:
    """The protocol is in beta and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(in beta|experimental)", DeprecationWarning)
        yield
        gc.collect()


async def read(stream: Any) -> list[Any]:
    return [event async for event in await stream]


@pytest.mark.parametrize("name", ["model", "sync_node", "react_agent", "create_agent"])
def test_a_sync_event_stream_is_charged_what_it_reported(till: Till, name: str) -> None:
    """An event stream read to its end is charged the reported tokens, of a model or of a graph."""
    shape = SHAPES[name]
    assert list(shape.build(shape.model()).stream_events(shape.ask("q"), till.config(), version="v3"))
    settled_sync(till)
    till.assert_exact()


@pytest.mark.parametrize("name", ["sync_node", "async_node", "react_agent", "create_agent"])
def test_an_async_event_stream_is_charged_what_it_reported(till: Till, name: str) -> None:
    """An async event stream of a graph is charged the reported tokens."""
    shape = SHAPES[name]
    runnable: Any = shape.build(shape.model())
    assert asyncio.run(read(runnable.astream_events(shape.ask("q"), till.config(), version="v3")))
    settled_sync(till)
    till.assert_exact()


def test_a_loop_that_ends_before_the_last_callback_loses_no_usage(till: Till) -> None:
    """An answer that was complete when its loop ended is charged its reported usage, whatever the last event was."""
    runnable: Any = ScriptedChatModel(responses=["two words"])
    asyncio.run(read(runnable.astream_events("q", till.unwitnessed(), version="v3")))
    ratings = settled_sync(till)
    assert ["reported"] == [rating.labels["usage_source"] for rating in ratings]


@pytest.mark.parametrize("kept", [True, False])
def test_an_abandoned_event_stream_is_charged_what_it_delivered(make_till: MakeTill, kept: bool) -> None:
    """An event stream that is not read on, of which nobody is ever told, is charged what its events delivered."""
    till = make_till()
    runnable: Any = ScriptedChatModel(responses=["twelve bytes and so on for some more words"])
    stream: Any = iter(runnable.stream_events("What is it?", till.config(), version="v3"))
    heard = ""
    while len(heard) < 12:
        event = next(stream)
        heard += (event.get("delta") or {}).get("text", "")
    if not kept:
        del stream
        gc.collect()
    till.gate.engine.watch.settle_all("nothing happened to it for long")
    ratings = settled_sync(till)
    assert ["estimated"] == [rating.labels["usage_source"] for rating in ratings]
    assert -(-len(heard) // 4) == ratings[0].meters[f"{MODEL}.tokens.output"]
