"""What was charged, added up and shown: in the terminal, as a page, and as numbers."""

from __future__ import annotations

import csv
import io
import itertools
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna import Gate, LocalGate
from langchain_vluna._io.local import Rating
from langchain_vluna.cli.report.charts import bars, columns, ticks
from langchain_vluna.cli.report.spend import Dimension, Spend, cut, group, total

NOON = datetime(2026, 1, 30, 12, tzinfo=UTC).timestamp()
DAY = 86_400


def rating(amount: int, *, status="applied", day=0, customer="acme", user=None, **labels: str) -> Rating:
    return Rating(
        commit_id="c",
        principal_id=customer,
        user_id=user,
        feature_code="f",
        quantity=amount * 10,
        meters={},
        amount_xusd=amount,
        status=status,
        labels=labels,
        idempotency_key="k",
        source="commit",
        created_ms=round((NOON + day * DAY) * 1000),
    )


@pytest.fixture
def spent(tmp_path: Path) -> LocalGate:
    """A ledger of three days, two customers and a run that was not charged."""
    now = [NOON]
    gate = LocalGate(tmp_path / "vluna.db", clock=lambda: now[0])
    gate.price("openai.gpt5", "openai.gpt5", 3)
    gate.price("tool.search", "tool.search", 100)
    with Gate(gate, outbox=":memory:") as client:
        for day, customer, quantity in ((0, "acme", 10), (2, "<i>&globex", 20), (2, "acme", 30)):
            now[0] = NOON + day * DAY
            labels = {"model": "gpt5", "thread_id": f"t{day}", "usage_source": "estimated" if day else "reported"}
            client.ingest(feature_code="openai.gpt5", principal_id=customer, quantity=quantity, labels=labels)
        client.ingest(feature_code="tool.search", principal_id="acme", quantity=1, labels={"tool": "search"})
        client.commit(client.authorize(feature_code="unpriced", principal_id="acme"), quantity=5)
    return gate


def test_days_have_no_gaps():
    """Days come in order, and those without a run are there, with nothing."""
    days = group([rating(5, day=3), rating(1), rating(2)], Dimension.DAY)
    assert [("2026-01-30", 3), ("2026-01-31", 0), ("2026-02-01", 0), ("2026-02-02", 5)] == [
        (day.key, day.amount_xusd) for day in days
    ]


def test_ledgers_of_many_years_are_not_filled_up():
    """Two runs years apart do not make thousands of empty days."""
    assert 2 == len(group([rating(1), rating(1, day=3000)], Dimension.DAY))
    assert [] == group([], Dimension.DAY)


@pytest.mark.parametrize(
    ("dimension", "keys"),
    [
        (Dimension.CUSTOMER, ["globex/u1", "acme"]),
        (Dimension.MODEL, ["gpt5", "(no model)"]),
        (Dimension.THREAD, ["(no thread)", "t1"]),
        (Dimension.FEATURE, ["f"]),
    ],
)
def test_the_dearest_comes_first(dimension: Dimension, keys: list[str]):
    """Anything but days is in the order of what it cost."""
    ratings = [rating(1, thread_id="t1"), rating(7, customer="globex", user="u1", model="gpt5")]
    assert keys == [spend.key for spend in group(ratings, dimension)]


def test_what_was_not_charged_is_counted_apart():
    """A quarantined run is in no amount and no quantity, but it is counted."""
    spend = total([rating(5), rating(7, status="quarantined", usage_source="estimated")])
    assert Spend("total", runs=2, quantity=50, amount_xusd=5, uncharged=1, estimated=1) == spend


@given(st.lists(st.integers(min_value=0, max_value=10**6), max_size=30), st.integers(min_value=1, max_value=12))
def test_cutting_loses_nothing(amounts: list[int], most: int):
    """What is cut off is added up to one line, so that the sum stays."""
    spends = [Spend(str(number), 1, amount, amount, 1, 1) for number, amount in enumerate(amounts)]
    kept = cut(spends, most)
    assert len(kept) <= most + 1
    for field in ("runs", "quantity", "amount_xusd", "uncharged", "estimated"):
        assert sum(getattr(spend, field) for spend in spends) == sum(getattr(spend, field) for spend in kept)


@given(st.integers(min_value=0, max_value=10**15))
def test_scales_reach_the_top(most: int):
    """A scale begins at 0, is even, short, and reaches what it has to show."""
    scale = ticks(most)
    assert 0 == scale[0]
    assert scale[-1] >= most
    assert 2 <= len(scale) <= 6
    assert 1 == len({after - before for before, after in itertools.pairwise(scale)})


@pytest.mark.parametrize("draw", [bars, columns])
@pytest.mark.parametrize(
    "points",
    [[], [("2026-01-01", 0)], [("2026-01-01", -5)], [(f"2026-01-{n:02} <&\"'>", n * 10**6) for n in range(1, 32)]],
)
def test_charts_are_well_formed(draw, points):
    """A chart is XML with one bar for each point, none of them outside the picture."""
    picture = ET.fromstring(draw(points, "Spend <&> by day"))  # noqa: S314 -- made here
    shapes = list(picture.iter("rect"))
    _, _, width, height = (float(number) for number in picture.attrib["viewBox"].split())
    assert len(points) == len(shapes)
    for shape in shapes:
        x, y, wide, tall = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + tall <= height


def test_bars_are_to_scale():
    """Twice the amount is twice the bar."""
    picture = ET.fromstring(bars([("a", 40), ("b", 20)], "t"))  # noqa: S314 -- made here
    first, second = (float(shape.attrib["width"]) for shape in picture.iter("rect"))
    assert first == pytest.approx(2 * second, abs=0.2)


def test_terminal_shows_all_dimensions(run, spent: LocalGate):
    """Without options: the sum, a table with bars for each dimension, and what was not charged."""
    shown = run("report").out
    assert "280 XUSD ($0.00028) for 5 runs, quantity 61, 1 not charged, 2 estimated" in shown
    for dimension in Dimension:
        assert f"by {dimension}" in shown
    assert re.search(r"2026-01-31 +0 +0 +0 +\$0\.00", shown)
    assert re.search(r"acme +4 .* 220 .*█", shown)


def test_choosing(run, spent: LocalGate):
    """Dimension, time, customer and length can be chosen."""
    assert "by day" not in run("report", "--by", "customer").out
    assert "(2 others)" in run("report", "--by", "feature", "--top", "1").out
    assert "30 XUSD" in run("report", "--until", "2026-01-31").out
    assert "250 XUSD" in run("report", "--since", "2026-01-31").out
    assert "60 XUSD" in run("report", "--principal", "<i>&globex").out
    assert "nothing was charged" in run("report", "--since", "2030-01-01").out
    assert "is no time" in run("report", "--since", "whenever", code=2).err


def test_numbers_for_programs(run, spent: LocalGate, tmp_path: Path):
    """JSON and CSV have the same numbers, nothing cut."""
    data = run("report", "--json", "--by", "customer", "--top", "1").json
    assert {"acme": 220, "<i>&globex": 60} == {one["key"]: one["amount_xusd"] for one in data["by"]["customer"]}
    assert 280 == data["total"]["amount_xusd"]
    rows = list(csv.DictReader(io.StringIO(run("report", "--by", "customer", "--csv", "-").out)))
    assert [("customer", "acme", "220"), ("customer", "<i>&globex", "60")] == [
        (row["by"], row["key"], row["amount_xusd"]) for row in rows
    ]
    assert "" == run("report", "--csv", "spend.csv").out
    assert 1 + 3 + 3 + 2 + 2 + 3 == len((tmp_path / "spend.csv").read_text().splitlines())


class Links(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [str(value) for name, value in attrs if name in {"src", "href", "onclick", "onload", "action"}]


def test_page_stands_alone(run, spent: LocalGate, tmp_path: Path):
    """The page has a chart and a table for each dimension, and loads and runs nothing."""
    run("report", "--html", "spend.html")
    text = (tmp_path / "spend.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert [] == page.found
    assert not page.tags & {"script", "link", "img", "iframe", "i"}
    assert "url(" not in text
    assert "@import" not in text
    assert (5, 5) == (text.count("<svg"), text.count("<table"))
    assert "&lt;i&gt;&amp;globex" in text
    assert "$0.00028" in text


def test_page_of_nothing(run, local: LocalGate, tmp_path: Path):
    """A ledger without ratings makes a page too."""
    run("report", "--html", "spend.html")
    assert "$0.00" in (tmp_path / "spend.html").read_text(encoding="utf-8")


def test_page_that_cannot_be_written(run, spent: LocalGate):
    """A file that cannot be written ends with the code for files, and says which."""
    assert "no/such/folder" in run("report", "--html", "no/such/folder/spend.html", code=5).err
