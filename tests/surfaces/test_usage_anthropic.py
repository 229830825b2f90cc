from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import SecretStr

from langchain_vluna._core.types import Usage
from langchain_vluna.naming import model_feature_code, provider_and_model
from langchain_vluna.usage import (
    estimate_prompt_tokens,
    extra_work,
    read_result,
    requested_max_tokens,
    usage_from_result,
)
from tests.support.llm_stub import Answer, LLMStub, Tokens
from tests.support.recorder import Recorder
from tests.support.runs import WAYS, run

# A model whose maximum the client knows and fills in; its makers may deprecate it any day.
pytestmark = pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")

TOKENS = Tokens(prompt=100, completion=20, cached=60, cache_write=10, reasoning=7)
USAGE = Usage(
    input_tokens=100,
    output_tokens=20,
    cached_tokens=60,
    cache_write_tokens=10,
    reasoning_tokens=7,
    model="claude-sonnet-4-5-20250929",
)
ADD: Any = {"name": "add", "input_schema": {"type": "object", "properties": {}}}
SEARCH: Any = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}}
THINKING: Any = {"type": "thinking", "thinking": "Hmm, so.", "signature": "c2lnbmF0dXJl" * 50}
WHOLE = ("invoke", "ainvoke")
STREAMED = ("stream", "astream")


@pytest.fixture
def stub() -> Iterator[LLMStub]:
    with LLMStub() as server:
        server.default = Answer(tokens=TOKENS, model="claude-sonnet-4-5-20250929")
        yield server


def chat(stub: LLMStub, **settings: Any) -> ChatAnthropic:
    base: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "base_url": stub.anthropic_base_url,
        "api_key": SecretStr("made-up"),
        "max_retries": 0,
    }
    return ChatAnthropic(**{**base, **settings})


@pytest.mark.parametrize("way", WAYS)
async def test_messages(stub: LLMStub, way: str):
    """Tokens read from and written to the cache are parts of the input, which the API reports without them."""
    recorder = await run(chat(stub), way)
    assert [USAGE] == [usage_from_result(result) for result in recorder.results]
    assert 1 == stub.calls


@pytest.mark.parametrize("way", WHOLE)
async def test_cache_writes_by_time_to_live(stub: LLMStub, way: str):
    """Cache writes split by time to live, where LangChain leaves the common key at 0, are not lost."""
    stub.script(Answer(tokens=Tokens(prompt=100, cached=60, cache_write=10, cache_write_5m=4, cache_write_1h=6)))
    usage = usage_from_result((await run(chat(stub), way)).results[0])
    assert usage is not None
    assert (100, 60, 10) == (usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens)


@pytest.mark.parametrize("way", STREAMED)
async def test_an_endpoint_that_streams_output_tokens_only(stub: LLMStub, way: str):
    """Input 0 is unknown: the estimate of the prompt stands in, and the usage says that it is estimated."""
    stub.script(Answer(tokens=TOKENS, output_only=True))
    [result] = (await run(chat(stub), way)).results
    assert usage_from_result(result) is None
    usage = read_result(result).complete(prompt_estimate=33, delivered_estimate=99)
    assert (33, 20, "estimated") == (usage.input_tokens, usage.output_tokens, usage.source)


@pytest.mark.parametrize("way", STREAMED)
async def test_streamed_usage_switched_off(stub: LLMStub, way: str):
    """Without `stream_usage` nothing is known but the text."""
    recorder = await run(chat(stub, stream_usage=False), way)
    assert usage_from_result(recorder.results[0]) is None
    assert len("Hello from the stub.") == recorder.delivered.size


@pytest.mark.parametrize("way", WHOLE)
async def test_all_zeros_are_unknown(stub: LLMStub, way: str):
    """An endpoint that answers with text and a usage of zeros has reported nothing."""
    stub.script(Answer(tokens=None))
    [result] = (await run(chat(stub), way)).results
    assert usage_from_result(result) is None
    usage = read_result(result).complete(prompt_estimate=33, delivered_estimate=5)
    assert (33, 5, "estimated") == (usage.input_tokens, usage.output_tokens, usage.source)


@pytest.mark.parametrize("way", STREAMED)
async def test_streamed_thinking_and_tool_calls_are_counted(stub: LLMStub, way: str):
    """Thinking, text and arguments count as delivered; a signature does not, however long."""
    stub.script(Answer(text="Let me see.", items=(THINKING,), tool_calls=(("add", {"a": 2}),), tokens=TOKENS))
    recorder = await run(chat(stub).bind(tools=[ADD], thinking={"type": "enabled", "budget_tokens": 1024}), way)
    assert len('Hmm, so.Let me see.add{"a": 2}') == recorder.delivered.size
    assert 100 == recorder.delivered.reported.input_tokens


async def test_an_abandoned_stream_is_estimated(stub: LLMStub):
    """A consumer that leaves gets no usage: only what was delivered is known."""
    recorder = Recorder()
    stream = chat(stub).stream("x", {"callbacks": [recorder]})
    while "stub" not in next(stream).text:
        pass
    stream.close()  # type: ignore[attr-defined]
    usage = recorder.delivered.reported.complete(prompt_estimate=8, delivered_estimate=recorder.delivered.tokens)
    assert (8, 5, "estimated") == (usage.input_tokens, usage.output_tokens, usage.source)
    [partial] = recorder.partial
    assert partial is not None
    assert usage_from_result(partial) is None


@pytest.mark.parametrize("way", WHOLE)
async def test_the_providers_own_count_of_its_tools_wins(stub: LLMStub, way: str):
    """Whole answers carry the provider's count of searches and fetches, which is what it charges."""
    counts = {"web_search_requests": 3, "web_fetch_requests": 1}
    stub.script(Answer(items=(SEARCH,), server_tool_use=counts))
    recorder = await run(chat(stub).bind(tools=[ADD]), way)
    assert {"web_search": 3, "web_fetch": 1} == extra_work(recorder.results[0])


@pytest.mark.parametrize("way", STREAMED)
async def test_streamed_tool_runs_are_counted_by_their_blocks(stub: LLMStub, way: str):
    """LangChain drops the provider's count from streams, so the blocks are counted."""
    stub.script(Answer(items=(SEARCH, {**SEARCH, "id": "srv_2", "name": "bash_code_execution"})))
    recorder = await run(chat(stub).bind(tools=[ADD]), way)
    assert {"web_search": 1, "code_execution": 1} == extra_work(recorder.results[0])


@pytest.mark.parametrize(
    ("settings", "bound", "limit"),
    [({}, {}, None), ({"max_tokens": 77}, {}, 77), ({}, {"max_tokens": 55}, 55), ({}, {"max_tokens": 32_000}, 32_000)],
)
async def test_a_limit_that_the_client_filled_in_is_none(stub: LLMStub, settings: Any, bound: Any, limit: int | None):
    """The client's own 64,000 is no limit of the run; one that the user or the call set is."""
    [start] = (await run(chat(stub, **settings).bind(**bound), "invoke")).starts
    assert limit == requested_max_tokens(start["metadata"], start["invocation_params"], start["serialized"])


async def test_the_start_event_names_the_model(stub: LLMStub):
    """The feature code is `anthropic.<model>`."""
    [start] = (await run(chat(stub), "invoke")).starts
    found = provider_and_model(start["serialized"], start["metadata"], start["invocation_params"])
    assert "anthropic.claude-sonnet-4-5" == model_feature_code(*found)


async def test_a_conversation_with_tool_results_is_estimated(stub: LLMStub):
    """Content blocks of an earlier answer can be sent back and estimated without counting signatures."""
    stub.script(Answer(text="", items=(THINKING,), tool_calls=(("add", {"a": 2}),)))
    model = chat(stub).bind(tools=[ADD])
    answer = await model.ainvoke("x")
    assert isinstance(answer, AIMessage)
    recorder = await run(model, "invoke", [HumanMessage("x"), answer, ToolMessage("5", tool_call_id="toolu_0")])
    assert 10 < estimate_prompt_tokens(recorder.starts[0]["prompt"]) < 40
