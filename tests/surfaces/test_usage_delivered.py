from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk, ChatMessageChunk
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk

from langchain_vluna.testing.models import ScriptedChatModel
from langchain_vluna.usage import Delivered, Reported
from tests.support.recorder import Recorder


def chunk(content: Any = "", **fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=content, **fields))


def used(input_tokens: int, output_tokens: int) -> Any:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


@given(st.lists(st.text(max_size=9)))
def test_text_counts_by_its_bytes(words: list[str]):
    """The size is the UTF-8 length of all text, and a token is four bytes of it, rounded up."""
    delivered = Delivered()
    for word in words:
        delivered.add(word, chunk(word))
    size = len("".join(words).encode())
    assert (size, -(-size // 4)) == (delivered.size, delivered.tokens)


def test_lone_surrogates_do_no_harm():
    """Half a character, as a badly cut stream delivers it, is counted."""
    delivered = Delivered()
    delivered.add("\ud83d", chunk())
    assert 3 == delivered.size


def test_a_token_without_a_chunk_counts():
    """Older models call `on_llm_new_token` with text alone."""
    delivered = Delivered()
    delivered.add("word")
    assert 4 == delivered.size


def test_blocks_count_by_what_they_say():
    """In a list of blocks, text, reasoning and arguments count; identifiers and signatures do not."""
    blocks: list[Any] = [
        {"type": "text", "text": "four", "index": 0, "id": "msg_1"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "five!"}], "id": "rs_1"},
        {"type": "thinking", "thinking": "six678", "signature": "s" * 500},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "call_1"},
        {"type": "input_json_delta", "partial_json": "{}"},
        "more",
    ]
    delivered = Delivered()
    delivered.add(blocks, chunk(blocks))
    assert 4 + 5 + 6 + 1 + 2 + 2 + 4 == delivered.size


def test_calls_beside_the_content_count():
    """Tool call chunks and reasoning beside the content are delivered, too."""
    call: Any = {"name": "add", "args": '{"a"', "id": "1", "index": 0, "type": "tool_call_chunk"}
    delivered = Delivered()
    delivered.add("", chunk(tool_call_chunks=[call]))
    delivered.add("", chunk(additional_kwargs={"reasoning_content": "hmm"}))
    assert len('add{"a"hmm') == delivered.size


def test_usage_in_chunks_adds_up():
    """As LangChain merges them: usage spread over chunks is the sum."""
    delivered = Delivered()
    delivered.add("", chunk(usage_metadata=used(10, 0)))
    delivered.add("word", chunk("word", usage_metadata=used(0, 3)))
    assert (10, 3) == (delivered.reported.input_tokens, delivered.reported.output_tokens)


RUNNING: list[list[tuple[str, Any]]] = [
    [("a ", used(10, 1)), ("b ", used(10, 2)), ("c", used(10, 3))],
    [("a b c", None), ("", used(10, 3)), ("", used(10, 3))],
]
IN_PARTS: list[list[tuple[str, Any]]] = [
    [("a ", used(10, 1)), ("b ", used(0, 1)), ("c", used(0, 1))],
    [("", used(4, 0)), ("a b c", None), ("", used(6, 3))],
    [("a ", used(5, 1)), ("b ", used(5, 1)), ("", {"input_tokens": 0, "output_tokens": 1, "total_tokens": 1})],
    [("a ", used(5, 2)), ("b ", used(5, 1))],
]


@pytest.mark.parametrize("parts", RUNNING + IN_PARTS)
def test_reports_that_repeat_the_prompt_are_running_totals(parts: list[tuple[str, Any]]):
    """A prompt is paid for once: where every report has all of it, the last one counts, else they add up."""
    delivered = Delivered()
    for text, counts in parts:
        delivered.add(text, chunk(text, usage_metadata=counts))
    assert (10, 3) == (delivered.reported.input_tokens, delivered.reported.output_tokens)


@pytest.mark.parametrize("parts", RUNNING)
def test_a_sum_of_running_totals_is_corrected(parts: list[tuple[str, Any]]):
    """LangChain adds running totals up; a result that knows better than to do so is kept."""
    delivered = Delivered()
    for text, counts in parts:
        delivered.add(text, chunk(text, usage_metadata=counts))
    told = [counts for _, counts in parts if counts]
    added_up = Reported(
        input_tokens=sum(counts["input_tokens"] for counts in told),
        output_tokens=sum(counts["output_tokens"] for counts in told),
        model="served",
    )
    known = Reported(input_tokens=11, output_tokens=4, model="served")
    corrected = delivered.corrected(added_up)
    assert (10, 3, "served") == (corrected.input_tokens, corrected.output_tokens, corrected.model)
    assert known == delivered.corrected(known)


def test_output_reported_before_the_text_is_not_the_whole():
    """A usage that text followed keeps its input; its output was a beginning."""
    delivered = Delivered()
    delivered.add("", chunk(usage_metadata=used(10, 1)))
    delivered.add("and so on", chunk("and so on"))
    assert Reported(input_tokens=10) == delivered.reported


def test_nothing_delivered_is_nothing_reported():
    """A run that streamed nothing has no size and no report."""
    assert (0, 0, Reported()) == (Delivered().size, Delivered().tokens, Delivered().reported)


def test_plain_chunks_count():
    """Chunks of plain LLMs have no message; Ollama's last one has the counts."""
    delivered = Delivered()
    delivered.add("four", GenerationChunk(text="four"))
    assert delivered.reported.usage is None
    delivered.add("", GenerationChunk(text="", generation_info={"prompt_eval_count": 12, "eval_count": 2}))
    assert 4 == delivered.size
    assert (12, 2) == (delivered.reported.input_tokens, delivered.reported.output_tokens)


def test_chunks_of_other_messages_count():
    """A chat model may stream messages that are no AI messages."""
    delivered = Delivered()
    delivered.add("four", ChatGenerationChunk(message=ChatMessageChunk(content="four", role="bot")))
    assert 4 == delivered.size


def test_an_early_exit_keeps_what_was_delivered():
    """A consumer that walks away after two words has been given two words."""
    recorder = Recorder()
    stream = ScriptedChatModel(responses=["one two three four"]).stream("x", {"callbacks": [recorder]})
    assert ["one", " two"] == [next(stream).text for _ in range(2)]
    stream.close()  # type: ignore[attr-defined]
    assert (len("one two"), None) == (recorder.delivered.size, recorder.delivered.reported.output_tokens)
    assert 1 == len(recorder.partial)
