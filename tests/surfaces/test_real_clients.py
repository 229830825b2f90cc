"""The real OpenAI and Anthropic clients against a stub of their HTTP APIs: the ledger has the provider's numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import SecretStr

from langchain_vluna import GateDenied
from tests.support.billing import CUSTOMER, Till
from tests.support.llm_stub import Answer, LLMStub, Tokens
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import add
from tests.surfaces.waiting import settled_sync

pytestmark = [
    pytest.mark.usefixtures("quick_watch"),
    # A model whose maximum the client knows and fills in; its makers may deprecate it any day.
    pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning"),
]

TOKENS = Tokens(prompt=100, completion=20, cached=60, cache_write=10, reasoning=7)
KEY: dict[str, Any] = {"api_key": SecretStr("made-up"), "max_retries": 0}
PROMPT = "What is the answer to everything?"
WAYS = ("invoke", "ainvoke", "stream", "astream")
METERS = ("input", "output", "cached", "cache_write", "reasoning", "audio_input", "audio_output")
FEATURES = {
    "chat": "openai.gpt-4o",
    "responses": "openai.gpt-4o",
    "messages": "anthropic.claude-sonnet-4-5",
}


@pytest.fixture
def stub() -> Iterator[LLMStub]:
    with LLMStub() as server:
        server.default = Answer(tokens=TOKENS, text="Forty-two, as everybody knows by now.")
        yield server


@pytest.fixture
def priced(make_till: MakeTill) -> Till:
    """A till whose gate has a price of 1 for each token meter of the real models."""
    till = make_till()
    for feature in (*FEATURES.values(), "openai.gpt-3.5-turbo-instruct"):
        for meter in METERS:
            till.ledger.price(feature, f"{feature}.tokens.{meter}", 1)
    return till


def client(api: str, stub: LLMStub, **settings: Any) -> Any:
    match api:
        case "chat":
            options = {"model": "gpt-4o", "stream_usage": True, "base_url": stub.openai_base_url, **KEY, **settings}
            return ChatOpenAI(**options)
        case "responses":
            options = {"model": "gpt-4o", "base_url": stub.openai_base_url, "use_responses_api": True, **KEY}
            return ChatOpenAI(**options, **settings)
        case _:
            return ChatAnthropic(
                **{"model": "claude-sonnet-4-5", "base_url": stub.anthropic_base_url, **KEY, **settings}
            )


def drive(runnable: Any, way: str, config: Any, asked: Any = PROMPT) -> None:
    match way:
        case "invoke":
            runnable.invoke(asked, config)
        case "stream":
            assert list(runnable.stream(asked, config))
        case "ainvoke":
            asyncio.run(runnable.ainvoke(asked, config))
        case "astream":
            asyncio.run(_read(runnable.astream(asked, config)))


async def _read(stream: Any) -> None:
    assert [chunk async for chunk in stream]


def charged(till: Till) -> list[tuple[str, dict[str, int], str, str]]:
    """Return feature, tokens by kind, status and source of each charge."""
    assert [] == till.open_leases()
    return [
        (
            rating.feature_code,
            {code.rpartition(".")[2]: quantity for code, quantity in rating.meters.items()},
            rating.status,
            rating.labels["usage_source"],
        )
        for rating in settled_sync(till)
    ]


SPLITS: dict[Any, dict[str, int]] = {
    "input_output": {"input": 100, "output": 20},
    "input_output_cached": {"input": 30, "cached": 60, "cache_write": 10, "output": 20},
    "detailed": {"input": 30, "cached": 60, "cache_write": 10, "output": 13, "reasoning": 7},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("meters", SPLITS)
@pytest.mark.parametrize("api", FEATURES)
def test_tokens_are_those_of_the_provider(priced: Till, stub: LLMStub, api: str, meters: Any, way: str) -> None:
    """Cached, cache-write and reasoning tokens are told apart as the user says, and always add up."""
    drive(client(api, stub), way, priced.unwitnessed(priced.handler(meters=meters)))
    assert [(FEATURES[api], SPLITS[meters], "applied", "reported")] == charged(priced)
    assert 10**9 - 120 == priced.balance()
    assert 1 == stub.calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("api", FEATURES)
def test_a_denied_client_sends_nothing(make_till: MakeTill, stub: LLMStub, api: str, way: str) -> None:
    """After a 402 not one byte reaches the provider."""
    till = make_till(grant=0)
    till.ledger.price(FEATURES[api], f"{FEATURES[api]}.tokens.input", 1)
    with pytest.raises(GateDenied, match=FEATURES[api]) as caught:
        drive(client(api, stub), way, till.unwitnessed())
    assert (CUSTOMER, 0, 1) == (caught.value.principal_id, stub.calls, till.asked)


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_usage_told_with_every_chunk_is_charged_once(priced: Till, stub: LLMStub, way: str) -> None:
    """Some servers tell with each chunk what the stream has used so far; LangChain adds that up, the bill does not."""
    stub.script(Answer(tokens=TOKENS, text="Forty-two, as everybody knows by now.", running_usage=True))
    drive(client("chat", stub), way, priced.unwitnessed())
    assert [(FEATURES["chat"], {"input": 100, "output": 20}, "applied", "reported")] == charged(priced)


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_reports_nothing_is_estimated(priced: Till, stub: LLMStub, way: str) -> None:
    """A custom base URL switches streamed usage off; what was delivered is charged, and said to be estimated."""
    drive(client("chat", stub, stream_usage=None), way, priced.unwitnessed())
    [(feature, tokens, status, source)] = charged(priced)
    assert ("openai.gpt-4o", "applied", "estimated") == (feature, status, source)
    assert -(-len(stub.default.text) // 4) == tokens["output"]
    assert len(PROMPT) // 4 <= tokens["input"] < len(PROMPT)


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_usage_that_is_missing_can_be_left_out(priced: Till, stub: LLMStub, way: str) -> None:
    """With `on_missing_usage="cancel"` a run that reports nothing is not charged at all."""
    drive(client("chat", stub, stream_usage=None), way, priced.unwitnessed(priced.handler(on_missing_usage="cancel")))
    assert [] == charged(priced)
    assert ["canceled"] == [view.state for view in priced.ledger.leases()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", [{"n": 3}, {"streaming": True}, {"disable_streaming": True}])
def test_one_request_is_charged_once(priced: Till, stub: LLMStub, settings: dict[str, Any], way: str) -> None:
    """Several choices, forced streaming and forbidden streaming are one request, charged once."""
    drive(client("chat", stub, **settings), way, priced.unwitnessed())
    assert [("openai.gpt-4o", {"input": 100, "output": 20}, "applied", "reported")] == charged(priced)
    assert 1 == stub.calls


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_prompts_that_share_a_request_share_its_usage(priced: Till, stub: LLMStub, colour: str) -> None:
    """A plain LLM sends several prompts in one request, whose usage is charged once."""
    options: Any = {"model": "gpt-3.5-turbo-instruct", "base_url": stub.openai_base_url, **KEY}
    llm = OpenAI(**options)
    if colour == "sync":
        llm.generate(["one", "two", "three"], **priced.unwitnessed())
    else:
        asyncio.run(llm.agenerate(["one", "two", "three"], **priced.unwitnessed()))
    assert [("openai.gpt-3.5-turbo-instruct", {"input": 100, "output": 20}, "applied", "reported")] == charged(priced)
    assert (1, 3) == (stub.calls, priced.asked)


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("api", FEATURES)
def test_a_stream_cut_by_the_provider_is_cancelled(priced: Till, stub: LLMStub, api: str, way: str) -> None:
    """A provider that drops the connection in mid-answer failed, and is not paid for."""
    stub.script(Answer(text="one two three four five", tokens=TOKENS, cut_after=4))
    with pytest.raises(Exception, match=r".") as caught:
        drive(client(api, stub), way, priced.unwitnessed())
    assert not isinstance(caught.value, GateDenied)
    assert [] == charged(priced)
    assert ["canceled"] == [view.state for view in priced.ledger.leases()]


@pytest.mark.parametrize("api", FEATURES)
def test_a_stream_left_by_its_reader_is_charged_what_came(priced: Till, stub: LLMStub, api: str) -> None:
    """A reader who leaves after some words is charged these, estimated, with the prompt."""
    stub.script(Answer(text="one two three four five", tokens=TOKENS))
    heard = ""
    stream = client(api, stub).stream(PROMPT, priced.unwitnessed())
    while "two" not in heard:
        heard += next(stream).text
    stream.close()
    [(feature, tokens, status, source)] = charged(priced)
    assert (FEATURES[api], "applied", "estimated") == (feature, status, source)
    assert -(-len(heard) // 4) == tokens["output"]


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_a_cancelled_request_leaves_no_lease(priced: Till, stub: LLMStub, way: str) -> None:
    """A request cancelled while the provider holds its answer back charges nothing."""
    stub.script(Answer(text="one two three", tokens=TOKENS, hold_after=0))
    model = client("chat", stub)

    async def call() -> None:
        if way == "ainvoke":
            await model.ainvoke(PROMPT, priced.unwitnessed())
        else:
            await _read(model.astream(PROMPT, priced.unwitnessed()))

    task = asyncio.create_task(call())
    while not stub.calls:  # noqa: ASYNC110 -- the stub has no event to wait for
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stub.release()
    assert [] == await asyncio.to_thread(charged, priced)


def think_with(model: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("think", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph.compile()


@pytest.mark.parametrize("build", [think_with, lambda model: create_agent(model, [add])], ids=["node", "agent"])
@pytest.mark.parametrize("api", FEATURES)
def test_a_graph_that_streams_messages_is_charged_the_same(
    priced: Till, stub: LLMStub, api: str, build: Callable[[Any], Any]
) -> None:
    """A graph's message stream turns streaming on inside; the tokens are the provider's all the same."""
    graph = build(client(api, stub))
    asked = {"messages": [("user", PROMPT)]}
    assert list(graph.stream(asked, priced.unwitnessed(), stream_mode="messages"))
    assert [(FEATURES[api], {"input": 100, "output": 20}, "applied", "reported")] == charged(priced)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("api", FEATURES)
def test_an_agent_is_charged_each_request(priced: Till, stub: LLMStub, api: str, way: str) -> None:
    """An agent's two requests and its tool are three charges."""
    stub.script(Answer(text="", tool_calls=(("add", {"a": 2, "b": 3}),), tokens=TOKENS))
    agent = create_agent(client(api, stub), [add])
    drive(agent, way, priced.unwitnessed(), {"messages": [("user", PROMPT)]})
    model = (FEATURES[api], {"input": 100, "output": 20}, "applied", "reported")
    found = charged(priced)
    assert [model, model] == [charge for charge in found if charge[0] == FEATURES[api]]
    assert ["tool.add"] == [charge[0] for charge in found if charge[0] != FEATURES[api]]
    assert 2 == stub.calls


@pytest.mark.parametrize("api", FEATURES)
def test_the_label_names_the_model_that_served(priced: Till, stub: LLMStub, api: str) -> None:
    """The feature is the model asked for, and the label `model` the one that served."""
    stub.script(Answer(tokens=TOKENS, model="served-2026-01-01"))
    client(api, stub).invoke(PROMPT, priced.unwitnessed())
    [rating] = settled_sync(priced)
    assert (FEATURES[api], "served-2026-01-01") == (rating.feature_code, rating.labels["model"])


def test_a_bound_model_is_the_feature(priced: Till, stub: LLMStub) -> None:
    """The feature is that of the model bound to the call, not of the one the client was made with."""
    priced.ledger.price("openai.gpt-5", "openai.gpt-5.tokens.input", 1)
    priced.ledger.price("openai.gpt-5", "openai.gpt-5.tokens.output", 1)
    client("chat", stub).bind(model="gpt-5").invoke(PROMPT, priced.unwitnessed())
    assert ["openai.gpt-5"] == [charge[0] for charge in charged(priced)]
