"""Money, spans and times as they are typed and shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna.cli.values import ago, moment, money, seconds, shown, usd, xusd

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2500", 2_500),
        (" 1_000 ", 1_000),
        ("1,000,000", 1_000_000),
        ("5usd", 5_000_000),
        ("$0.0025", 2_500),
        ("0.000001 USD", 1),
        ("7xusd", 7),
        ("-5", -5),
        ("0", 0),
    ],
)
def test_amounts(text: str, amount: int):
    """An amount is XUSD, unless it says that it is USD."""
    assert amount == xusd(text)


@pytest.mark.parametrize("text", ["", "1.5", "5eur", "$0.0000001", "nan", "inf", "1e999usd", "five"])
def test_amounts_that_are_none(text: str):
    """What is no whole number of XUSD is refused, with examples."""
    with pytest.raises(typer.BadParameter, match=r"is no amount; write whole XUSD, such as 2500, or USD"):
        xusd(text)


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_dollars_are_exact(amount: int):
    """What is shown as dollars reads back as the same amount."""
    assert amount == xusd(usd(amount).replace("-$", "$-") if amount < 0 else usd(amount))


def test_money_has_both():
    """Money is shown in both units."""
    assert "-1,234,567 XUSD (-$1.234567)" == money(-1_234_567)
    assert "10 XUSD ($0.00001)" == money(10)


@pytest.mark.parametrize(
    ("text", "span"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7 d", 604_800), ("2W", 1_209_600)]
)
def test_spans(text: str, span: int):
    """A span is seconds, or a number with a unit."""
    assert span == seconds(text)


@pytest.mark.parametrize("text", ["", "0", "0d", "-5", "1.5h", "1y", "h"])
def test_spans_that_are_none(text: str):
    """What is no span above 0 is refused, with examples."""
    with pytest.raises(typer.BadParameter, match="is no time span; write seconds, or 90s, 15m"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        ("2026-01-30T08:00", datetime(2026, 1, 30, 8, tzinfo=UTC)),
        ("2026-01-30T08:00+02:00", datetime(2026, 1, 30, 6, tzinfo=UTC)),
        ("1d", datetime(2026, 1, 30, 12, tzinfo=UTC)),
    ],
)
def test_times(text: str, time: datetime):
    """A time is a date or a moment, UTC unless it says otherwise, or a span before now."""
    assert time == moment(text, NOW)


def test_times_that_are_none():
    """What is no time is refused, with examples."""
    for text in ("yesterday", "999999999w"):
        with pytest.raises(typer.BadParameter, match="is no time; write 2026-01-31"):
            moment(text, NOW)


@pytest.mark.parametrize(
    ("span", "text"), [(0, "0s"), (-5, "0s"), (59, "59s"), (120, "2m"), (7200, "2h"), (200_000, "2d")]
)
def test_ages(span: float, text: str):
    """An age is told in its largest unit."""
    assert text == ago(1000 - span, 1000)


def test_text_keeps_its_place():
    """Control characters become marks; anything else stays."""
    assert "a\N{REPLACEMENT CHARACTER}[2Jé 漢" == shown("a\x1b[2Jé 漢")
