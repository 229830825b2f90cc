"""The API of the page: what it shows is what happened, and what it changes is what the gate then does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langchain_vluna._io.local import LocalGate
from tests.server.conftest import NOON, Page
from tests.support.caller import Caller


@pytest.fixture(params=["memory", "file"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalGate]:
    """Look into both kinds of ledgers: a file is opened a second time for it, and one in memory cannot be."""
    gate = LocalGate(":memory:" if request.param == "memory" else tmp_path / "gate.db", clock=lambda: NOON)
    yield gate
    gate.close()


@pytest.fixture
def acme(gate: LocalGate) -> Caller:
    """A customer with money, and a priced feature to spend it on."""
    gate.price("chat", "chat.tokens.input", 3)
    gate.price("chat", "chat.tokens.output", 5)
    gate.grant("acme", 10_000)
    return Caller(gate, "tutorial", user=None)


def spend(acme: Caller, run: str, thread: str = "t1", quantity: int = 30) -> str:
    """Authorize and commit, as a run of a thread; returns the lease's id."""
    labels = {"run_id": run, "root_run_id": f"root-{run}", "thread_id": thread, "model": "m-1"}
    lease = acme.lease()
    meters = [{"meter_code": "chat.tokens.input", "quantity_minor": str(quantity)}]
    assert 200 == acme.commit(lease, quantity, meters=meters, labels=labels).status
    return lease.split(".")[1]


def test_a_run_can_be_read_from_question_to_charge(acme: Caller, page: Page):
    """A run's id, its root's and its lease bring the same story: the question, then the charge with its meters."""
    lease_id = spend(acme, "r1")
    spend(acme, "r2")
    stories = [page.get(f"journal?run_id={name}")["entries"] for name in ("r1", "root-r1", lease_id)]

    assert stories[0] == stories[1] == stories[2]
    charged, asked = stories[0]
    assert ("committed", "authorized") == (charged["kind"], asked["kind"])
    assert lease_id == charged["lease_id"] == asked["lease_id"]
    assert [{"meter_code": "chat.tokens.input", "quantity": 30, "amount_xusd": 90}] == charged["meters"]
    assert (30, 90, "m-1") == (charged["quantity"], charged["amount_xusd"], charged["labels"]["model"])


def test_entries_are_found_by_customer_and_by_thread(acme: Caller, page: Page, gate: LocalGate):
    """A filter shows a customer's entries only, and all that belongs to the leases of a thread."""
    spend(acme, "r1", "t1")
    spend(acme, "r2", "t2")
    gate.grant("globex", 5)
    by_customer = page.get("journal?principal_id=globex")["entries"]
    by_thread = page.get("journal?thread_id=t2")["entries"]

    assert [("changed", "globex")] == [(entry["kind"], entry["principal_id"]) for entry in by_customer]
    assert [("committed", "r2"), ("authorized", None)] == [(entry["kind"], entry["run_id"]) for entry in by_thread]
    assert [] == page.get("journal?run_id=nobody")["entries"]


def test_entries_come_in_pages(acme: Caller, page: Page):
    """`before` and `limit` walk back through the journal without gap or overlap."""
    spend(acme, "r1")
    everything = [entry["seq"] for entry in page.get("journal")["entries"]]
    first = [entry["seq"] for entry in page.get("journal?limit=2")["entries"]]
    rest = [entry["seq"] for entry in page.get(f"journal?before={first[-1]}")["entries"]]
    assert everything == first + rest


def test_a_denial_is_written_down_with_its_reason(acme: Caller, page: Page, gate: LocalGate):
    """Who was refused, what for, by which rule, with which labels: though the refusal itself left no trace."""
    gate.withdraw("acme")
    refused = acme.authorize(labels={"run_id": "r9"}, estimated_quantity_minor="7")
    (entry,) = page.get("journal?run_id=r9")["entries"]

    assert (402, "SERVER.CONFIG", "grant balance exhausted") == refused.refusal
    assert ("denied", 402, "acme", "chat") == (
        entry["kind"],
        entry["status"],
        entry["principal_id"],
        entry["feature_code"],
    )
    assert "grant balance exhausted" == entry["message"]


def test_spend_is_added_up_by_time_and_name(acme: Caller, page: Page, gate: LocalGate):
    """Each charge is in the bucket of its minute, under its feature, its model or its customer."""
    spend(acme, "r1", quantity=10)
    gate.advance(60)
    spend(acme, "r2", quantity=20)
    spent = {by: page.get(f"spend?by={by}&span=hour") for by in ("feature", "model", "customer")}

    assert ["chat", "m-1", "acme"] == [spent[by]["series"][0]["name"] for by in ("feature", "model", "customer")]
    (series,) = spent["feature"]["series"]
    assert [30, 60] == series["by_bucket"][-2:]
    assert (2, 30, 90) == (series["runs"], series["quantity"], series["xusd"])
    assert spent["feature"]["since_ms"] + 60 * 60_000 == (NOON + 120) * 1000
    assert [] == page.get("spend?run_id=r3")["series"]
    assert [60] == [series["xusd"] for series in page.get("spend?run_id=r2")["series"]]


def test_more_names_than_colours_are_added_up(acme: Caller, page: Page, gate: LocalGate):
    """Seven names are shown, the dearest, and the rest is one."""
    for number in range(10):
        gate.price(f"f{number}", f"f{number}", number + 1)
        acme.ingest(1, feature=f"f{number}")
    series = page.get("spend")["series"]

    assert [10, 9, 8, 7, 6, 5, 4] == [one["xusd"] for one in series[:7]]
    assert ("3 others", 6, 3) == (series[7]["name"], series[7]["xusd"], series[7]["runs"])
    assert 6 == sum(series[7]["by_bucket"])


def test_wallets_and_open_leases_are_shown(acme: Caller, page: Page):
    """What was granted, what was spent, what is left, and which leases wait for a commit."""
    spend(acme, "r1")
    lease = acme.lease().split(".")[1]
    (wallet,) = page.get("customers")["customers"]
    leases = page.get("leases")["leases"]

    assert (10_000, 90, 9910, 1) == tuple(
        wallet[name] for name in ("granted_xusd", "spent_xusd", "balance_xusd", "open_leases")
    )
    assert [(lease, "active")] == [(one["lease_id"], one["state"]) for one in leases]
    assert 2 == len(page.get("leases?open=false")["leases"])
    assert ["closed"] == [one["state"] for one in page.get("leases?open=false&run_id=r1")["leases"]]
    assert [] == page.get("leases?open=false&thread_id=t9")["leases"]


def test_the_catalogue_lists_prices_and_limits(acme: Caller, page: Page, gate: LocalGate):
    """Meters with what they cost and whose they are; limits with what is used of them."""
    gate.quota("chat", 100, 60)
    spend(acme, "r1", quantity=30)
    catalogue = page.get("catalogue")

    assert [("chat", 3), ("chat.tokens.input", 3), ("chat.tokens.output", 5)] == [
        (meter["meter_code"], meter["xusd"]) for meter in catalogue["meters"]
    ]
    assert [{"feature_code": "chat", "kind": "quota", "limit": 100, "window_sec": 60, "used": 30}] == catalogue[
        "policies"
    ]


@pytest.mark.parametrize(
    ("what", "body", "refusal"),
    [
        ("withdrawals", {"principal_id": "acme"}, (402, "grant balance exhausted")),
        (
            "policies",
            {"kind": "quota", "feature_code": "chat", "limit": 0, "window_sec": 60},
            (402, "quota limit exhausted"),
        ),
        (
            "policies",
            {"kind": "rate", "feature_code": "chat", "limit": 0, "window_sec": 60},
            (429, "rate limit exceeded"),
        ),
        ("faults", {"kind": "status_402", "on": "authorize"}, (402, "grant balance exhausted")),
        ("faults", {"kind": "status_429", "on": "*", "seconds": 3}, (429, "rate limit exceeded")),
    ],
)
def test_a_change_denies_the_next_call(
    acme: Caller, page: Page, what: str, body: dict[str, Any], refusal: tuple[int, str]
):
    """A wallet emptied, a limit set or a fault armed on the page is what the next authorize meets."""
    assert 200 == acme.authorize().status
    assert 200 == page.change(what, body)[0]
    reply = acme.authorize()
    assert refusal == (reply.status, reply.body["message"])


def test_limits_can_be_lifted(acme: Caller, page: Page):
    """A quota without a number is gone, and what was used of it is forgotten."""
    limit = {"kind": "quota", "feature_code": "chat", "limit": 30, "window_sec": 60}
    page.change("policies", limit)
    spend(acme, "r1", quantity=30)
    assert 402 == acme.authorize().status
    assert (200, {}) == page.change("policies", {**limit, "limit": None})
    assert 200 == acme.authorize().status
    page.change("policies", limit)
    assert 200 == acme.authorize().status


def test_grants_and_prices_hold_at_once(page: Page, gate: LocalGate):
    """The next call is paid from the new grant at the new price."""
    price = {"feature_code": "chat", "meter_code": "chat", "xusd": 40, "per": 10, "unit": "token", "rounding": "ceil"}
    assert (200, {}) == page.change("prices", price)
    assert (200, {"balance_xusd": 500}) == page.change("grants", {"principal_id": "acme", "xusd": 500})
    caller = Caller(gate, "tutorial", user=None)
    caller.commit(caller.lease(), 11)
    assert 420 == gate.balance("acme")


def test_faults_are_listed_and_mended(acme: Caller, page: Page):
    """Armed faults are shown with what is left of them, and mending takes them all away."""
    page.change("faults", {"kind": "status_500", "on": "authorize", "times": 2})
    assert 500 == acme.authorize().status
    assert [{"kind": "status_500", "on": "authorize", "remaining": 1, "seconds": 1.0}] == page.get("summary")["faults"]
    assert (200, {}) == page.change("faults", method="DELETE")
    assert 200 == acme.authorize().status
    assert ["authorized", "fault"] == [entry["kind"] for entry in page.get("journal")["entries"]][:2]


def test_the_clock_moves_and_leases_expire(acme: Caller, page: Page, gate: LocalGate):
    """After the clock or the page has ended a lease, its commit is recorded and not charged."""
    first, second = acme.lease(), acme.lease()
    assert (200, {"expired": 1}) == page.change("expiry", {"lease_id": first.split(".")[1]})
    acme.commit(first)
    assert (200, {"ahead_seconds": 50_000.0}) == page.change("clock", {"advance_seconds": 50_000})
    acme.commit(second)

    assert ["quarantined", "quarantined"] == [rating.status for rating in gate.ratings("acme")]
    assert ["lease.expired"] == [hint["type"] for hint in page.get("journal")["entries"][0]["hints"]]
    assert (50_000.0, 0) == (page.get("summary")["ahead_seconds"], page.get("summary")["applied"])


@pytest.mark.parametrize(
    ("what", "body", "said"),
    [
        ("grants", {"principal_id": "acme", "xusd": "5"}, "xusd: Input should be a valid integer"),
        ("grants", {"principal_id": "", "xusd": 5}, "principal_id: String should have at least 1 character"),
        ("grants", b"{", "body: Invalid JSON"),
        ("grants", {"principal_id": "acme", "xusd": 5, "to": 1}, "to: Extra inputs are not permitted"),
        ("prices", {"feature_code": "a b", "meter_code": "x", "xusd": 1}, "code 'a b' is not possible"),
        ("faults", {"kind": "earthquake"}, "kind: Input should be"),
    ],
)
def test_what_is_not_possible_is_said(page: Page, what: str, body: Any, said: str):
    """A body that cannot be is answered with what is wrong with it, and changes nothing."""
    status, answer = page.change(what, body)
    assert 400 == status
    assert said in answer["error"]
    assert [] == page.get("journal")["entries"]


def test_a_body_has_bounds(page: Page):
    """More than a form can hold is not read."""
    assert 413 == page.change("grants", b" " * 70_000)[0]


@pytest.mark.parametrize("path", ["spend?by=moon", "journal?limit=0", "leases?open=perhaps", "stream?after=-1"])
def test_questions_are_checked(page: Page, path: str):
    """A parameter that cannot be is a 400 that names it."""
    status, answer, _ = page.ask("GET", f"/ui/api/{path}")
    assert 400 == status
    assert path.partition("?")[2].partition("=")[0] in answer["error"]


def test_the_page_itself_is_served_with_its_parts(page: Page):
    """The page and its files come from the package, and are not sent again while they stay the same."""
    status, content, headers = page.ask("GET", "/")
    assert (200, "text/html; charset=utf-8") == (status, headers["content-type"])
    assert b"/ui/main.js" in content
    assert 304 == page.ask("GET", "/", if_none_match=headers["etag"])[0]
    for name in ("main.js", "page.css", "icon.svg", "vendor/uplot.js", "vendor/uplot.css", "vendor/uplot.LICENSE.txt"):
        assert 200 == page.ask("GET", f"/ui/{name}")[0]
    assert 404 == page.ask("GET", "/ui/../app.py")[0]
