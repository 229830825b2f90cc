"""What is measured: one model run, gated or not, and what else could ask a gate or bill a call.

A subject does one run, blocking or not, and `settle`s what is still owed at the end of a round, so that work put
off is counted as well.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from benchmarks import stub
from langchain_vluna import Gate, Settings, VlunaCallbackHandler
from langchain_vluna._core.types import HttpRequest, HttpResponse, Transport
from langchain_vluna._io.transport import HttpTransport

__all__ = ["SECRET", "Bare", "CheapModel", "Gated", "IdleHandler", "InstantGate", "Subject", "settings"]

SECRET = base64.b64encode(b"a key of the benchmarks, 32 byte").decode()
_USAGE = {"input_tokens": 40, "output_tokens": 9, "total_tokens": 49}
_TOKENS = [ChatGenerationChunk(message=AIMessageChunk(content=f"word{n} ")) for n in range(1000)]

Durability = Literal["process", "power"]


def settings(url: str) -> Settings:
    """Return the settings of a stub at `url`."""
    return Settings(
        base_url=f"{url}/mgt/v1",
        realm_id="realm-bench",
        service_key_id="key-bench",
        service_key_secret=SECRET,  # type: ignore[arg-type]
    )


class CheapModel(BaseChatModel):
    """Answers at once, as cheaply as LangChain lets a model; streams a thousand tokens."""

    delay: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "bench"

    def _get_ls_params(self, *_: Any, **__: Any) -> Any:
        return {"ls_provider": "bench", "ls_model_name": "cheap-1", "ls_model_type": "chat"}

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        message = AIMessage("ok", usage_metadata=_USAGE, response_metadata={"model_name": "cheap-1"})
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        if self.delay:
            await asyncio.sleep(self.delay)
        return self._generate()

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        yield from _TOKENS

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for token in _TOKENS:
            yield token


class Subject:
    """One run at a time, from any number of threads or tasks."""

    def run(self) -> None:
        raise NotImplementedError

    async def arun(self) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until nothing is owed."""

    async def aclose(self) -> None:
        """Let go of connections of the event loop."""

    def close(self) -> None:
        """Let go of everything."""


class Bare(Subject):
    """The model without a handler, or with the handlers given."""

    def __init__(self, *handlers: Any, delay: float = 0.0) -> None:
        self._model = CheapModel(delay=delay)
        self._config: Any = {"callbacks": list(handlers)} if handlers else None

    def run(self) -> None:
        self._model.invoke("hello", self._config)

    async def arun(self) -> None:
        await self._model.ainvoke("hello", self._config)

    def tokens(self) -> Iterator[Any]:
        return self._model.stream("hello", self._config)

    def atokens(self) -> AsyncIterator[Any]:
        return self._model.astream("hello", self._config)


class IdleHandler(BaseCallbackHandler):
    """Is told everything and does nothing: what LangChain takes to have a handler at all."""

    run_inline = True
    raise_error = True

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        return

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        return


class InstantGate:
    """The stub without a network: what is left is the client's own work."""

    def __init__(self) -> None:
        self.settings = settings("http://stub.invalid")

    def send(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, {}, stub.answer(request.target, request.content).encode())

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return self.send(request)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Gated(Bare):
    """The same model with our handler. Without a url the gate is in the process."""

    def __init__(
        self,
        url: str | None = None,
        *,
        fast: bool = False,
        outbox: str = "disk",
        durability: Durability = "process",
        principals: int = 1,
        delay: float = 0.0,
    ) -> None:
        """`outbox` is `disk`, `:memory:` or the path of a file that processes share."""
        self._folder = tempfile.TemporaryDirectory(prefix="vluna-bench-")
        self.outbox = str(Path(self._folder.name) / "outbox") if outbox == "disk" else outbox
        self.gate = Gate(_target(url, fast=fast), outbox=self.outbox, durability=durability, timeout=60.0)
        turns = itertools.cycle(f"customer-{n}" for n in range(principals))
        self.handler = VlunaCallbackHandler(self.gate, principal_id=lambda _: next(turns))
        super().__init__(self.handler, delay=delay)

    def settle(self) -> None:
        left = self.gate.flush()
        if left:
            msg = f"{left} runs are not settled"
            raise RuntimeError(msg)

    async def aclose(self) -> None:
        await self.gate.aclose()

    def close(self) -> None:
        self.gate.close()
        self._folder.cleanup()


def _target(url: str | None, *, fast: bool) -> Transport:
    if url is None:
        return InstantGate()
    own = settings(url)
    # The transport is given, so that core install and `[fast]` can be told apart in one environment.
    os.environ.update(
        VLUNA_SERVICE_BASE_URL=own.base_url,
        VLUNA_REALM_ID=own.realm_id,
        VLUNA_SERVICE_KEY_ID=own.service_key_id,
        VLUNA_SERVICE_KEY_SECRET=SECRET,
    )
    return HttpTransport(own.base_url, fast=fast)
