"""Drive a model in each of the ways that callbacks see."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import Runnable

from tests.support.recorder import Recorder

__all__ = ["WAYS", "run"]

WAYS = ("invoke", "ainvoke", "stream", "astream")


async def run(model: Runnable[Any, Any], way: str, prompt: Any = "Say hello.") -> Recorder:
    """Run the model once and return what its callbacks were told."""
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    match way:
        case "invoke":
            model.invoke(prompt, config)
        case "ainvoke":
            await model.ainvoke(prompt, config)
        case "stream":
            list(model.stream(prompt, config))
        case _:
            _ = [chunk async for chunk in model.astream(prompt, config)]
    return recorder
