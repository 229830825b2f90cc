"""The examples' tools and their script do what a small model would."""

from __future__ import annotations

import pytest
from _model import chat_model
from _tools import TOOLS, answer, calculate
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_vluna.testing.models import ScriptedChatModel


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is 17 * 23?", "17 * 23 = 391."),
        ("(3+4)*5 please", "(3+4)*5 = 35."),
        ('Reverse "hello"', "“hello” backwards is “olleh”."),
        ("It's fine, isn't it?", "“It's fine, isn't it?” has 4 words."),
        ("Is 1/0 allowed?", "1/0 = cannot calculate '1/0': division by zero."),
    ],
)
def test_the_script_answers_with_tools(question: str, expected: str):
    """The script calls tools that fit the question and puts their answers into words."""
    tools = {tool.name: tool for tool in TOOLS}
    messages: list[BaseMessage] = [HumanMessage(question)]
    messages.append(answer(messages))
    messages += [
        ToolMessage(tools[call["name"]].invoke(call["args"]), tool_call_id=call["id"])
        for call in messages[-1].tool_calls  # type: ignore[attr-defined]
    ]
    assert expected == answer(messages).content


@pytest.mark.parametrize("expression", ["__import__('os')", "2 ** 9999999", "a + 1", "(1"])
def test_the_calculator_only_calculates(expression: str):
    """What is no plain sum is refused in words, not run."""
    assert calculate.invoke({"expression": expression}).startswith("cannot calculate")


def test_without_keys_the_model_is_scripted():
    """With no key and no Ollama, examples run on the scripted model."""
    model, feature = chat_model(answer)
    assert isinstance(model, ScriptedChatModel)
    assert "scripted.demo" == feature


@pytest.mark.parametrize(
    ("key", "name", "feature"),
    [
        ("OPENAI_API_KEY", "ChatOpenAI", "openai.gpt-4o-mini"),
        ("ANTHROPIC_API_KEY", "ChatAnthropic", "anthropic.claude-haiku-4-5"),
    ],
)
def test_with_a_key_the_model_is_real(key: str, name: str, feature: str, monkeypatch: pytest.MonkeyPatch):
    """A provider's key chooses that provider's model, under its own feature code."""
    monkeypatch.setenv(key, "made-up")
    model, code = chat_model(answer)
    assert (name, feature) == (type(model).__name__, code)
