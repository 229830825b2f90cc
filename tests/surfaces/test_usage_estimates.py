from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from pydantic import BaseModel

from langchain_vluna.usage import (
    estimate_prompt_tokens,
    estimate_result_tokens,
    estimate_text_tokens,
    estimate_value_tokens,
    requested_max_tokens,
)

BLOB = "QUJD" * 50_000


def test_text_is_four_bytes_a_token():
    """Any text is at least one token, none is none."""
    assert [0, 1, 1, 2] == [estimate_text_tokens(size) for size in (0, 1, 4, 5)]


def test_a_prompt_is_close_to_langchains_own_count():
    """For plain conversations the estimate differs little from `count_tokens_approximately`."""
    call: Any = {"name": "search", "args": {"query": "weather in Paris"}, "id": "call_1"}
    messages: list[BaseMessage] = [
        SystemMessage("You are a helpful assistant. " * 20),
        HumanMessage("What is the weather in Paris?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("18 degrees and sunny. " * 10, tool_call_id="call_1"),
    ]
    assert count_tokens_approximately(messages) == pytest.approx(estimate_prompt_tokens([messages]), rel=0.15)


def test_prompts_of_plain_llms_are_texts():
    """A plain LLM's prompts are strings, each rounded up."""
    assert 2 == estimate_prompt_tokens(["abc", "abcd"])
    assert 0 == estimate_prompt_tokens([])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BLOB}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BLOB}},
        {"type": "image", "base64": BLOB, "mime_type": "image/png"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{BLOB}"},
        {"type": "input_audio", "input_audio": {"data": BLOB, "format": "wav"}},
        {"type": "audio", "base64": BLOB, "mime_type": "audio/wav"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": BLOB}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BLOB}},
        {"type": "media", "mime_type": "video/mp4", "data": BLOB},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "base64": BLOB}]},
    ],
)
def test_media_cost_a_fixed_amount(block: Any):
    """An image, a sound or a file is some tokens, whatever its encoding weighs."""
    bare = estimate_prompt_tokens([[HumanMessage([{"type": "text", "text": "Look."}])]])
    assert 85 == estimate_prompt_tokens([[HumanMessage([{"type": "text", "text": "Look."}, block])]]) - bare


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "x" * 400},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 400}},
        {"type": "file", "source_type": "text", "text": "x" * 400},
        {"type": "text-plain", "text": "x" * 400, "mime_type": "text/plain"},
        {"type": "tool_result", "tool_use_id": "1", "content": "x" * 400},
        "x" * 400,
    ],
)
def test_text_in_any_block_counts(block: Any):
    """Documents that are sent as text are text."""
    assert 100 == estimate_prompt_tokens([[HumanMessage([block])]]) - estimate_prompt_tokens([[HumanMessage("")]])


def test_calls_count_once():
    """Tool calls count with the message, unless its content has them already."""
    call: Any = {"name": "f", "args": {"data": "x" * 400}, "id": "1"}
    block: Any = {"type": "tool_use", "id": "1", "name": "f", "input": {"data": "x" * 400}}
    beside = estimate_prompt_tokens([[AIMessage("", tool_calls=[call])]])
    within = estimate_prompt_tokens([[AIMessage([block], tool_calls=[call])]])
    assert beside == within
    assert 100 < beside < 120


def test_odd_arguments_do_no_harm():
    """Arguments that are no JSON, or refer to themselves, are still estimated."""
    loop: list[Any] = []
    loop.append(loop)
    params = {"tools": [{"parameters": {1, 2}}], "functions": [object()], "response_format": {"a": loop}}
    assert 0 < estimate_prompt_tokens(["x"], params)


def test_a_value_of_any_shape_is_estimated():
    """Messages, models and mappings, however nested, count with the text they hold."""

    class Question(BaseModel):
        instructions: str
        options: list[str]

    value = {"state": [HumanMessage("x" * 40)], "questions": {"q": Question(instructions="y" * 40, options=["z" * 20])}}
    assert 25 == estimate_value_tokens(value)
    assert 0 == estimate_value_tokens(None)


def test_a_result_is_all_it_delivers():
    """Every choice counts, with text, calls and reasoning."""
    call: Any = {"name": "f", "args": {}, "id": "1"}
    message = AIMessage("12345678", tool_calls=[call], additional_kwargs={"reasoning_content": "123"})
    assert 3 == estimate_result_tokens(LLMResult(generations=[[ChatGeneration(message=message)]]))
    choices = [Generation(text="1234"), Generation(text="1234")]
    assert 2 == estimate_result_tokens(LLMResult(generations=[choices]))


nested = st.recursive(
    st.none() | st.text() | st.integers() | st.floats(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "data", "input", "source"]), inner)
    ),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(["type", "text", "content", "source", "input"]), nested), max_size=4))
def test_no_content_crashes(blocks: Any):
    """Whatever blocks a message has, its estimate is a number."""
    assert 0 < estimate_prompt_tokens([[HumanMessage("x").model_copy(update={"content": blocks})]])


@pytest.mark.parametrize(
    ("metadata", "params", "limit"),
    [
        (None, None, None),
        ({"ls_max_tokens": 50}, {}, 50),
        ({"ls_max_tokens": 50}, {"max_tokens": 20}, 20),
        ({}, {"max_completion_tokens": 20, "n": 3}, 60),
        ({}, {"max_output_tokens": 20, "candidate_count": 2}, 40),
        ({}, {"options": {"num_predict": 30}}, 30),
        ({}, {"num_predict": -1}, None),
        ({}, {"max_tokens": "20", "n": "many"}, None),
        ({}, {"max_tokens": True}, None),
        ({}, {"generation_config": {"max_output_tokens": 8}}, 8),
        ({"ls_provider": "anthropic", "ls_max_tokens": 64_000}, {"max_tokens": 64_000}, None),
        ({"ls_provider": "openai", "ls_max_tokens": 64_000}, {"max_tokens": 64_000}, 64_000),
        ({"ls_provider": None, "ls_max_tokens": 64_000}, {}, 64_000),
    ],
)
def test_the_runs_own_limit(metadata: Any, params: Any, limit: int | None):
    """A limit is found in any provider's spelling, times the choices; what is no limit is none."""
    assert limit == requested_max_tokens(metadata, params)
