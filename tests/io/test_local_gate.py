"""What a local gate does beyond the golden scenarios: generations, wallets, windows, caches, refusals of bad set-up."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from langchain_vluna._core.config import Settings
from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._core.types import HttpRequest
from langchain_vluna._io.local import LocalGate
from tests.conformance.replay import START
from tests.support.caller import Caller, Reply

DAY = 86_400


def gate_with_price(**options: Any) -> LocalGate:
    gate = LocalGate(**{"clock": lambda: START, **options})
    gate.price("chat", "chat.input", 3, rounding="floor")
    gate.price("chat", "chat.output", 15, rounding="floor")
    gate.grant("acme", 1_000_000)
    return gate


@pytest.fixture
def gate() -> LocalGate:
    return gate_with_price()


@pytest.fixture
def acme(gate: LocalGate) -> Caller:
    return Caller(gate)


# --- what was recorded


def test_a_commit_is_a_rating(gate: LocalGate, acme: Caller) -> None:
    """A commit shows as one rating with its meters, labels, key and price."""
    meters = [{"meter_code": "chat.input", "quantity_minor": "7"}, {"meter_code": "chat.output", "quantity_minor": "3"}]
    reply = acme.commit(acme.lease(), key="key-1", meters=meters, labels={"run": "r1"})
    (rating,) = gate.ratings("acme")

    assert reply.data["commit_id"] == rating.commit_id
    assert ("acme", None, "chat", 10) == (rating.principal_id, rating.user_id, rating.feature_code, rating.quantity)
    assert {"chat.input": 7, "chat.output": 3} == rating.meters
    assert (66, "applied", "commit") == (rating.amount_xusd, rating.status, rating.source)
    assert ({"run": "r1"}, "key-1") == (rating.labels, rating.idempotency_key)
    assert 1_000_000 - 66 == gate.balance("acme")


def test_a_bare_quantity_is_a_line_on_the_primary_meter(gate: LocalGate, acme: Caller) -> None:
    """Without meters the rating has one meter, which has the feature's code."""
    acme.ingest(5)

    assert [({"chat": 5}, "ingest")] == [(rating.meters, rating.source) for rating in gate.ratings()]


def test_a_quarantined_rating_charges_nothing(gate: LocalGate, acme: Caller) -> None:
    """A second commit on a lease is recorded with its computed price and leaves the balance alone."""
    lease = acme.lease()
    acme.commit(lease, 10)
    acme.commit(lease, 10)

    assert ["applied", "quarantined"] == [rating.status for rating in gate.ratings()]
    assert [30, 30] == [rating.amount_xusd for rating in gate.ratings()]
    assert 1_000_000 - 30 == gate.balance("acme")


def test_leases_show_their_state_and_commits(gate: LocalGate, acme: Caller) -> None:
    """An active lease without a commit is open; a batch counts its commit and closes nothing."""
    acme.lease()
    acme.commit(acme.lease())
    acme.cancel(acme.lease())
    acme.batch([{**acme.usage(acme.lease()), "idempotency_key": "i1"}])

    assert [("active", 0), ("closed", 1), ("canceled", 0), ("active", 1)] == [
        (lease.state, lease.commits) for lease in gate.leases()
    ]
    assert 2 == len(gate.leases("active"))


def test_requests_are_counted_refused_ones_included(gate: LocalGate, acme: Caller) -> None:
    """Every call of a verb counts, whatever came of it; what is no verb does not."""
    seen = gate.requests
    acme.authorize()
    Caller(gate, principal="broke").authorize()
    acme.authorize(feature="a b")
    acme.get("/gate/limits")
    acme.get("/gate/nothing")

    assert {"authorize": 3, "limits": 1} == {verb: count for verb, count in seen.items() if count}


def test_ratings_are_those_of_one_principal(gate: LocalGate, acme: Caller) -> None:
    """Ratings can be narrowed to a principal."""
    acme.ingest()
    Caller(gate, principal="beta").ingest()

    assert 2 == len(gate.ratings())
    assert ["beta"] == [rating.principal_id for rating in gate.ratings("beta")]


# --- generations


def test_a_gate_for_all_generations_goes_by_what_a_request_shows(gate: LocalGate) -> None:
    """Without a generation of its own a gate takes both signatures and all three kinds of bodies."""
    old, users, newest = Caller(gate), Caller(gate, "user"), Caller(gate, "lease")

    assert {"lease_token", "lease_id"} <= set(old.authorize().data)
    assert {"lease_token", "lease_id"} <= set(users.authorize().data)
    chosen = newest.authorize(lease="run-1").data
    assert "run-1" == chosen["lease"]
    assert "lease_token" not in chosen
    assert 200 == newest.commit("run-1").status
    assert 200 == newest.post("/gate/preflight", {"feature_code": "chat"}).status


@pytest.mark.parametrize(("served", "sent"), [("tutorial", "user"), ("user", "tutorial"), ("lease", "tutorial")])
def test_a_gate_of_one_generation_refuses_the_others_signature(served: Any, sent: Any) -> None:
    """A signature of another generation is a mismatch, which is what makes a client try the other one."""
    reply = Caller(gate_with_price(generation=served), sent).authorize()

    assert (401, "AUTH.INVALID_SERVICE_SIGNATURE", "Signature mismatch") == reply.refusal


def test_the_newest_generation_has_preflight_and_no_cancel() -> None:
    """Generation `lease` answers a dry run without a lease, and knows no cancel."""
    newest = Caller(gate_with_price(generation="lease"), "lease")
    reply = newest.post("/gate/preflight", {"feature_code": "chat", "estimated_quantity_minor": "10"})

    assert {"as_of", "feature_code", "feature_family_code", "window_start", "window_end"} == set(reply.data)
    assert {"trace_id", "meta"} <= set(reply.body)
    assert [] == newest.gate.leases()
    assert (404, "RESOURCE.NOT_FOUND", "Cannot POST /mgt/v1/gate/cancel") == newest.cancel("any").refusal


def test_preflight_denies_as_authorize_would_and_registers_nothing() -> None:
    """A dry run of an unknown feature is refused, one without money is denied, and no rate is counted."""
    gate = gate_with_price(generation="lease")
    gate.rate("chat", 1, 60)
    newest = Caller(gate, "lease")
    broke = Caller(gate, "lease", principal="broke")

    assert (422, "feature not found") == newest.post("/gate/preflight", {"feature_code": "new"}).refusal[::2]
    assert (402, "grant balance exhausted") == broke.post("/gate/preflight", {"feature_code": "chat"}).refusal[::2]
    assert [200, 200] == [newest.post("/gate/preflight", {"feature_code": "chat"}).status for _ in range(2)]
    assert [200, 429] == [newest.authorize().status for _ in range(2)]


def test_a_generated_handle_of_the_newest_generation_works_like_a_chosen_one() -> None:
    """Without a handle of the caller's the gate makes one, and a changed one is not found."""
    newest = Caller(gate_with_price(generation="lease"), "lease")
    lease = newest.lease()

    assert (422, "lease not found") == newest.commit(f"{lease[:-1]}x").refusal[::2]
    assert (422, "lease is required") == newest.call("commit", {"feature_code": "chat", "quantity_minor": 1}).refusal[
        ::2
    ]
    assert 200 == newest.commit(lease).status


def test_a_chosen_handle_is_taken_once_per_account() -> None:
    """A handle in use is a conflict under another key, a replay under the same, and free to another account."""
    gate = gate_with_price(generation="lease")
    newest = Caller(gate, "lease")

    assert 200 == newest.authorize(key="k1", lease="run-1").status
    assert 200 == newest.authorize(key="k1", lease="run-1").status
    assert 409 == newest.authorize(key="k2", lease="run-1").status
    assert 200 == Caller(gate, "lease", user="u2").authorize(lease="run-1").status


def test_a_dry_run_looks_at_the_budget() -> None:
    """Preflight names the budget it looked at, and refuses one that is used up."""
    gate = gate_with_price(generation="lease")
    budget = gate.budget("acme", 100, name="team-a")
    gate.budget("acme", 0, name="team-b")
    newest = Caller(gate, "lease")
    ask = {"feature_code": "chat", "estimated_quantity_minor": "1000"}
    reply = newest.post("/gate/preflight", {**ask, "budget": "team-a"})

    assert budget == reply.data["budget_id"]
    assert ["budget.shortfall", "quota.remaining"] == reply.hints
    assert (402, "BUDGET.EXHAUSTED") == newest.post("/gate/preflight", {**ask, "budget": "team-b"}).refusal[:2]


def test_budgets_have_a_name_in_the_newest_generation() -> None:
    """Generation `lease` names a budget by its text and is answered with its id."""
    gate = gate_with_price(generation="lease")
    budget = gate.budget("acme", 100, name="team-a")
    newest = Caller(gate, "lease")

    assert budget == newest.authorize(budget="team-a").data["budget_id"]
    assert budget == newest.ingest(budget="team-a").data["budget_id"]
    assert (422, "budget not found or inactive") == newest.authorize(budget="team-b").refusal[::2]
    assert (422, "budget not found or inactive") == newest.ingest(budget="team-b").refusal[::2]


# --- wallets


def test_users_spend_their_own_money_first_and_then_their_principals() -> None:
    """A grant without a user is shared by all users of the principal once their own is gone."""
    gate = LocalGate(generation="user")
    gate.price("chat", "chat", 1)
    gate.grant("acme", 100)
    gate.grant("acme", 30, user_id="u1")
    first, second = Caller(gate, "user", user="u1"), Caller(gate, "user", user="u2")

    assert [130, 100, 100] == [gate.balance("acme", user) for user in ("u1", "u2", None)]
    first.commit(first.lease(), 50)
    assert [80, 80, 80] == [gate.balance("acme", user) for user in ("u1", "u2", None)]
    second.commit(second.lease(), 100)
    assert [0, 0, 0] == [gate.balance("acme", user) for user in ("u1", "u2", None)]
    assert [402, 402] == [caller.authorize().status for caller in (first, second)]


def test_users_of_a_principal_do_not_see_each_others_leases_and_keys() -> None:
    """Leases, keys, quotas and remainders belong to principal and user."""
    gate = gate_with_price(generation="user")
    first, second = Caller(gate, "user", user="u1"), Caller(gate, "user", user="u2")
    lease = first.authorize(key="k").data["lease_token"]

    assert (422, "lease not found") == second.commit(lease).refusal[::2]
    assert lease != second.authorize(key="k").data["lease_token"]


def test_money_that_no_grant_covers_is_not_taken_from_the_next_one(gate: LocalGate) -> None:
    """An overdraft is booked as cash: after a top-up the whole top-up is there."""
    gate.grant("poor", 1000)
    poor = Caller(gate, principal="poor")
    poor.commit(poor.lease(), 510)
    assert 0 == gate.balance("poor")
    gate.grant("poor", 200)

    assert 200 == gate.balance("poor")


# --- set-up


def test_a_price_holds_before_its_feature_was_seen() -> None:
    """A feature can be priced before anybody asks for it, also where nothing registers itself."""
    gate = gate_with_price(auto_registry=False)

    assert 200 == Caller(gate).authorize().status
    assert (422, "feature not found") == Caller(gate).authorize("other").refusal[::2]


def test_the_same_price_again_keeps_the_remainder() -> None:
    """Setting a price that is set already changes nothing, so that a program may set its prices at each start."""
    gate = LocalGate()
    acme = Caller(gate)
    gate.grant("acme", 100)
    for quantity in (400, 600):
        gate.price("embed", "embed", 7, per=1000, rounding="floor")
        acme.ingest(quantity, "embed")

    assert [0, 7] == [rating.amount_xusd for rating in gate.ratings()]


def test_a_new_price_starts_a_new_remainder() -> None:
    """Units that waited under the old price are not charged under the new one."""
    gate = LocalGate()
    acme = Caller(gate)
    for xusd, quantity in ((7, 400), (8, 600)):
        gate.price("embed", "embed", xusd, per=1000, rounding="floor")
        acme.ingest(quantity, "embed")

    assert [0, 0] == [rating.amount_xusd for rating in gate.ratings()]


def test_prepaid_blocks_are_bought_whole_and_used_up() -> None:
    """With prepaid residuals the first unit buys a block that later units use up."""
    gate = LocalGate()
    gate.price("embed", "embed", 7, per=1000, rounding="floor", residual_mode="prepaid")
    acme = Caller(gate)
    for quantity in (1, 999, 1):
        acme.ingest(quantity, "embed")

    assert [7, 0, 7] == [rating.amount_xusd for rating in gate.ratings()]


def test_costs_are_rated_beside_prices(acme: Caller, gate: LocalGate) -> None:
    """A cost is shown and not charged."""
    gate.price("tool.search", "tool.search", 10, unit="call", cost_xusd=4)
    reply = acme.commit(acme.lease("tool.search"), 2, "tool.search")

    assert ("20", "8") == (reply.data["amount_xusd"], reply.data["cost_xusd"])
    assert 1_000_000 - 20 == gate.balance("acme")


def test_an_entitlement_is_given_to_principals_or_users(gate: LocalGate) -> None:
    """A feature that somebody was entitled to is refused to everybody else."""
    gate.entitle("gold", "acme")
    gate.entitle("silver", "acme", user_id="u1")
    gate.entitle("bronze")
    first, second = Caller(gate, "user", user="u1"), Caller(gate, "user", user="u2")

    assert [200, 200, 403] == [first.authorize(feature).status for feature in ("gold", "silver", "bronze")]
    assert [200, 403, 403] == [second.authorize(feature).status for feature in ("gold", "silver", "bronze")]
    assert 403 == Caller(gate, principal="beta").authorize("gold").status


def test_every_change_raises_the_revision(gate: LocalGate) -> None:
    """Whoever remembers an answer sees by the revision that the gate could answer otherwise now."""
    changes: list[Any] = [
        lambda: gate.price("chat", "chat.input", 4),
        lambda: gate.grant("acme", 1),
        lambda: gate.quota("chat", 10, 60),
        lambda: gate.rate("chat", 10, 60),
        lambda: gate.budget("acme", 10),
        lambda: gate.entitle("chat", "acme"),
        lambda: gate.feature("chat", active=False),
        lambda: gate.family("llm", entitlement_required=True),
        lambda: gate.fault("reset", on="authorize"),
        lambda: gate.advance(1),
    ]
    revisions = [gate.revision]
    for change in changes:
        change()
        revisions.append(gate.revision)

    assert sorted(set(revisions)) == revisions


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda gate: gate.price("openai/gpt", "m", 1), "'openai/gpt'"),
        (lambda gate: gate.price("chat", "a..b", 1), r"'a\.\.b'"),
        (lambda gate: gate.price("chat", "chat", -1), "xusd .* got -1"),
        (lambda gate: gate.price("chat", "chat", 1.5), r"xusd .* got 1\.5"),
        (lambda gate: gate.price("chat", "chat", 1, per=0), "per .* got 0"),
        (lambda gate: gate.price("chat", "chat", 1, rounding="up"), "rounding 'up'"),
        (lambda gate: gate.grant("acme", True), "xusd .* got True"),
        (lambda gate: gate.grant("", 1), "principal_id must not be empty"),
        (lambda gate: gate.quota("chat", 10, 0), "window_sec .* got 0"),
        (lambda gate: gate.rate("chat", 2**53, 60), "limit .* got 9007199254740992"),
        (lambda gate: gate.fault("explode", on="commit"), "'explode'"),
        (lambda gate: gate.fault("reset", on="comit"), "'comit'"),
        (lambda gate: gate.fault("reset", on="commit", times=0), "times=0"),
    ],
)
def test_impossible_set_up_is_refused_by_name(gate: LocalGate, change: Any, named: str) -> None:
    """A value that no gate could take raises an error that names it, and changes nothing."""
    revision = gate.revision
    with pytest.raises(ConfigurationError, match=named):
        change(gate)

    assert revision == gate.revision


def test_a_lease_must_live() -> None:
    """A life of nothing is a mistake."""
    with pytest.raises(ConfigurationError, match="lease_ttl must be at least 1 ms, got 0 s"):
        LocalGate(lease_ttl=0)


# --- time


def test_the_server_forgets_answers_after_a_day(gate: LocalGate, acme: Caller) -> None:
    """After 24 hours a cancel is looked at anew, while a commit and an authorize still replay."""
    lease = acme.authorize(key="a").data["lease_token"]
    commit = acme.commit(lease, key="c").data
    other = acme.lease()
    cancelled = [acme.cancel(other, key="x").data["cancelled"] for _ in range(2)]
    gate.advance(DAY)

    assert [True, True, False] == [*cancelled, acme.cancel(other, key="x").data["cancelled"]]
    assert lease == acme.authorize(key="a").data["lease_token"]
    assert commit == acme.commit(lease, key="c").data
    assert (409, "idempotency conflict") == acme.authorize(key="a", labels={"a": "b"}).refusal[::2]
    assert (409, "idempotency conflict") == acme.commit(lease, 11, key="c").refusal[::2]


def test_a_batch_is_evaluated_again_after_a_day(gate: LocalGate, acme: Caller) -> None:
    """The key of a batch is forgotten after 24 hours; the keys of its items are not."""
    items = [{**acme.usage(acme.lease()), "idempotency_key": "i1"}]
    first = acme.batch(items, key="b").data
    gate.advance(DAY)

    assert first == acme.batch(items, key="b").data
    assert 1 == len(gate.ratings())


def test_an_old_authorize_is_not_replayed_without_money(gate: LocalGate, acme: Caller) -> None:
    """The cache answers before the money is looked at, the database after."""
    gate.grant("poor", 10)
    poor = Caller(gate, principal="poor")
    lease = poor.authorize(key="a").data["lease_token"]
    poor.ingest(100)

    assert lease == poor.authorize(key="a").data["lease_token"]
    gate.advance(DAY)
    assert 402 == poor.authorize(key="a").status


def test_a_run_over_midnight_counts_for_the_old_day() -> None:
    """A commit uses the quota of the window in which its lease was made."""
    gate = gate_with_price(generation="user")
    gate.quota("chat", 20, DAY)
    user = Caller(gate, "user")
    lease = user.lease()
    gate.advance(DAY / 2)

    assert 200 == user.commit(lease, 15).status
    assert {} == gate.quota_used("chat", "acme", "u1")


def test_the_oldest_generation_refuses_a_commit_after_midnight() -> None:
    """On `tutorial` a rolled-over window refuses the commit, leaves the lease, and ingest still works."""
    gate = gate_with_price(generation="tutorial")
    acme = Caller(gate)
    lease = acme.lease()
    gate.advance(DAY / 2)

    assert (422, "RESOURCE.NOT_FOUND", "policy window not found") == acme.commit(lease).refusal
    assert ["active"] == [held.state for held in gate.leases()]
    assert 200 == acme.ingest().status


def test_cancel_and_replay_do_not_look_at_the_expiry(gate: LocalGate, acme: Caller) -> None:
    """An expired lease is still replayed and can still be cancelled."""
    lease = acme.authorize(key="a").data["lease_token"]
    gate.advance(43_201 + 60)

    assert lease == acme.authorize(key="a").data["lease_token"]
    assert acme.cancel(lease).data["cancelled"] is True


# --- keys


def test_one_commit_key_on_two_leases_is_a_conflict(acme: Caller) -> None:
    """The cache knows a commit key whatever its lease; items of a batch are known by lease and key."""
    first, second = acme.lease(), acme.lease()
    acme.commit(first, key="k")

    assert (409, "idempotency_conflict") == acme.commit(second, key="k").refusal[::2]
    assert 1 == acme.batch([{**acme.usage(second), "idempotency_key": "k"}]).data["committed_count"]


def test_an_item_of_a_batch_replays_values_that_mean_the_same(acme: Caller, gate: LocalGate) -> None:
    """Items are compared after normalization, so that 10 and "10" are the same usage."""
    usage = acme.usage(acme.lease())
    first = acme.batch([{**usage, "idempotency_key": "k"}]).data["items"][0]["commit"]
    again = acme.batch([{**usage, "quantity_minor": 10, "labels": {}, "idempotency_key": "k"}]).data["items"][0][
        "commit"
    ]

    assert first == again
    assert 1 == len(gate.ratings())


def test_a_refused_item_takes_back_what_it_registered(acme: Caller) -> None:
    """An item for an unknown feature that is refused leaves no feature behind."""
    item = {**acme.usage(acme.lease(), feature="brand.new"), "idempotency_key": "k"}

    assert "invalid" == acme.batch([item]).data["items"][0]["status"]
    assert ["chat"] == [feature["feature_code"] for feature in acme.get("/gate/limits").data]


# --- lists


def test_limits_show_windows_and_what_is_used(gate: LocalGate, acme: Caller) -> None:
    """The list has every quota and rate with its window, and an unlimited day where nothing is set."""
    gate.quota("chat", 20, 3600)
    gate.rate("chat", 5, 60)
    acme.commit(acme.lease(), 15)
    Caller(gate).lease("free")
    (chat,) = acme.get("/gate/limits?feature_code=chat&expand=quotas&expand=rates").data

    assert ["chat", "chat.input", "chat.output"] == chat["meters"]
    assert {
        "subject_scope": "account",
        "window_start": "2026-01-09T12:00:00.000Z",
        "window_end": "2026-01-09T13:00:00.000Z",
        "limit_minor": "20",
        "used_minor": "15",
    } == chat["quotas"][0]
    assert [("5", "1")] == [(rate["limit_minor"], rate["used_minor"]) for rate in chat["rates"]]
    free = acme.get("/gate/limits").data[1]
    assert [("-1", "0")] == [(quota["limit_minor"], quota["used_minor"]) for quota in free["quotas"]]


def test_meters_show_their_features_and_prices(acme: Caller, gate: LocalGate) -> None:
    """The list has every meter of the realm, priced or not."""
    gate.price("other", "chat.input", 3, rounding="floor")
    acme.lease("free")
    shown = {meter["meter_code"]: meter for meter in acme.get("/gate/meters").data}

    assert ["chat", "other"] == shown["chat.input"]["features"]
    assert ("3", "1") == tuple(
        shown["chat.input"]["pricing"][f"unit_{name}"] for name in ("price_xusd", "quantity_minor")
    )
    assert shown["free"]["pricing"] is None


def test_one_meter_may_have_several_lines(gate: LocalGate, acme: Caller) -> None:
    """Two lines of one meter are answered and charged as two, and are one meter of the rating."""
    line = {"meter_code": "chat.output", "quantity_minor": "2"}
    reply = acme.commit(acme.lease(), 4, meters=[line, line])

    assert ["30", "30"] == [rated["amount_xusd"] for rated in reply.data["lines"]]
    assert [{"chat.output": 4}] == [rating.meters for rating in gate.ratings()]


def test_a_feature_may_be_named_like_a_meter(gate: LocalGate, acme: Caller) -> None:
    """A feature that is registered under the code of a priced meter has that price."""
    assert 402 == Caller(gate, principal="broke").authorize("chat.output").status
    assert "30" == acme.ingest(2, "chat.output").data["amount_xusd"]


def test_a_rating_says_when_and_why(gate: LocalGate, acme: Caller) -> None:
    """A rating has the moment it was recorded and the hints it was answered with."""
    lease = acme.lease()
    acme.cancel(lease)
    acme.commit(lease)

    assert [(("lease.closed_at_commit",), round(START * 1000))] == [(r.hints, r.created_ms) for r in gate.ratings()]


def test_a_gate_may_have_a_key_of_its_own() -> None:
    """A gate with settings of its own takes requests signed by them, and no others."""
    own = Settings(
        base_url="http://127.0.0.1:8080/mgt/v1",
        realm_id="realm-1",
        service_key_id="key-1",
        service_key_secret=SecretStr("c2VjcmV0LW9mLXJlYWxtLTE="),
    )
    gate = LocalGate(settings=own)

    assert 200 == Caller(gate).authorize().status
    stranger = Caller(LocalGate()).request("authorize", {"feature_code": "chat"})
    assert (404, "AUTH.UNKNOWN_REALM") == Reply.of(gate.send(stranger)).refusal[:2]
    with pytest.raises(ConfigurationError, match="answers below /mgt/v1"):
        LocalGate(settings=own.model_copy(update={"base_url": "http://127.0.0.1:8080/v2"}))


def test_a_meter_of_another_feature_is_attached_and_billed(acme: Caller) -> None:
    """Meters and their prices belong to the realm: a commit may use one of another feature."""
    reply = acme.commit(acme.lease("other"), 10, "other", meters=[{"meter_code": "chat.output", "quantity_minor": "2"}])

    assert ("30", []) == (reply.data["amount_xusd"], reply.hints)


# --- the wire


def test_health_needs_no_signature(gate: LocalGate) -> None:
    """The host answers a bare health check."""
    reply = Reply.of(gate.send(HttpRequest("GET", "/health", {}, b"", 1)))

    assert (200, {"status": "ok"}) == (reply.status, reply.body)


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({}, (400, "VALIDATION.INVALID_INPUT", "missing_realm")),
        ({"x-realm-id": "realm-local"}, (401, "AUTH.UNAUTHORIZED", "unsupported_authorization_scheme")),
        (
            {"x-realm-id": "elsewhere", "authorization": "SVC-AUTH keyId=k,sig=s,ts=t,nonce=n,alg=HMAC-SHA256"},
            (404, "AUTH.UNKNOWN_REALM", "unknown realm"),
        ),
    ],
)
def test_strangers_are_refused(gate: LocalGate, headers: dict[str, str], refusal: tuple[int, str, str]) -> None:
    """A request without realm, without authorization or of another realm gets the server's refusal."""
    reply = Reply.of(gate.send(HttpRequest("POST", "/mgt/v1/gate/authorize", headers, b"{}", 1)))

    assert refusal == reply.refusal
    assert ("clear_cached_realm" in reply.body["meta"]) == (reply.status == 404)


@pytest.mark.parametrize("principal", [" acme", "acme ", "müller"])
def test_identities_that_http_would_change_fail_the_signature(gate: LocalGate, principal: str) -> None:
    """Blanks at the ends and text beyond ASCII do not survive HTTP, so the gate in process refuses them too."""
    assert (401, "Signature mismatch") == Caller(gate, principal=principal).authorize().refusal[::2]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ("", 400, "Body cannot be empty when content-type is set to 'application/json'"),
        ('{"feature_code": NaN}', 400, "Body is not valid JSON but content-type is set to 'application/json'"),
        ('{"labels": {"a": "\\ud800"}}', 400, "Body is not valid JSON but content-type is set to 'application/json'"),
        ("[" * 100_000, 400, "Body is not valid JSON but content-type is set to 'application/json'"),
        ('"' + "x" * 1024 * 1024 + '"', 413, "Request body is too large"),
    ],
)
def test_bodies_that_are_none_are_refused(acme: Caller, content: str, status: int, message: str) -> None:
    """An empty body, broken JSON and more than 1 MiB are refused before anything else is looked at."""
    reply = Reply.of(acme.gate.send(acme.request("authorize", None, raw_body=content)))

    assert (status, message) == reply.refusal[::2]


def test_the_secret_is_not_shown(gate: LocalGate) -> None:
    """The service key secret is in no text of the settings."""
    secret = gate.settings.service_key_secret.get_secret_value()

    assert secret not in repr(gate.settings) + str(gate.settings) + repr(gate)


def test_a_broken_database_is_a_500(gate: LocalGate, acme: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """When SQLite fails the gate answers as a server would, and logs why."""
    with gate._store.transaction() as connection:
        connection.execute("DROP TABLE policies")

    assert (500, "SERVER.UNEXPECTED") == acme.authorize().refusal[:2]
    assert "no such table" in caplog.text


def test_an_amount_beyond_all_money_is_refused(gate: LocalGate, acme: Caller) -> None:
    """A quantity whose price the ledger could not hold is refused, and the lease stays as it was."""
    gate.price("chat", "chat", 2**50)

    assert (422, "VALIDATION.INVALID_INPUT") == acme.commit(acme.lease(), 9).refusal[:2]
    assert ["active"] == [lease.state for lease in gate.leases()]
