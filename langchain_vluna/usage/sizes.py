"""How much text is in messages and content blocks, in UTF-8 bytes.

Bytes and not characters: four bytes a token is right for English and close for scripts
whose characters are tokens of their own. Media count a fixed size each, whatever their
encoding weighs; identifiers, signatures and URLs count nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolCallChunk, ToolMessage
from pydantic import BaseModel

__all__ = [
    "BYTES_PER_TOKEN",
    "content_size",
    "json_size",
    "message_size",
    "side_size",
    "text_size",
    "tool_calls_size",
]

BYTES_PER_TOKEN = 4
_MEDIA_SIZE = 85 * BYTES_PER_TOKEN  # what langchain-core's count_tokens_approximately takes for an image
_NUMBER_SIZE = BYTES_PER_TOKEN

_MEDIA_TYPES = frozenset(
    {
        "audio",
        "document",
        "file",
        "image",
        "image_generation_call",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "media",
        "video",
    }
)
_CALL_TYPES = frozenset({"custom_tool_call", "function_call", "tool_call", "tool_use"})
_OPAQUE_KEYS = frozenset(
    {
        "annotations",
        "b64_json",
        "base64",
        "cache_control",
        "call_id",
        "citations",
        "container_id",
        "data",
        "encrypted_content",
        "extras",
        "file_data",
        "file_id",
        "id",
        "index",
        "mime_type",
        "signature",
        "status",
        "thought_signature",
        "tool_call_id",
        "tool_use_id",
        "type",
        "url",
    }
)
_ARGUMENT_KEYS = ("args", "arguments", "input")  # of calls: any of their own keys may have an opaque key's name
_SIDE_TEXTS = ("reasoning_content", "refusal")


def text_size(text: str) -> int:
    """Return the UTF-8 length, lone surrogates included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def content_size(content: object) -> int:
    """Return the size of text, a content block, a message or any nesting of them."""
    size, pending = 0, [content]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            size += text_size(item)
        elif isinstance(item, Mapping):
            size += _open(item, pending)
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        elif isinstance(item, BaseMessage):
            size += message_size(item)
        elif isinstance(item, BaseModel):
            pending.extend(value for _, value in item)
        elif isinstance(item, (int, float)):
            size += _NUMBER_SIZE
    return size


def message_size(message: BaseMessage) -> int:
    """Return the size of all a message says: content, tool calls, reasoning beside the content."""
    size = content_size(message.content) + side_size(message.additional_kwargs)
    if isinstance(message, AIMessage) and message.tool_calls and not _holds_calls(message.content):
        size += tool_calls_size(message.tool_calls)
    if isinstance(message, ToolMessage):
        size += text_size(message.tool_call_id)
    return size


def tool_calls_size(calls: Iterable[ToolCall | ToolCallChunk]) -> int:
    """Return the size of names and arguments."""
    return sum(text_size(call.get("name") or "") + json_size(call.get("args")) for call in calls)


def json_size(value: object) -> int:
    """Return the size of a value as it travels: text as it is, the rest as JSON, nothing for what is empty."""
    if not value:  # streams begin a tool call with `{}` before its arguments come
        return 0
    if isinstance(value, str):
        return text_size(value)
    try:
        return text_size(json.dumps(value, ensure_ascii=False, default=lambda _: None))
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a value that holds itself
        return _NUMBER_SIZE


def side_size(additional_kwargs: Mapping[str, Any]) -> int:
    """Return the size of text that a provider delivers outside of the content."""
    if not additional_kwargs:
        return 0
    return sum(text_size(text) for key in _SIDE_TEXTS if isinstance(text := additional_kwargs.get(key), str))


def _open(block: Mapping[Any, Any], pending: list[Any]) -> int:
    """Queue what counts of a mapping and return the size of what does not need queueing."""
    if _kind(block) in _MEDIA_TYPES:
        text = _document_text(block)
        pending.append(text)
        return 0 if text else _MEDIA_SIZE
    pending.extend(value for key, value in block.items() if key not in _OPAQUE_KEYS and key not in _ARGUMENT_KEYS)
    return sum(json_size(block.get(key)) for key in _ARGUMENT_KEYS)


def _document_text(block: Mapping[Any, Any]) -> Any:
    """Return the text of a document that is sent as text, else `None`."""
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") in ("text", "content"):
        return source.get("data") or source.get("content")
    return block.get("text")


def _holds_calls(content: object) -> bool:
    return isinstance(content, list) and any(isinstance(b, Mapping) and _kind(b) in _CALL_TYPES for b in content)


def _kind(block: Mapping[Any, Any]) -> str | None:
    kind = block.get("type")
    return kind if isinstance(kind, str) else None
