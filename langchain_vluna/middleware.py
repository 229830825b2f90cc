"""The agent middleware: the callback handler's gate, plus what callbacks cannot do.

It wraps each model and tool call in the `gated` context and settles nothing itself. So models inside tools are
gated too, and a handler attached anywhere else charges nothing twice. What it adds: an agent that ends in words, a
tool denial that the model can act on, a cheaper model to go on with, and cancellations, which callbacks do not see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable

try:
    from langchain.agents.middleware import AgentMiddleware, ExtendedModelResponse, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ToolCallRequest
    from langchain.chat_models import init_chat_model
    from langgraph.types import Command
except ImportError as error:
    msg = "VlunaMiddleware needs langchain 1.x; install the extra: pip install 'langchain-vluna[agents]'"
    raise ImportError(msg) from error

from typing_extensions import override

from langchain_vluna._core.errors import ConfigurationError, GateDenied
from langchain_vluna.callbacks import VlunaCallbackHandler
from langchain_vluna.callbacks.ambient import turned_on
from langchain_vluna.callbacks.options import (
    Choice,
    Estimate,
    Features,
    Idempotency,
    Labels,
    Meters,
    OnAbort,
    OnMissingUsage,
    Tools,
)
from langchain_vluna.gate import Gate
from langchain_vluna.gate.ambient import can_degrade, degradable
from langchain_vluna.gate.hints import Degraded
from langchain_vluna.gate.policy import choose

__all__ = ["ExitBehavior", "VlunaMiddleware"]

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ResultT = TypeVar("ResultT")

ExitBehavior = Literal["error", "end"]

_MARK = "vluna_denied"


class VlunaMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gates an agent's model and tool calls: `create_agent(..., middleware=[VlunaMiddleware(gate, ...)])`.

    Put it last, so that it is the innermost: then it sees each attempt of retrying middlewares.
    """

    def __init__(  # noqa: D417 -- most keywords are the handler's and explained there
        self,
        gate: Gate,
        *,
        principal_id: Choice = None,
        user_id: Choice = None,
        features: Features = None,
        feature_family_code: Choice = None,
        tools: Tools = "all",
        retrievers: Tools = None,
        meters: Meters = "input_output",
        estimate: Estimate = "auto",
        labels: Labels = None,
        budget: Choice = None,
        on_missing_usage: OnMissingUsage = "estimate",
        on_abort: OnAbort = "bill_delivered",
        idempotency: Idempotency = "run",
        exit_behavior: ExitBehavior = "error",
        fallback_model: str | BaseChatModel | None = None,
    ) -> None:
        """Attach a gate; the keywords that the callback handler has too mean the same here.

        Args:
            exit_behavior: When the gate denies: `error` raises `GateDenied`; `end` ends the agent with a readable
                last message, and tells the model of a denied tool, so that it can do without.
            fallback_model: Takes over where the gate denies the agent's model, or where a hint whose action is
                `degrade` says that little is left; a model, or a name for `init_chat_model`.
        """
        super().__init__()
        self.tools = []
        choose("exit_behavior", exit_behavior, ExitBehavior)
        if not isinstance(fallback_model, (str, Runnable, type(None))):
            msg = f"fallback_model must be a chat model or a name for init_chat_model, got {fallback_model!r}"
            raise ConfigurationError(msg)
        self._ends = exit_behavior == "end"
        self._fallback = init_chat_model(fallback_model) if isinstance(fallback_model, str) else fallback_model
        self.handler = VlunaCallbackHandler(
            gate,
            principal_id=principal_id,
            user_id=user_id,
            features=features,
            feature_family_code=feature_family_code,
            tools=tools,
            retrievers=retrievers,
            meters=meters,
            estimate=estimate,
            labels=labels,
            budget=budget,
            on_missing_usage=on_missing_usage,
            on_abort=on_abort,
            idempotency=idempotency,
        )

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | AIMessage | ExtendedModelResponse[Any]:
        return _drive(self._model_call(request), handler)

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | AIMessage | ExtendedModelResponse[Any]:
        return await _adrive(self._model_call(request), handler)

    @override
    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        return _drive(self._tool_call(request), handler)

    @override
    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        return await _adrive(self._tool_call(request), handler)

    def _model_call(
        self, request: ModelRequest[Any]
    ) -> Generator[ModelRequest[Any], ModelResponse[Any], ModelResponse[Any] | ExtendedModelResponse[Any]]:
        try:
            try:
                with turned_on(self.handler), degradable(possible=self._fallback is not None or can_degrade()):
                    return (yield request)
            except GateDenied:
                if self._fallback is None:
                    raise
            with turned_on(self.handler), degradable(possible=False):
                return (yield request.override(model=self._fallback))
        except GateDenied as denial:
            # Where an agent cannot be ended it comes back at once; better an error than a loop.
            if not self._ends or isinstance(denial, Degraded) or _says_denied(request.messages):
                raise
            return _last_words(denial)

    def _tool_call(
        self, request: ToolCallRequest
    ) -> Generator[ToolCallRequest, ToolMessage | Command[Any], ToolMessage | Command[Any]]:
        try:
            with turned_on(self.handler), degradable(possible=False):
                return (yield request)
        except GateDenied as denial:
            if not self._ends:
                raise
            call = request.tool_call
            return ToolMessage(
                f"Not allowed: {_in_words(denial)} Do not call {call['name']} again; go on without it.",
                name=call["name"],
                tool_call_id=call["id"],
                status="error",
            )


def _drive(flow: Generator[RequestT, ResponseT, ResultT], handler: Callable[[RequestT], ResponseT]) -> ResultT:
    try:
        request = next(flow)
        while True:
            try:
                response = handler(request)
            except BaseException as error:  # noqa: BLE001 -- the flow decides, and raises what it does not handle
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def _adrive(
    flow: Generator[RequestT, ResponseT, ResultT], handler: Callable[[RequestT], Awaitable[ResponseT]]
) -> ResultT:
    try:
        request = next(flow)
        while True:
            try:
                response = await handler(request)
            except BaseException as error:  # noqa: BLE001 -- as in `_drive`
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _last_words(denial: GateDenied) -> ExtendedModelResponse[Any]:
    message = AIMessage(
        f"I cannot go on: {_in_words(denial)}",
        response_metadata={_MARK: denial.reason, "finish_reason": "stop"},
    )
    # Without the jump, an agent with a response_format would ask its model again until the recursion limit.
    return ExtendedModelResponse(ModelResponse([message]), command=Command(update={"jump_to": "end"}))


def _says_denied(messages: list[Any]) -> bool:
    return bool(messages) and _MARK in getattr(messages[-1], "response_metadata", {})


_WORDS = {
    "funding": "the balance is used up.",
    "quota": "the quota for this is used up.",
    "budget": "the budget for this is used up.",
    "entitlement": "the plan does not include this.",
    "rate": "there were too many calls in a short time.",
    "unknown": "the plan does not allow this.",
}


def _in_words(denial: GateDenied) -> str:
    return _WORDS[denial.reason]
