from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from langchain_vluna._core.types import Usage
from langchain_vluna.naming import meter_quantities, model_feature_code, provider_and_model
from langchain_vluna.usage import (
    BatchReports,
    estimate_prompt_tokens,
    extra_work,
    read_result,
    requested_max_tokens,
    usage_from_result,
)
from tests.support.llm_stub import Answer, LLMStub, Tokens
from tests.support.recorder import Recorder
from tests.support.runs import WAYS, run

TOKENS = Tokens(prompt=100, completion=20, cached=60, cache_write=10, reasoning=7, audio_prompt=5, audio_completion=2)
CHAT = Usage(
    input_tokens=100,
    output_tokens=20,
    cached_tokens=60,
    cache_write_tokens=10,
    reasoning_tokens=7,
    audio_input_tokens=5,
    audio_output_tokens=2,
    model="gpt-4o-2024-08-06",
)
RESPONSES = Usage(
    input_tokens=100,
    output_tokens=20,
    cached_tokens=60,
    cache_write_tokens=10,
    reasoning_tokens=7,
    model="gpt-4o-2024-08-06",
)
SEARCH: Any = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
PYTHON: Any = {
    "type": "code_interpreter_call",
    "id": "ci_1",
    "status": "completed",
    "code": "1",
    "container_id": "c",
    "outputs": [],
}


@pytest.fixture
def stub() -> Iterator[LLMStub]:
    with LLMStub() as server:
        server.default = Answer(tokens=TOKENS, model="gpt-4o-2024-08-06")
        yield server


def chat(stub: LLMStub, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o", "stream_usage": True, **at(stub), **settings})


def plain(stub: LLMStub, **settings: Any) -> OpenAI:
    return OpenAI(**{"model": "gpt-3.5-turbo-instruct", **at(stub), **settings})


def at(stub: LLMStub) -> dict[str, Any]:
    return {"base_url": stub.openai_base_url, "api_key": SecretStr("made-up"), "max_retries": 0}


@pytest.mark.parametrize("way", WAYS)
async def test_chat_completions(stub: LLMStub, way: str):
    """Cached, cache-write, reasoning and audio tokens come out of chat completions, whole and streamed."""
    recorder = await run(chat(stub), way)
    assert [CHAT] == [usage_from_result(result) for result in recorder.results]
    assert 1 == stub.calls


@pytest.mark.parametrize("way", WAYS)
async def test_responses(stub: LLMStub, way: str):
    """The responses API reports the same, except for audio, which it does not count."""
    recorder = await run(chat(stub, use_responses_api=True), way)
    assert [RESPONSES] == [usage_from_result(result) for result in recorder.results]


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("tier", ["flex", "priority", "default"])
async def test_service_tiers_keep_their_details(stub: LLMStub, tier: str, api: str):
    """A service tier renames the details and loses none of them."""
    stub.script(Answer(tokens=TOKENS, service_tier=tier, model="gpt-4o-2024-08-06"))
    recorder = await run(chat(stub, use_responses_api=api == "responses"), "invoke")
    assert (CHAT if api == "chat" else RESPONSES) == usage_from_result(recorder.results[0])


@pytest.mark.parametrize("way", WAYS)
async def test_choices_share_one_usage(stub: LLMStub, way: str):
    """With n = 2 the usage of the request counts once, and the model is known all the same."""
    recorder = await run(chat(stub, n=2), way)
    [usage] = [usage_from_result(result) for result in recorder.results]
    assert usage is not None
    assert (100, 20, 60) == (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    assert str(usage.model).startswith("gpt-4o")


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_stream_without_usage_is_unknown(stub: LLMStub, way: str):
    """A custom base URL switches streamed usage off: nothing is known, and nothing counts as zero."""
    recorder = await run(chat(stub, stream_usage=None), way)
    [result] = recorder.results
    assert usage_from_result(result) is None
    usage = read_result(result).complete(prompt_estimate=11, delivered_estimate=recorder.delivered.tokens)
    assert (11, 5, "estimated") == (usage.input_tokens, usage.output_tokens, usage.source)


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_streamed_text_and_tool_calls_are_counted(stub: LLMStub, way: str, api: str):
    """The delivered size is that of text, tool names and arguments, and the usage seen in chunks is whole."""
    stub.script(Answer(text="Let me see.", tool_calls=(("add", {"a": 2, "b": 3}),), tokens=TOKENS))
    recorder = await run(chat(stub, use_responses_api=api == "responses"), way)
    assert len('Let me see.add{"a": 2, "b": 3}') == recorder.delivered.size
    assert usage_from_result(recorder.results[0]) is not None
    seen = recorder.delivered.reported
    assert (100, 20, 60) == (seen.input_tokens, seen.output_tokens, seen.cached_tokens)


async def test_a_broken_stream_leaves_an_estimate(stub: LLMStub):
    """A connection lost in the middle reports nothing; what was delivered is known, and is no report."""
    stub.script(Answer(text="one two three four", cut_after=3))
    recorder = Recorder()
    with pytest.raises(Exception, match="Connection error"):
        list(chat(stub).stream("x", {"callbacks": [recorder]}))
    assert len("one two three ") == recorder.delivered.size
    usage = recorder.delivered.reported.complete(prompt_estimate=9, delivered_estimate=recorder.delivered.tokens)
    assert (9, 4, "estimated") == (usage.input_tokens, usage.output_tokens, usage.source)
    [partial] = recorder.partial
    assert partial is not None
    assert usage_from_result(partial) is None


def test_a_plain_llm(stub: LLMStub):
    """A plain LLM reports in `llm_output` alone."""
    recorder = Recorder()
    plain(stub).invoke("x", {"callbacks": [recorder]})
    usage = usage_from_result(recorder.results[0])
    assert Usage(input_tokens=100, output_tokens=20, model="gpt-3.5-turbo-instruct") == usage


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_several_prompts_of_a_plain_llm_are_paid_once(stub: LLMStub, *, asynchronous: bool):
    """One request serves three runs: the first has its usage, the others are covered by it and not unknown."""
    recorder, reports = Recorder(), BatchReports()
    model = plain(stub, callbacks=[recorder])
    if asynchronous:
        await model.agenerate(["a", "b", "c"])
    else:
        model.generate(["a", "b", "c"])
    assert [3, 3, 3] == [start["batch_size"] for start in recorder.starts]
    read = [read_result(result) for result in recorder.results]
    assert ["request", "elsewhere", "elsewhere"] == [report.covers for report in read]
    usages = [reports.settle(report, parent_run_id=None, batch_size=3).usage for report in read]
    assert [120, 0, 0] == [usage and usage.total_tokens for usage in usages]
    assert 1 == stub.calls


def test_several_prompts_without_usage_stay_unknown(stub: LLMStub):
    """Where the first run reported nothing, no other run is taken for covered."""
    stub.default = Answer(tokens=None)
    recorder, reports = Recorder(), BatchReports()
    plain(stub, callbacks=[recorder]).generate(["a", "b"])
    read = [reports.settle(read_result(r), parent_run_id=None, batch_size=2) for r in recorder.results]
    assert [None, None] == [report.usage for report in read]


async def test_a_streamed_plain_llm_is_unknown(stub: LLMStub):
    """Plain completions stream without usage: unknown, with the text counted."""
    recorder = await run(plain(stub), "stream")
    assert usage_from_result(recorder.results[0]) is None
    assert len("Hello from the stub.") == recorder.delivered.size


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
async def test_tools_the_provider_runs_are_counted(stub: LLMStub, way: str, version: str):
    """Web searches and code interpreter calls are seen in every output version of the responses API."""
    stub.script(Answer(items=(SEARCH, {**SEARCH, "id": "ws_2"}, PYTHON)))
    recorder = await run(chat(stub, use_responses_api=True, output_version=version), way)
    assert {"web_search": 2, "code_execution": 1} == extra_work(recorder.results[0])


async def test_the_start_event_names_the_bound_model_and_its_limit(stub: LLMStub):
    """Feature code and limit follow `bind`, and the limit counts once for each choice."""
    recorder = await run(chat(stub, max_tokens=12, n=3).bind(model="gpt-5", max_completion_tokens=50), "invoke")
    [start] = recorder.starts
    found = provider_and_model(start["serialized"], start["metadata"], start["invocation_params"])
    assert "openai.gpt-5" == model_feature_code(*found)
    assert 150 == requested_max_tokens(start["metadata"], start["invocation_params"], start["serialized"])


async def test_no_limit_of_its_own(stub: LLMStub):
    """A run without a limit has none."""
    [start] = (await run(chat(stub), "invoke")).starts
    assert requested_max_tokens(start["metadata"], start["invocation_params"], start["serialized"]) is None


def test_the_larger_of_n_and_best_of_counts(stub: LLMStub):
    """A plain LLM is charged for every candidate, those it does not return included."""
    recorder = Recorder()
    plain(stub, max_tokens=9, best_of=3).invoke("x", {"callbacks": [recorder]})
    [start] = recorder.starts
    assert 27 == requested_max_tokens(start["metadata"], start["invocation_params"], start["serialized"])


async def test_tools_count_as_prompt(stub: LLMStub):
    """Tool schemas, which travel in the invocation parameters, are part of the prompt's estimate."""
    schema = {"type": "function", "function": {"name": "f", "description": "x" * 400, "parameters": {}}}
    [start] = (await run(chat(stub).bind(tools=[schema]), "invoke", [HumanMessage("hi")])).starts
    bare = estimate_prompt_tokens(start["prompt"])
    assert bare < 10
    assert 100 <= estimate_prompt_tokens(start["prompt"], start["invocation_params"]) - bare < 150


async def test_meters_of_a_real_answer_add_up(stub: LLMStub):
    """What a real client reports splits into meters that sum to its total."""
    usage = usage_from_result((await run(chat(stub), "stream")).results[0])
    assert usage is not None
    meters = meter_quantities("openai.gpt-4o", usage, "detailed") or {}
    assert {"input": 25, "cached": 60, "cache_write": 10, "audio_input": 5, "output": 11} | {
        "reasoning": 7,
        "audio_output": 2,
    } == {name.rpartition(".")[2]: quantity for name, quantity in meters.items()}
    assert 120 == sum(meters.values())
