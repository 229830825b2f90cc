"""Money, prices, limits and what was recorded: set and shown in an embedded gate's database."""

from __future__ import annotations

from pathlib import Path

import pytest

from langchain_vluna import Gate, LocalGate

FEATURE = "openai.gpt5"


def test_grant_makes_the_database_and_adds_up(run, tmp_path: Path):
    """The first grant makes the database, and each one adds to the balance."""
    assert "acme got 5,000,000 XUSD ($5.00) and now has 5,000,000 XUSD ($5.00)" in run("grant", "acme", "5usd").out
    assert 5_002_500 == run("grant", "acme", "2500", "--json").json["balance_xusd"]
    assert 5_002_500 == LocalGate(tmp_path / "vluna.db").balance("acme")


def test_a_users_grant_is_the_users(run, tmp_path: Path):
    """A grant to a user does not reach the other users of the customer."""
    run("grant", "acme", "100", "--user", "u1", "--db", "other.db")
    gate = LocalGate(tmp_path / "other.db")
    assert (100, 0) == (gate.balance("acme", "u1"), gate.balance("acme", "u2"))


def test_price_by_tokens(run, local: LocalGate):
    """Token prices land on the meters that the handler sends, in the smallest terms of what was said."""
    done = run("price", "New.Model", "--input", "3usd", "--output", "12usd", "--cached", "0.15usd", "--per", 1_000_000)
    assert "new.model.tokens.cached" in done.out
    prices = {view.meter_code: (view.xusd, view.per) for view in local.meters() if "new.model" in view.features}
    assert (3, 1) == prices["new.model.tokens.input"]
    assert (12, 1) == prices["new.model.tokens.output"]
    assert (3, 20) == prices["new.model.tokens.cached"]


def test_price_of_a_meter(run, local: LocalGate):
    """A single price goes to the feature's own meter, or to the meter that is named."""
    (own,) = run("price", "tool.search", "500", "--unit", "call", "--json").json
    assert ("tool.search", 500, "call") == (own["meter_code"], own["xusd"], own["unit"])
    (other,) = run("price", "tool.search", "7", "--meter", "tool.search.pages", "--rounding", "ceil", "--json").json
    assert ("tool.search.pages", 7, "ceil") == (other["meter_code"], other["xusd"], other["rounding"])


def test_prices_are_listed(run, local: LocalGate):
    """Without a price the command lists what there is, of one feature or of all."""
    local.feature("some.feature")
    listed = {one["meter_code"]: one["xusd"] for one in run("price", "--json").json}
    assert {f"{FEATURE}.tokens.input": 2, "some.feature": None}.items() <= listed.items()
    assert "no price" in run("price", "some.feature").out
    assert f"{FEATURE}.tokens.input" not in run("price", "some.feature").out


def test_price_needs_a_price(run, local: LocalGate):
    """A meter without a number is refused, with the command that would do."""
    done = run("price", FEATURE, "--input", "3", "--meter", "m", code=2)
    assert f"langchain-vluna price {FEATURE} 3 --meter m" in done.err


@pytest.mark.parametrize("kind", ["quota", "rate"])
def test_limits_are_set_and_shown(run, local: LocalGate, kind: str):
    """A limit is set per window, and shown with what a customer has used of it."""
    assert "100" in run(kind, FEATURE, "100", "--window", "1h").out
    (known,) = run(kind, "--json").json
    assert {"feature_code": FEATURE, "kind": kind, "limit": 100, "window_sec": 3600} == known
    with Gate(local, outbox=":memory:") as gate:
        gate.commit(gate.authorize(feature_code=FEATURE, principal_id="acme"), quantity=1)
    (used, *_) = run(kind, FEATURE, "--principal", "acme", "--json").json
    assert ("100", "1") == (used["limit_minor"], used["used_minor"])
    assert "100" in run(kind, FEATURE, "--principal", "acme").out
    assert [] == run(kind, "no.such.feature", "--json").json


def test_balance_of_one_and_of_all(run, local: LocalGate):
    """A balance is shown for one customer, or for all with what was granted and spent."""
    local.grant("acme", 50, "u1")
    assert "1,000,000 XUSD ($1.00)" in run("balance", "acme").out
    assert 1_000_050 == run("balance", "acme", "--user", "u1", "--json").json["balance_xusd"]
    everybody = run("balance", "--json").json
    assert [("acme", None, 1_000_000), ("acme", "u1", 50)] == [
        (one["principal_id"], one["user_id"], one["balance_xusd"]) for one in everybody
    ]
    assert "$1.00" in run("balance").out


def test_ratings_newest_last(run, local: LocalGate):
    """What was recorded is shown with its status, cut to the last ones."""
    with Gate(local, outbox=":memory:") as gate:
        for number in (1, 2, 3):
            gate.ingest(feature_code=FEATURE, principal_id="acme", meters={f"{FEATURE}.tokens.input": number})
        gate.commit(gate.authorize(feature_code="unpriced", principal_id="globex"), quantity=4)
    shown = run("ratings")
    assert "quarantined: pricing.not_configured" in shown.out
    assert "tokens.input=3" in shown.out
    assert "the last 2 of 4" in run("ratings", "-n", "2").out
    assert [1, 2, 3] == [one["quantity"] for one in run("ratings", "--principal", "acme", "--json").json]
    assert ["unpriced"] == [one["feature_code"] for one in run("ratings", "--quarantined", "--json").json]
    assert "nothing to show" in run("ratings", "--principal", "nobody").out


@pytest.mark.parametrize("command", [("balance",), ("ratings",), ("report",), ("price",), ("quota",)])
def test_reading_makes_no_database(run, tmp_path: Path, command):
    """A command that only looks does not make a database, and says how to get one."""
    done = run(*command, code=2)
    assert "there is no database 'vluna.db'; name one with --db" in done.err
    assert [] == list(tmp_path.iterdir())


def test_money_is_not_put_into_the_wrong_place(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With the environment naming a gate elsewhere, an operator has to say which database is meant."""
    monkeypatch.setenv("VLUNA_SERVICE_BASE_URL", "https://gate.example/mgt/v1")
    assert "names a gate on another machine" in run("grant", "acme", "5", code=2).err
    run("grant", "acme", "5", "--db", "mine.db")
    monkeypatch.setenv("VLUNA_SERVICE_BASE_URL", "http://127.0.0.1:3002/mgt/v1")
    run("grant", "acme", "5")
    assert (tmp_path / "vluna.db").exists()


def test_what_is_no_database_is_said(run, tmp_path: Path):
    """A file that is something else is named, and left alone."""
    (tmp_path / "vluna.db").write_text("a shopping list, and nothing that SQLite would know")
    done = run("balance", "--json", code=2)
    assert "is no database of a local gate" in done.err
    assert done.err.startswith('{"error"')
    assert "shopping" in (tmp_path / "vluna.db").read_text()


def test_terminal_is_not_steered_by_names(run, local: LocalGate):
    """Names with control characters are shown, not obeyed."""
    local.grant("evil\x1b[2Jname [red]x[/red]", 1)
    shown = run("balance").out
    assert "\x1b" not in shown
    assert "[red]x[/red]" in shown
