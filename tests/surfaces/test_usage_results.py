from __future__ import annotations

import asyncio
import math
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, ChatMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_vluna._core.types import Usage
from langchain_vluna.naming import provider_and_model
from langchain_vluna.testing.models import ScriptedChatModel
from langchain_vluna.usage import (
    BatchReports,
    Reported,
    estimate_result_tokens,
    estimate_value_tokens,
    extra_work,
    is_cache_hit,
    read_counts,
    read_outputs,
    read_result,
    usage_from_outputs,
    usage_from_result,
)
from tests.support.recorder import Recorder


def chat_result(*usages: Any, text: str = "hi", llm_output: Any = None, **fields: Any) -> LLMResult:
    """A result whose choices carry these usages, unchecked as a careless integration would leave them."""
    choices: list[Any] = []
    for usage in usages or (None,):
        message = AIMessage(text, **fields).model_copy(update={"usage_metadata": usage})
        choices.append(ChatGeneration(message=message))
    return LLMResult(generations=[choices], llm_output=llm_output)


def plain_result(llm_output: Any = None, info: Any = None, text: str = "hi") -> LLMResult:
    return LLMResult(generations=[[Generation(text=text, generation_info=info)]], llm_output=llm_output)


def counts(input_tokens: Any, output_tokens: Any, **more: Any) -> Any:
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": None, **more}


def sides(usage: Usage | None) -> tuple[int, int] | None:
    return None if usage is None else (usage.input_tokens, usage.output_tokens)


# --- spellings --------------------------------------------------------------------------------------

SPELLINGS: list[tuple[Any, Reported | None]] = [
    ({"prompt_tokens": 10, "completion_tokens": 5}, Reported(input_tokens=10, output_tokens=5)),
    ({"input_tokens": 10, "output_tokens": 5}, Reported(input_tokens=10, output_tokens=5)),
    ({"inputTokenCount": 10, "outputTokenCount": 5}, Reported(input_tokens=10, output_tokens=5)),
    ({"prompt_eval_count": 10, "eval_count": 5, "eval_duration": 9}, Reported(input_tokens=10, output_tokens=5)),
    ({"input_token_count": 10, "generated_token_count": 5}, Reported(input_tokens=10, output_tokens=5)),
    ({"prompt_token_count": 10, "generation_token_count": 5}, Reported(input_tokens=10, output_tokens=5)),
    (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4},
        Reported(input_tokens=10, output_tokens=5, cached_tokens=4),
    ),
    (
        {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 6, "cache_creation_input_tokens": 1},
        Reported(input_tokens=10, output_tokens=5, cached_tokens=6, cache_write_tokens=1),
    ),
    (
        {"inputTokens": 3, "outputTokens": 5, "totalTokens": 15, "cacheReadInputTokens": 7},
        Reported(input_tokens=10, output_tokens=5, total_tokens=15, cached_tokens=7),
    ),
    ({"prompt_tokens": 10, "prompt_tokens_details": None}, Reported(input_tokens=10)),
    ({"eval_count": 5}, Reported(output_tokens=5)),
    ({"total_tokens": 5}, Reported(total_tokens=5)),
    ({"tokens": 5}, None),
    (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 7},
        Reported(input_tokens=10, output_tokens=5, total_tokens=15, cached_tokens=7),
    ),
    (
        {
            "promptTokenCount": 8,
            "candidatesTokenCount": 3,
            "thoughtsTokenCount": 2,
            "toolUsePromptTokenCount": 2,
            "cachedContentTokenCount": 6,
            "totalTokenCount": 15,
        },
        Reported(input_tokens=10, output_tokens=5, total_tokens=15, cached_tokens=6, reasoning_tokens=2),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 2, "cache_write_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 1},
        },
        Reported(
            input_tokens=10,
            output_tokens=5,
            cached_tokens=4,
            cache_write_tokens=1,
            reasoning_tokens=3,
            audio_input_tokens=2,
            audio_output_tokens=1,
        ),
    ),
]


@pytest.mark.parametrize(("source", "expected"), SPELLINGS)
def test_every_usual_spelling_is_read(source: Any, expected: Reported | None):
    """Counts are found under the names of OpenAI, Anthropic, Bedrock, Google, Ollama, DeepSeek and watsonx."""
    assert expected == read_counts(source)


@pytest.mark.parametrize(
    "result",
    [
        plain_result({"token_usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
        plain_result({"usage": {"input_tokens": 10, "output_tokens": 5}}),
        plain_result(info={"prompt_eval_count": 10, "eval_count": 5}),
        plain_result(info={"usage_metadata": {"prompt_token_count": 10, "candidates_token_count": 5}}),
        chat_result(llm_output={"token_usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
        chat_result(response_metadata={"token_usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
        chat_result(response_metadata={"prompt_eval_count": 10, "eval_count": 5}),
        chat_result(
            response_metadata={"amazon-bedrock-invocationMetrics": {"inputTokenCount": 10, "outputTokenCount": 5}}
        ),
        chat_result(counts(0, 5), llm_output={"usage": {"input_tokens": 10, "output_tokens": 5}}),
        chat_result(counts(0, 5), llm_output={"usage": {"input_tokens": 10}}),
        chat_result(counts(10, None), response_metadata={"eval_count": 5}),
        chat_result(
            llm_output={"usage": {"input_tokens": 10, "output_tokens": 5}}, response_metadata={"eval_count": 9}
        ),
        chat_result(counts(None, 5, total_tokens=15)),
        chat_result(counts(10, "5", total_tokens=15)),
    ],
)
def test_usage_is_found_where_providers_put_it(result: LLMResult):
    """What `usage_metadata` leaves open is taken from the other places, or from the total."""
    usage = usage_from_result(result)
    assert (10, 5) == sides(usage)
    assert usage is not None
    assert "reported" == usage.source


# --- what cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 1.5, 2**51, 1e300, math.nan, math.inf, "7", True, None, [], {}])
def test_a_value_that_is_no_count_is_unknown(bad: Any):
    """Negative, fractional, gigantic, textual and boolean counts are unknown, on either side and in details."""
    assert usage_from_result(chat_result(counts(bad, 5))) is None
    assert usage_from_result(chat_result(counts(5, bad))) is None
    usage = usage_from_result(chat_result(counts(5, 5, input_token_details={"cache_read": bad, "audio": 2})))
    assert usage is not None
    assert (0, 2) == (usage.cached_tokens, usage.audio_input_tokens)


class Int64:
    """An integer of another library, as numpy's."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


@pytest.mark.parametrize("kind", [float, Int64, IntEnum("Count", {"ten": 10, "five": 5})])
def test_whole_numbers_of_other_kinds_are_counts(kind: Any):
    """Some servers write 10.0, and some clients count in integers of their own: what was reported is charged."""
    usage = usage_from_result(chat_result(counts(kind(10), kind(5))))
    assert usage is not None
    assert (10, 5, int) == (usage.input_tokens, usage.output_tokens, type(usage.input_tokens))


@pytest.mark.parametrize("usage", [None, {}, [], "usage", 7, {"total_cost": 0}, {1: 2}, {"input_token_details": 3}])
def test_what_is_no_usage_is_unknown(usage: Any):
    """A usage that is none at all is not reported."""
    assert usage_from_result(chat_result(usage)) is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
read_keys = list(
    counts(0, 0, input_token_details=0, output_token_details=0, prompt_tokens=0, cache_read=0, reasoning=0)
)
keys = st.sampled_from([*read_keys, "usage", "token_usage", "server_tool_use", "type", "name", "model_name"])
junk_usage = st.dictionaries(keys, st.dictionaries(keys, junk, max_size=3) | junk, max_size=5)


@given(junk | junk_usage, st.none() | junk_usage, junk_usage, st.lists(junk_usage, max_size=3))
def test_nothing_a_provider_sends_crashes(usage: Any, llm_output: Any, metadata: Any, blocks: Any):
    """Whatever stands where usage should, reading it gives counts that add up, or nothing."""
    result = chat_result(usage, llm_output=llm_output, response_metadata=metadata)
    result.generations[0][0].message.content = blocks  # type: ignore[union-attr]
    report = read_result(result)
    extra_work(result)
    is_cache_hit(result)
    usage = report.complete(prompt_estimate=3, delivered_estimate=estimate_result_tokens(result))
    assert all(count >= 0 for count in (usage.input_tokens, usage.output_tokens))
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert max(usage.reasoning_tokens, usage.audio_output_tokens) <= usage.output_tokens
    assert ("reported" == usage.source) is (report.usage is not None)


def test_no_generation_is_nothing_reported():
    """A result without generations is not reported, not an error."""
    assert usage_from_result(LLMResult(generations=[])) is None
    assert usage_from_result(LLMResult(generations=[[]])) is None


def test_a_message_that_is_no_ai_message():
    """Models that answer with another kind of message have no usage to give."""
    result = LLMResult(generations=[[ChatGeneration(message=ChatMessage(content="hi", role="bot"))]])
    assert usage_from_result(result) is None
    assert not is_cache_hit(result)


def test_zero_output_without_an_answer_is_zero():
    """An answer of nothing may well have used no output tokens; one with text, or with calls, cannot."""
    assert (9, 0) == sides(usage_from_result(chat_result(counts(9, 0), text="")))
    assert usage_from_result(chat_result(counts(9, 0), text="hi")) is None
    call = {"name": "f", "args": {}, "id": "1"}
    assert usage_from_result(chat_result(counts(9, 0), text="", tool_calls=[call])) is None


def test_reasoning_beside_the_output_is_counted():
    """Where the total says that reasoning is not in the output, it is added; else it is not."""
    details = {"reasoning": 30}
    beside = chat_result(counts(10, 5, total_tokens=45, output_token_details=details))
    within = chat_result(counts(10, 35, total_tokens=45, output_token_details=details))
    assert (10, 35) == sides(usage_from_result(beside)) == sides(usage_from_result(within))


# --- completing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Reported(), (7, 3)),
        (Reported(input_tokens=50), (50, 3)),
        (Reported(output_tokens=20), (7, 20)),
        (Reported(total_tokens=30), (27, 3)),
        (Reported(total_tokens=2), (0, 2)),
        (Reported(cached_tokens=60, output_tokens=1), (60, 1)),
        (Reported(reasoning_tokens=40), (7, 40)),
    ],
)
def test_estimates_fill_only_what_is_unknown(report: Reported, expected: tuple[int, int]):
    """A reported side, total or detail is kept; the usage as a whole then is estimated."""
    usage = report.complete(prompt_estimate=7, delivered_estimate=3)
    assert expected == sides(usage)
    assert "estimated" == usage.source
    assert report.usage is None


def test_a_whole_report_needs_no_estimate():
    """Estimates do not touch what was reported."""
    report = Reported(input_tokens=50, output_tokens=0)
    assert (50, 0) == sides(report.complete(prompt_estimate=7, delivered_estimate=3))
    assert "reported" == report.complete(prompt_estimate=7, delivered_estimate=3).source


# --- choices and batches ----------------------------------------------------------------------------


def test_choices_with_usages_of_their_own_add_up():
    """Equal usages are one request's, repeated; different ones are different requests."""
    assert (10, 5) == sides(usage_from_result(chat_result(counts(10, 5), counts(10, 5), None)))
    assert (21, 11) == sides(usage_from_result(chat_result(counts(10, 5), counts(11, 6))))


def test_the_serving_model_is_told():
    """The model comes from the message, else from `llm_output`."""
    assert "m-1" == read_result(chat_result(counts(1, 1), response_metadata={"model_name": "m-1"})).model
    assert "m-2" == read_result(chat_result(counts(1, 1), llm_output={"model": "m-2"})).model
    assert read_result(chat_result(counts(1, 1), llm_output={"model_name": 7})).model is None


REQUEST = Reported(input_tokens=9, output_tokens=1, covers="request")
ELSEWHERE = Reported(covers="elsewhere")


def test_batches_of_different_parents_are_kept_apart():
    """A run is covered by a batch of its own parent, and only as often as that batch has runs."""
    reports = BatchReports()
    settle = reports.settle
    assert REQUEST == settle(REQUEST, parent_run_id="a", batch_size=2)
    assert settle(ELSEWHERE, parent_run_id="b", batch_size=2).usage is None
    assert (0, 0) == sides(settle(ELSEWHERE, parent_run_id="a", batch_size=2).usage)
    assert settle(ELSEWHERE, parent_run_id="a", batch_size=2).usage is None


def test_a_single_prompt_is_never_covered():
    """An empty `token_usage` of a run on its own is unknown."""
    reports = BatchReports()
    reports.settle(REQUEST, parent_run_id="a", batch_size=2)
    assert reports.settle(ELSEWHERE, parent_run_id="a", batch_size=1).usage is None


def test_runs_with_counts_of_their_own_cover_nothing():
    """Models that count per prompt leave no credit behind."""
    reports = BatchReports()
    own = read_result(plain_result(info={"prompt_eval_count": 10, "eval_count": 5}))
    assert "run" == own.covers
    reports.settle(own, parent_run_id=None, batch_size=2)
    assert reports.settle(ELSEWHERE, parent_run_id=None, batch_size=2).usage is None


def test_the_memory_of_batches_is_bounded():
    """Batches that never end are forgotten, the oldest first."""
    reports = BatchReports()
    for parent in range(300):
        reports.settle(REQUEST, parent_run_id=parent, batch_size=2)
    assert reports.settle(ELSEWHERE, parent_run_id=0, batch_size=2).usage is None
    assert reports.settle(ELSEWHERE, parent_run_id=299, batch_size=2).usage is not None


# --- the cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize("report_usage", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_cached_answer_is_known_as_one(*, asynchronous: bool, report_usage: bool):
    """The second identical call comes from LangChain's cache with the usage of the first, and is told apart."""
    model, recorder = ScriptedChatModel(cache=InMemoryCache(), report_usage=report_usage), Recorder()
    config: Any = {"callbacks": [recorder]}
    for _ in range(2):
        if asynchronous:
            asyncio.run(model.ainvoke("x", config))
        else:
            model.invoke("x", config)
    assert 1 == model.calls
    assert [False, True] == [is_cache_hit(result) for result in recorder.results]


def test_a_cached_answer_of_a_plain_llm_fires_nothing():
    """Plain LLMs start no run for a cache hit, so there is nothing to tell apart."""
    model, recorder = FakeListLLM(responses=["a"], cache=InMemoryCache()), Recorder()
    for _ in range(2):
        model.invoke("x", {"callbacks": [recorder]})
    assert (1, 1) == (len(recorder.starts), len(recorder.results))


def test_a_free_model_is_no_cache():
    """A provider that reports a cost of 0 itself has served the call: its answer has an `llm_output`."""
    assert not is_cache_hit(chat_result(counts(1, 1, total_cost=0), llm_output={"model_name": "free"}))
    assert is_cache_hit(chat_result(counts(1, 1, total_cost=0)))
    assert not is_cache_hit(chat_result(counts(1, 1, total_cost=0.1)))


# --- decision models --------------------------------------------------------------------------------


def test_decision_models_report_in_their_outputs():
    """The outputs of a decision model's run carry its usage as an attribute or a key."""
    usage = counts(12, 3, total_tokens=15)
    assert Usage(input_tokens=12, output_tokens=3) == usage_from_outputs(SimpleNamespace(usage=usage))
    assert Usage(input_tokens=12, output_tokens=3) == usage_from_outputs({"usage": usage})


@pytest.mark.parametrize("outputs", [None, "text", {}, SimpleNamespace(usage=None), {"usage": counts(0, 0)}])
def test_decision_models_that_report_nothing(outputs: Any):
    """LangChain fills a missing side with 0 there, so zeros are unknown."""
    assert usage_from_outputs(outputs) is None
    assert (8, 2) == sides(read_outputs(outputs).complete(prompt_estimate=8, delivered_estimate=2))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_real_decision_model(*, asynchronous: bool):
    """Where langchain-core has decision models, a run is a chain start marked as llm that names its model."""
    decisions = pytest.importorskip("langchain_core.decisions", reason="langchain-core 1.8 brings decision models")

    class Judge(decisions.BaseDecisionModel):  # type: ignore[misc,name-defined]
        @property
        def _provider(self) -> str:
            return "acme"

        def _classify(self, state: Any, questions: Any) -> Any:
            usage = {"input_tokens": 12, "output_tokens": 3}
            return decisions.ClassifierResponse(model="judge-1-0", answers={}, usage=usage)

    judge, recorder = Judge(model="judge-1"), Recorder()
    request = {"state": "x" * 40, "questions": {"q": decisions.Noul(instructions="y" * 40)}}
    config: Any = {"callbacks": [recorder]}
    if asynchronous:
        asyncio.run(judge.ainvoke(request, config))
    else:
        judge.invoke(request, config)
    [start] = recorder.chain_starts
    assert "llm" == start["run_type"]
    assert ("acme", "judge-1") == provider_and_model(None, start["metadata"], None)
    assert Usage(input_tokens=12, output_tokens=3, model="judge-1-0") == usage_from_outputs(recorder.outputs[0])
    assert 20 <= estimate_value_tokens(request) < 30
