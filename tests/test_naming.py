from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import Usage
from langchain_vluna.naming import (
    check_family_code,
    check_feature_code,
    check_meter_code,
    meter_quantities,
    model_feature_code,
    provider_and_model,
    tool_feature_code,
)

DATABASE = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cached_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
    audio_input_tokens=counts,
    audio_output_tokens=counts,
)


def usable(name: str) -> bool:
    """Whether a name has something that reads as a-z or 0-9, as itself or as `+`, the plus."""
    return re.search("[a-z0-9+]", unicodedata.normalize("NFKD", name.casefold()).casefold()) is not None


@pytest.mark.parametrize(
    ("provider", "model", "code"),
    [
        ("openai", "gpt-4o", "openai.gpt-4o"),
        ("openai", "gpt5", "openai.gpt5"),
        ("OpenAI", " GPT-4o ", "openai.gpt-4o"),
        ("google_genai", "models/gemini-2.0-flash", "google_genai.gemini-2.0-flash"),
        ("openrouter", "openai/gpt-4o:free", "openrouter.openai.gpt-4o-free"),
        ("openai", "ft:gpt-4o-mini:org::abc", "openai.ft-gpt-4o-mini-org-abc"),
        ("cohere", "command-r+", "cohere.command-r-plus"),
        ("cohere", "command-r+v2", "cohere.command-r-plus-v2"),
        ("local", "a__b", "local.a_b"),
        ("local", "a._b--c", "local.a.b-c"),
        ("local", "C:\\models\\llama.gguf", "local.c.models.llama.gguf"),
        ("local", "-llama-", "local.llama"),
    ],
)
def test_model_codes_stay_readable(provider: str, model: str, code: str):
    """A usual model name becomes a code that a person would have chosen."""
    assert code == model_feature_code(provider, model)


@given(st.text(max_size=300), st.text(max_size=300))
@example("openai", "x" * 500)
@example("\ud800a", "ß☃")
def test_a_model_code_is_one_the_database_takes(provider: str, model: str):
    """Whatever the names, the code and its longest meter are valid, or the error names them."""
    if not (usable(provider) and usable(model.removeprefix("models/"))):
        with pytest.raises(ConfigurationError, match=re.escape(f"{provider!r} / {model!r}")):
            model_feature_code(provider, model)
        return
    code = model_feature_code(provider, model)
    assert DATABASE.fullmatch(code)
    assert len(f"{code}.tokens.audio_output") <= 128


@given(st.text(max_size=300))
def test_a_tool_code_is_one_the_database_takes(name: str):
    """Whatever the tool's name, the code is valid and below `tool.`, or the error names it."""
    if not usable(name):
        with pytest.raises(ConfigurationError, match=re.escape(repr(name))):
            tool_feature_code(name)
        return
    code = tool_feature_code(name)
    assert DATABASE.fullmatch(code)
    assert len(code) <= 128
    assert code.startswith("tool.")


@pytest.mark.parametrize(
    ("one", "other"),
    [("x" * 200, "x" * 201), ("模型-7b", "型模-7b"), ("café", "cafe"), ("gpt☃", "gpt"), ("a(b)", "a[b]")],
)
def test_names_that_lose_something_do_not_share_a_code(one: str, other: str):
    """Two models that differ only in what a code cannot hold have different codes."""
    assert model_feature_code("p", one) != model_feature_code("p", other)


def test_the_code_of_a_long_name_does_not_change():
    """A shortened code is the same in every process, so that it can be priced."""
    expected = "p." + "x" * 97 + "-c675d2f6"
    assert (108, expected) == (len(expected), model_feature_code("p", "x" * 200))


@pytest.mark.parametrize("name", ["", "   ", "☃", "模型", "///"])
def test_a_name_without_anything_usable_is_refused(name: str):
    """A name no code can be made of is an error that says what to set instead."""
    with pytest.raises(ConfigurationError, match="features="):
        model_feature_code("openai", name)
    with pytest.raises(ConfigurationError, match="tools="):
        tool_feature_code(name)


def test_a_tool_code():
    """A tool is `tool.<name>`."""
    assert ["tool.search", "tool.get_weather", "tool.my-tool"] == [
        tool_feature_code(name) for name in ("search", "get_weather", "My Tool")
    ]


@pytest.mark.parametrize("check", [check_feature_code, check_meter_code])
def test_a_users_code_is_put_in_canonical_form(check):
    """Blanks around a user's code and its case are the gate's to fold."""
    assert "openai.gpt-4o" == check("  OpenAI.GPT-4o ")


def test_a_family_code_keeps_its_case():
    """The gate does not fold families, so neither is done here: upper case is refused."""
    assert "llm.premium" == check_family_code(" llm.premium ")
    with pytest.raises(ConfigurationError, match=r"feature family code 'LLM\.Premium'"):
        check_family_code("LLM.Premium")


@pytest.mark.parametrize("code", ["", " ", "a/b", "a:b", "a..b", "a--b", "a._b", ".a", "a-", "ä", "x" * 129, None, 7])
def test_a_code_the_database_refuses_is_an_error(code: object):
    """What the gate's validator lets pass and its database does not is refused before it is sent."""
    with pytest.raises(ConfigurationError, match=f"feature code {re.escape(repr(code))}"):
        check_feature_code(code)
    with pytest.raises(ConfigurationError, match="meter code"):
        check_meter_code(code)


@given(usages, st.sampled_from(["input_output", "input_output_cached", "detailed"]))
def test_meters_add_up(usage: Usage, mode):
    """Meters sum to the total and none is zero or negative, whatever details a provider sent."""
    meters = meter_quantities("openai.gpt-4o", usage, mode)
    assert meters is not None
    assert usage.total_tokens == sum(meters.values())
    assert all(quantity > 0 for quantity in meters.values())


USAGE = Usage(
    input_tokens=100,
    output_tokens=40,
    cached_tokens=60,
    cache_write_tokens=10,
    reasoning_tokens=25,
    audio_input_tokens=5,
    audio_output_tokens=3,
)


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        ("input_output", {"input": 100, "output": 40}),
        ("input_output_cached", {"input": 30, "output": 40, "cached": 60, "cache_write": 10}),
        (
            "detailed",
            {
                "input": 25,
                "output": 12,
                "cached": 60,
                "cache_write": 10,
                "reasoning": 25,
                "audio_input": 5,
                "audio_output": 3,
            },
        ),
    ],
)
def test_the_modes_split_more_and_more(mode, parts: dict[str, int]):
    """Each mode takes its details out of input and output."""
    assert {f"m.tokens.{name}": n for name, n in parts.items()} == meter_quantities("m", USAGE, mode)


def test_no_meters():
    """Without a mode no meters are sent, which is not the same as none used."""
    assert meter_quantities("m", USAGE, None) is None
    assert {} == meter_quantities("m", Usage(input_tokens=0, output_tokens=0), "detailed")


def test_details_beyond_their_side_are_cut():
    """Cached tokens come first, then cache writes, then audio; the rest of the side is what is left."""
    usage = Usage(input_tokens=10, output_tokens=0, cached_tokens=7, cache_write_tokens=7, audio_input_tokens=7)
    assert {"m.tokens.cached": 7, "m.tokens.cache_write": 3} == meter_quantities("m", usage, "detailed")


def test_the_meters_of_the_longest_feature_fit():
    """A user's feature code may fill all 128 characters; its meters are shortened alike every time."""
    meters = meter_quantities("x" * 128, USAGE, "detailed")
    assert meters is not None
    assert 7 == len(meters)
    assert all(DATABASE.fullmatch(meter) and len(meter) <= 128 for meter in meters)


def test_provider_and_model_come_from_langchains_own_metadata():
    """`ls_provider` and `ls_model_name` win over parameters, which keep a stale `model_name` after bind."""
    found = provider_and_model(
        {"id": ["langchain", "chat_models", "openai", "ChatOpenAI"], "kwargs": {"model_name": "gpt-4o"}},
        {"ls_provider": "openai", "ls_model_name": "gpt-5", "model": "what the caller configured"},
        {"model": "gpt-5", "model_name": "gpt-4o", "_type": "openai-chat"},
    )
    assert ("openai", "gpt-5") == found


@pytest.mark.parametrize(
    ("serialized", "metadata", "params", "found"),
    [
        ({"id": ["app", "MyLLM"]}, {"ls_provider": "my", "model": "no"}, {"_type": "my-llm"}, ("my", "MyLLM")),
        ({"id": ["app", "ChatMine"]}, None, {"_type": "mine-chat", "model": "m-1"}, ("mine", "m-1")),
        ({"name": "Mine", "kwargs": {"repo_id": "org/m"}}, {"ls_provider": ""}, None, ("Mine", "org/m")),
        (None, {"ls_provider": "my"}, {"_type": "my-llm"}, ("my", "my-llm")),
        (None, {"ls_provider": "my"}, {"model_name": "  "} | {"model_id": "m-2"}, ("my", "m-2")),
    ],
)
def test_custom_models_are_named_by_what_they_have(serialized, metadata, params, found):
    """Parameters, then settings, then the class, then its type name a model that LangChain does not."""
    assert found == provider_and_model(serialized, metadata, params)


def test_a_model_without_any_name_is_refused():
    """A model run that names nothing is an error that says what to set, never a code of its own."""
    with pytest.raises(ConfigurationError, match="features="):
        provider_and_model(None, {"model": "configurable"}, {"temperature": 1})
