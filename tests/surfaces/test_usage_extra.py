from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_vluna.usage import extra_work


def result(content: Any = "", *, llm_output: Any = None, choices: int = 1, **fields: Any) -> LLMResult:
    generation = ChatGeneration(message=AIMessage(content, **fields))
    return LLMResult(generations=[[generation] * choices], llm_output=llm_output)


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "web_search_call", "id": "1"}, "web_search"),
        ({"type": "file_search_call", "id": "1"}, "file_search"),
        ({"type": "code_interpreter_call", "id": "1"}, "code_execution"),
        ({"type": "computer_call", "id": "1"}, "computer_use"),
        ({"type": "mcp_call", "id": "1"}, "mcp"),
        ({"type": "image_generation_call", "id": "1"}, "image_generation"),
        ({"type": "image", "base64": "QUJD"}, "image_generation"),
        ({"type": "server_tool_use", "name": "web_fetch"}, "web_fetch"),
        ({"type": "server_tool_call", "name": "code_interpreter", "args": {}}, "code_execution"),
        ({"type": "server_tool_call", "name": "tool_search", "args": {}}, "tool_search"),
        ({"type": "server_tool_call"}, "other"),
        ({"type": "mcp_tool_use", "name": "anything"}, "mcp"),
        ({"type": "executable_code", "executable_code": "1"}, "code_execution"),
    ],
)
def test_work_in_blocks_is_counted(block: Any, kind: str):
    """Each block of work that the provider did itself counts as one of its kind."""
    assert {kind: 2} == extra_work(result([{"type": "text", "text": "x"}, block, block]))


def test_work_outside_of_the_content_is_counted():
    """Older output versions keep OpenAI's items beside the content."""
    items = [{"type": "web_search_call", "id": "1"}]
    assert {"web_search": 1} == extra_work(result("x", additional_kwargs={"tool_outputs": items}))


def test_the_providers_count_is_taken_once():
    """A count that stands in the message and in `llm_output`, and once for each choice, is one count."""
    usage = {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0, "odd": "x"}}
    found = result("x", response_metadata={"usage": usage}, llm_output={"usage": usage}, choices=2)
    assert {"web_search": 2} == extra_work(found)


def test_grounding_queries_are_counted():
    """Google's search grounding tells its queries in the response metadata."""
    metadata = {"grounding_metadata": {"web_search_queries": ["a", "b"]}}
    assert {"web_search": 2} == extra_work(result("x", response_metadata=metadata))


@pytest.mark.parametrize(
    "nothing",
    [
        result("just text"),
        result([{"type": "text", "text": "x"}, "more"]),
        result("x", response_metadata={"grounding_metadata": {"web_search_queries": None}, "usage": 7}),
        LLMResult(generations=[[Generation(text="x")]], llm_output={"usage": {"server_tool_use": None}}),
        LLMResult(generations=[]),
    ],
)
def test_no_extra_work(nothing: LLMResult):
    """Text is no extra work."""
    assert {} == extra_work(nothing)
