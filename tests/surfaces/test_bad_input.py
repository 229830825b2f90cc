"""Bad input: each a clear error before any work, with nothing charged."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent

from langchain_vluna import ConfigurationError
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import CUSTOMER, MODEL, Till
from tests.surfaces.conftest import MakeTill
from tests.surfaces.shapes import SHAPES, add, calling, perform

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


def broken(*_: object) -> Any:
    msg = "no such tenant"
    raise KeyError(msg)


OPTIONS: list[tuple[str, Any, str]] = [
    ("principal_id", None, "no principal .* pass principal_id="),
    ("principal_id", lambda _: None, "no principal"),
    ("principal_id", lambda _: 5, "principal_id must be 1 to 300 printable"),
    ("principal_id", lambda _: " padded ", "principal_id must be 1 to 300 printable"),
    ("principal_id", broken, "principal_id= callable .*no such tenant"),
    ("user_id", lambda _: "ü", "user_id must be 1 to 300 printable"),
    ("user_id", broken, "user_id= callable"),
    ("features", lambda _: "a b", "feature code 'a b'"),
    ("features", lambda _: 5, "feature code 5"),
    ("features", broken, "features= callable"),
    ("feature_family_code", lambda _: "a//b", "family"),
    ("budget", lambda _: "", "budget"),
    ("budget", broken, "budget= callable"),
    ("estimate", lambda _: -1, "estimate.* -1"),
    ("estimate", lambda _: 1.5, r"estimate.* 1\.5"),
    ("estimate", broken, "estimate= callable"),
    ("labels", lambda _: {"tier": 5}, "label 'tier' must be a string"),
    ("labels", lambda _: ["tier"], "labels must be a mapping"),
    ("labels", broken, "labels= callable"),
]


@COLOURS
@pytest.mark.parametrize(("option", "value", "said"), OPTIONS, ids=[f"{o}-{n}" for n, (o, _, _) in enumerate(OPTIONS)])
def test_an_option_that_goes_wrong_stops_the_run(
    local_till: Till, option: str, value: Any, said: str, colour: str
) -> None:
    """What an option or its callable gives is checked before the work, and the error names it."""
    till, model = local_till, ScriptedChatModel()
    with pytest.raises(ConfigurationError, match=said):
        perform(model, "q", colour, till.unwitnessed(till.handler(**{option: value})))
    assert (0, 0) == (model.calls, till.asked)
    till.assert_nothing_charged()


@pytest.mark.parametrize("name", ["agent_executor", "react_agent", "create_agent"])
def test_a_callable_that_breaks_in_an_agent_is_not_swallowed(make_till: MakeTill, name: str) -> None:
    """An agent does not hand a broken callable's error to its model, and runs no tool."""
    till, shape = make_till(), SHAPES[name]
    model = shape.model()
    handler = till.handler(features=lambda info: broken() if info.kind == "tool" else None)
    with pytest.raises(ConfigurationError, match="features= callable"):
        shape.build(model).invoke(shape.ask("q"), till.config(handler))
    assert (1, {}) == (model.calls, till.witness.finished("tool"))


METADATA: list[tuple[str, Any, str]] = [
    ("vluna_principal_id", "", "no principal"),
    ("vluna_principal_id", 5, "principal_id must be"),
    ("vluna_principal_id", "a\nb", "principal_id must be"),
    ("vluna_user_id", "", "user_id must be"),
    ("vluna_feature_code", "Ä", "feature code"),
    ("vluna_feature_code", "", "feature code"),
    ("vluna_feature_family_code", "a b", "family code"),
    ("vluna_budget", "", "budget"),
    ("vluna_labels", "tier=gold", "vluna_labels must be a mapping"),
    ("vluna_labels", {"tier": None}, "label 'tier' must be a string"),
    ("vluna_labels", {"": "gold"}, "label's name"),
]


@pytest.mark.parametrize("name", ["model", "sync_node"])
@pytest.mark.parametrize(("key", "value", "said"), METADATA, ids=[f"{k}-{n}" for n, (k, _, _) in enumerate(METADATA)])
def test_metadata_that_cannot_be_sent_stops_the_run(
    local_till: Till, name: str, key: str, value: Any, said: str
) -> None:
    """What a call's metadata says wrongly is never replaced by the handler's own, but refused."""
    till, shape = local_till, SHAPES[name]
    model = shape.model()
    with pytest.raises(ConfigurationError, match=said):
        shape.build(model).invoke(shape.ask("q"), till.unwitnessed(metadata={key: value}))
    assert (0, 0) == (model.calls, till.asked)


@COLOURS
@pytest.mark.parametrize("generation", ["user", "lease"])
def test_a_missing_user_is_named_before_anything_is_sent(generation: Any, colour: str) -> None:
    """On wires that need a user, none is a ConfigurationError that says so."""
    till, model = Till(generation), ScriptedChatModel()
    with pytest.raises(ConfigurationError, match="user_id"):
        perform(model, "q", colour, till.unwitnessed(till.handler(user_id=None)))
    assert (0, 0) == (model.calls, till.asked)
    till.close()


@pytest.mark.parametrize("name", ["模型", "!!!"])
def test_a_name_no_code_can_be_made_of_is_refused_with_the_way_out(local_till: Till, name: str) -> None:
    """A model whose name holds no letter or digit is refused, and the error says how to name it."""
    till, model = local_till, ScriptedChatModel(model=name)
    with pytest.raises(ConfigurationError, match="features="):
        model.invoke("q", till.config())
    assert (0, 0) == (model.calls, till.asked)


@pytest.mark.parametrize(
    ("options", "metadata"),
    [
        ({"features": {"模型": MODEL}}, {}),
        ({"features": lambda info: MODEL if info.name == "模型" else None}, {}),
        ({}, {"vluna_feature_code": MODEL}),
    ],
)
def test_a_name_no_code_can_be_made_of_may_be_given_one(till: Till, options: Any, metadata: Any) -> None:
    """A model with such a name runs under the code that the user gives it."""
    ScriptedChatModel(model="模型").invoke("q", till.config(till.handler(**options), metadata=metadata))
    assert [(MODEL, "模型")] == [(rating.feature_code, rating.labels["model"]) for rating in till.ratings()]


def test_a_budget_that_is_no_uuid_is_refused_where_the_wire_wants_one(make_till: MakeTill) -> None:
    """A budget name on a wire that takes uuids is refused before the work."""
    till, model = make_till(replays=False), ScriptedChatModel()
    with pytest.raises(ConfigurationError, match="uuid"):
        model.invoke("q", till.config(till.handler(budget="team")))
    assert (0, 0) == (model.calls, till.asked)


METERS: list[Any] = [
    lambda usage, code: {f"{code}.tokens.all": -1},
    lambda usage, code: {"Not A Code!": 5},
    lambda usage, code: -5,
    lambda usage, code: "5",
    lambda usage, code: 1.5,
    broken,
]


@pytest.mark.parametrize("meters", METERS)
def test_meters_that_go_wrong_after_the_work_lose_no_charge(till: Till, meters: Any) -> None:
    """A broken `meters=` callable is noticed after the work, so input and output are charged instead."""
    ScriptedChatModel().invoke("q", till.config(till.handler(meters=meters)))
    till.assert_exact()


@pytest.mark.parametrize(
    ("meters", "quantity", "lines"),
    [
        (lambda usage, code: 7, 7, {}),
        (lambda usage, code: {f"{code}.tokens.input": usage.total_tokens}, None, "all"),
        (None, None, {}),
    ],
)
def test_meters_of_the_users_own(till: Till, meters: Any, quantity: int | None, lines: Any) -> None:
    """A callable's bare quantity goes to the primary meter, its mapping to its meters; `None` sends the total alone."""
    ScriptedChatModel().invoke("q", till.config(till.handler(meters=meters)))
    tokens = sum(next(iter(till.witness.finished("model").values())).tokens or ())
    [rating] = till.ratings()
    assert (quantity or tokens, "applied", CUSTOMER) == (rating.quantity, rating.status, rating.principal_id)
    primary = {MODEL: rating.quantity}
    expected = {f"{MODEL}.tokens.input": tokens} if lines == "all" else primary
    assert dict(rating.meters) in ({}, expected) if lines == {} else expected == dict(rating.meters)


def test_tool_names_no_code_can_be_made_of_are_refused(make_till: MakeTill) -> None:
    """A tool whose name holds no letter or digit is refused before it runs, unless it is not gated."""
    till = make_till()
    odd = add.model_copy(update={"name": "加"})
    with pytest.raises(ConfigurationError, match="tools="):
        odd.invoke({"a": 1, "b": 2}, till.config())
    assert 3 == odd.invoke({"a": 1, "b": 2}, till.config(till.handler(tools=None)))
    assert 3 == odd.invoke({"a": 1, "b": 2}, till.config(till.handler(features={"加": "tool.add"})))
    assert ["tool.add"] == [rating.feature_code for rating in till.ratings()]


def test_an_agent_with_a_feature_code_in_its_metadata_keeps_its_tools_apart(till: Till) -> None:
    """A call's own feature code is that of its models; tools keep theirs."""
    agent: Any = create_agent(ScriptedChatModel(model="other", responses=[calling]), [add])
    config = till.config(metadata={"vluna_feature_code": MODEL})
    agent.invoke({"messages": [("user", "q")]}, config)
    assert [MODEL, "tool.add", MODEL] == [rating.feature_code for rating in till.ratings()]
