"""How providers' HTTP APIs put one scripted answer: whole bodies and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]
Event = tuple[str | None, Json | str]
"""Name and data of one server-sent event; OpenAI's chat completions have no names."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What the provider says it used. `prompt` and `completion` include their parts, as OpenAI counts."""

    prompt: int = 100
    completion: int = 20
    cached: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    """The two parts of `cache_write` by time to live, Anthropic's whole answers only."""
    reasoning: int = 0
    audio_prompt: int = 0
    audio_completion: int = 0

    def openai_chat(self) -> Json:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {
                "cached_tokens": self.cached,
                "audio_tokens": self.audio_prompt,
                **({"cache_write_tokens": self.cache_write} if self.cache_write else {}),
            },
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": self.audio_completion,
            },
        }

    def openai_responses(self) -> Json:
        return {
            "input_tokens": self.prompt,
            "output_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": self.cache_write},
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
        }

    def anthropic(self) -> Json:
        usage: Json = {
            "input_tokens": self.prompt - self.cached - self.cache_write,
            "output_tokens": self.completion,
            "cache_read_input_tokens": self.cached,
            "cache_creation_input_tokens": self.cache_write,
        }
        if self.reasoning:
            usage["output_tokens_details"] = {"thinking_tokens": self.reasoning}
        if self.cache_write_5m or self.cache_write_1h:
            usage["cache_creation"] = {
                "ephemeral_5m_input_tokens": self.cache_write_5m,
                "ephemeral_1h_input_tokens": self.cache_write_1h,
            }
        return usage


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One scripted answer of the stub, for whichever API is asked."""

    text: str = "Hello from the stub."
    tool_calls: tuple[tuple[str, Json], ...] = ()
    """Names and arguments."""
    tokens: Tokens | None = field(default_factory=Tokens)
    """`None`: no usage in the answer."""
    model: str | None = None
    """The model that served; `None` is the model asked for."""
    service_tier: str | None = None
    status: int = 200
    """Anything else answers with an error body."""
    items: tuple[Json, ...] = ()
    """OpenAI Responses output items, or Anthropic content blocks, before the text."""
    server_tool_use: Mapping[str, int] | None = None
    """Anthropic's count of tool calls it ran itself."""
    output_only: bool = False
    """As some Anthropic-compatible endpoints: the last event of a stream reports output tokens alone."""
    running_usage: bool = False
    """As OpenAI-compatible servers that report usage with every chunk, each time of all so far."""
    cut_after: int | None = None
    """Events of a stream after which the connection is dropped."""
    hold_after: int | None = None
    """Events of a stream after which it waits for `LLMStub.release`; 0 holds a whole answer, too."""

    def words(self) -> list[str]:
        return [word + " " for word in self.text.split(" ")[:-1]] + self.text.split(" ")[-1:] if self.text else []


def error_body(status: int) -> Json:
    return {"type": "error", "error": {"type": "scripted_error", "message": f"scripted {status}", "code": "scripted"}}


# --- OpenAI: chat completions, completions, embeddings ----------------------------------------------


def _calls(answer: Answer, *, indexed: bool) -> list[Json]:
    return [
        {
            **({"index": index} if indexed else {}),
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(args)},
        }
        for index, (name, args) in enumerate(answer.tool_calls)
    ]


def _finish(answer: Answer) -> str:
    return "tool_calls" if answer.tool_calls else "stop"


def _head(kind: str, answer: Answer, request: Json) -> Json:
    head: Json = {"id": f"{kind}-1", "object": kind, "created": 0, "model": answer.model or request["model"]}
    return head | ({"service_tier": answer.service_tier} if answer.service_tier else {})


def chat_body(answer: Answer, request: Json) -> Json:
    message: Json = {"role": "assistant", "content": answer.text}
    if answer.tool_calls:
        message["tool_calls"] = _calls(answer, indexed=False)
    choices = [
        {"index": index, "message": message, "finish_reason": _finish(answer)} for index in range(request.get("n") or 1)
    ]
    usage = {"usage": answer.tokens.openai_chat()} if answer.tokens else {}
    return {**_head("chat.completion", answer, request), "choices": choices, **usage}


def chat_events(answer: Answer, request: Json) -> Iterator[Event]:
    head = _head("chat.completion.chunk", answer, request)

    def chunk(delta: Json, finish: str | None = None) -> Json:
        choices = [
            {"index": i, "delta": {"role": "assistant", **delta}, "finish_reason": finish}
            for i in range(request.get("n") or 1)
        ]
        return {**head, "choices": choices}

    for count, word in enumerate(answer.words(), 1):
        so_far = replace(answer.tokens, completion=count) if answer.running_usage and answer.tokens else None
        yield None, chunk({"content": word}) | ({"usage": so_far.openai_chat()} if so_far else {})
    yield from ((None, chunk({"tool_calls": [call]})) for call in _calls(answer, indexed=True))
    yield None, chunk({}, _finish(answer))
    if answer.tokens and (request.get("stream_options") or {}).get("include_usage"):
        yield None, {**head, "choices": [], "usage": answer.tokens.openai_chat()}
    yield None, "[DONE]"


def completion_body(answer: Answer, request: Json) -> Json:
    prompts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
    count = len(prompts) * (request.get("n") or 1)
    choices = [{"index": i, "text": answer.text, "finish_reason": "stop", "logprobs": None} for i in range(count)]
    usage = answer.tokens.openai_chat() if answer.tokens else {}
    return {**_head("text_completion", answer, request), "choices": choices, "usage": usage}


def completion_events(answer: Answer, request: Json) -> Iterator[Event]:
    head = _head("text_completion", answer, request)
    for word in answer.words():
        yield None, {**head, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]}
    yield None, {**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]}
    yield None, "[DONE]"


def embeddings_body(answer: Answer, request: Json) -> Json:
    texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
    tokens = answer.tokens
    usage = {"usage": {"prompt_tokens": tokens.prompt, "total_tokens": tokens.prompt}} if tokens else {}
    data = [{"object": "embedding", "index": index, "embedding": [0.0, 1.0]} for index in range(len(texts))]
    return {"object": "list", "model": answer.model or request["model"], "data": data, **usage}


# --- OpenAI: responses ------------------------------------------------------------------------------


def responses_body(answer: Answer, request: Json) -> Json:
    output: list[Json] = list(answer.items)
    if answer.text:
        content = {"type": "output_text", "text": answer.text, "annotations": []}
        output.append(
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [content]}
        )
    for index, (name, args) in enumerate(answer.tool_calls):
        call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "status": "completed"}
        output.append({**call, "name": name, "arguments": json.dumps(args)})
    return {
        **_head("response", answer, request),
        "created_at": 0,
        "status": "completed",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **({"usage": answer.tokens.openai_responses()} if answer.tokens else {}),
    }


def responses_events(answer: Answer, request: Json) -> Iterator[Event]:
    body = responses_body(answer, request)
    started = {key: value for key, value in body.items() if key != "usage"} | {"status": "in_progress", "output": []}
    events: list[Json] = [{"type": "response.created", "response": started}]
    for index, item in enumerate(body["output"]):
        place = {"output_index": index, "item_id": item.get("id")}
        events.append({"type": "response.output_item.added", "item": _begun(item), **place})
        if item["type"] == "message":
            place |= {"content_index": 0, "logprobs": []}
            events += [{"type": "response.output_text.delta", "delta": word, **place} for word in answer.words()]
        elif item["type"] == "function_call":
            events.append({"type": "response.function_call_arguments.delta", "delta": item["arguments"], **place})
        events.append({"type": "response.output_item.done", "item": item, **place})
    events.append({"type": "response.completed", "response": body})
    for number, event in enumerate(events):
        yield event["type"], {**event, "sequence_number": number}


def _begun(item: Json) -> Json:
    empty = {"content": [], "arguments": ""}
    return {**item, **{key: value for key, value in empty.items() if key in item}, "status": "in_progress"}


# --- Anthropic: messages ----------------------------------------------------------------------------


def _blocks(answer: Answer) -> list[Json]:
    text = [{"type": "text", "text": answer.text}] if answer.text else []
    calls = [
        {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": args}
        for index, (name, args) in enumerate(answer.tool_calls)
    ]
    return [*answer.items, *text, *calls]


def messages_body(answer: Answer, request: Json) -> Json:
    usage = (answer.tokens or Tokens(prompt=0, completion=0)).anthropic()
    if answer.server_tool_use is not None:
        usage["server_tool_use"] = dict(answer.server_tool_use)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": answer.model or request["model"],
        "content": _blocks(answer),
        "stop_reason": "tool_use" if answer.tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def messages_events(answer: Answer, request: Json) -> Iterator[Event]:
    body = messages_body(answer, request)
    usage = body.pop("usage")
    started = {**body, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": started}]
    for index, block in enumerate(body["content"]):
        deltas: list[Json] = []
        begun = block
        if block["type"] == "text":
            begun = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": word} for word in answer.words()]
        elif block["type"] == "thinking":
            begun = {**block, "thinking": ""}
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        elif block["type"] in ("tool_use", "server_tool_use"):
            begun = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    usage.pop("cache_creation", None)
    final = {"output_tokens": usage["output_tokens"]} if answer.output_only else usage
    delta = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": final})
    events.append({"type": "message_stop"})
    yield from ((event["type"], event) for event in events)
