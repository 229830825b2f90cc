"""The chat model that the examples use: a real one where there is a key or an Ollama, else a scripted one."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from langchain_vluna import LocalGate
from langchain_vluna.naming import model_feature_code

Script = Callable[[Sequence[BaseMessage]], AIMessage]

_OLLAMA = "http://127.0.0.1:11434/api/tags"


def chat_model(script: Script) -> tuple[BaseChatModel, str]:
    """Return a chat model and the feature code under which its tokens are charged.

    `OPENAI_API_KEY` or `ANTHROPIC_API_KEY` or a running Ollama decide; with none of them, `script` answers.
    """
    if os.environ.get("OPENAI_API_KEY") and find_spec("langchain_openai"):
        from langchain_openai import ChatOpenAI

        name = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
        return ChatOpenAI(model_name=name, stream_usage=True), model_feature_code("openai", name)
    if os.environ.get("ANTHROPIC_API_KEY") and find_spec("langchain_anthropic"):
        from langchain_anthropic import ChatAnthropic

        name = os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5")
        return ChatAnthropic(model_name=name), model_feature_code("anthropic", name)  # type: ignore[call-arg]
    if find_spec("langchain_ollama") and (local := _ollama_model()):
        from langchain_ollama import ChatOllama

        return ChatOllama(model=local), model_feature_code("ollama", local)
    from langchain_vluna.testing.models import ScriptedChatModel

    return ScriptedChatModel(responses=[script], model="demo"), model_feature_code("scripted", "demo")


def price_tokens(gate: LocalGate, feature: str, *, xusd: int = 2) -> None:
    """Set the price of one token, in or out, in XUSD (0.000001 USD)."""
    for side in ("input", "output"):
        gate.price(feature, f"{feature}.tokens.{side}", xusd)


def _ollama_model() -> str | None:
    try:
        with urllib.request.urlopen(_OLLAMA, timeout=0.2) as response:
            models = json.load(response)["models"]
    except (OSError, ValueError, KeyError):
        return None
    return str(models[0]["name"]) if models else None
