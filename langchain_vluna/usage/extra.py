"""Work of a model run that its tokens do not show: tools the provider runs, images it makes.

What is seen is on the label `extra_work` of its charge, and in `Usage.extra` for a `meters` callable, which can put
it on meters of its own.

| work | seen | where |
| --- | --- | --- |
| Anthropic web search, web fetch | yes | `usage.server_tool_use`; streamed: the `server_tool_use` blocks |
| Anthropic code execution, MCP connector | yes, calls | `server_tool_use`, `mcp_tool_use` blocks; not container hours |
| OpenAI Responses web search, file search, code interpreter, computer use, MCP | yes, calls | output items |
| OpenAI Responses image generation | yes, images | output items; not size and quality |
| OpenAI Chat Completions search models | no | the answer does not say how often they searched |
| Google search grounding | yes, queries | `grounding_metadata.web_search_queries` |
| Google code execution | yes, calls | `executable_code` blocks |
| Images in an answer's content | yes, images | `image` blocks |
| Audio | as tokens | `Usage.audio_input_tokens`, `.audio_output_tokens` |
| Reranking, embeddings, moderation, storage of files and vectors | no | no model run |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.outputs import LLMResult

__all__ = ["extra_work"]

_BY_BLOCK_TYPE = {
    "code_interpreter_call": "code_execution",
    "computer_call": "computer_use",
    "executable_code": "code_execution",
    "file_search_call": "file_search",
    "image": "image_generation",
    "image_generation_call": "image_generation",
    "image_url": "image_generation",
    "mcp_call": "mcp",
    "mcp_tool_use": "mcp",
    "web_search_call": "web_search",
}
_CALL_BLOCKS = frozenset({"server_tool_use", "server_tool_call"})
_BY_CALL_NAME = {
    "bash_code_execution": "code_execution",
    "code_execution": "code_execution",
    "code_interpreter": "code_execution",
    "file_search": "file_search",
    "image_generation": "image_generation",
    "mcp_call": "mcp",
    "remote_mcp": "mcp",
    "text_editor_code_execution": "code_execution",
    "web_fetch": "web_fetch",
    "web_search": "web_search",
    "web_search_call": "web_search",
}
_BY_USAGE_KEY = {
    "code_execution_requests": "code_execution",
    "web_fetch_requests": "web_fetch",
    "web_search_requests": "web_search",
}


def extra_work(result: LLMResult) -> dict[str, int]:
    """Count work beside tokens, by kind (`web_search`, `code_execution`, ...); see the table of this module.

    What the provider itself counted wins over what is counted in the content.
    """
    messages = [getattr(g, "message", None) for choices in result.generations for g in choices]
    metadata = [getattr(message, "response_metadata", None) for message in messages]
    found: defaultdict[str, int] = defaultdict(int)
    for message in messages:
        for kind in _kinds(message):
            found[kind] += 1
    for holder in metadata:
        found["web_search"] += _grounding_queries(holder)
    for holder in (result.llm_output, *metadata):
        for kind, count in _counted_by_provider(holder):
            found[kind] = count
    return {kind: count for kind, count in sorted(found.items()) if count}


def _kinds(message: Any) -> Iterator[str]:
    for block in _blocks(message):
        kind = block.get("type")
        if not isinstance(kind, str):
            continue
        if kind in _CALL_BLOCKS:
            name = block.get("name")
            yield _BY_CALL_NAME.get(name, name) if isinstance(name, str) and name else "other"
        elif kind in _BY_BLOCK_TYPE:
            yield _BY_BLOCK_TYPE[kind]


def _blocks(message: Any) -> Iterator[Mapping[str, Any]]:
    """Yield content blocks, and OpenAI's output items where older output versions keep them."""
    beside = _inner(getattr(message, "additional_kwargs", None), "tool_outputs")
    for holder in (getattr(message, "content", None), beside):
        if isinstance(holder, list):
            yield from (block for block in holder if isinstance(block, Mapping))


def _grounding_queries(metadata: object) -> int:
    grounding = _inner(metadata, "grounding_metadata")
    queries = _inner(grounding, "web_search_queries") or _inner(grounding, "webSearchQueries")
    return len(queries) if isinstance(queries, (list, tuple)) else 0


def _counted_by_provider(holder: object) -> Iterator[tuple[str, int]]:
    counts = _inner(_inner(holder, "usage"), "server_tool_use")
    if counts and isinstance(counts, Mapping):
        for key, count in counts.items():
            if type(count) is int and count >= 0 and isinstance(key, str):
                yield _BY_USAGE_KEY.get(key, key), count


def _inner(holder: object, key: str) -> Any:
    return holder.get(key) if holder and isinstance(holder, Mapping) else None
