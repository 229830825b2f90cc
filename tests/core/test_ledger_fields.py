"""Fields: what the gate takes, what it makes of it, and what it says when it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core.ledger import fields
from langchain_vluna._core.ledger.model import Refusal, Rules

RULES = Rules()
FLAWED = Rules(server_flaws=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", 12),
        (" 12 ", 12),
        (5, 5),
        ("1.5", 1),
        (2.7, 2),
        ("1e3", 1000),
        ("0x10", 16),
        ("0b11", 3),
        ("0o17", 15),
        (".5", 0),
        ("+7", 7),
        ("", 0),
        ("  ", 0),
        (None, 0),
        ("9007199254740991", 2**53 - 1),
    ],
)
def test_quantities_are_read_as_the_server_reads_numbers(value: Any, expected: int) -> None:
    """Decimal, exponent, radix and padded numbers are taken and rounded down; empty is 0."""
    assert expected == fields.quantity("q", value, RULES)


@pytest.mark.parametrize(
    "value", [True, "abc", "1_000", "Infinity", "NaN", "1,5", [], {}, float("inf"), "1e999", "٣", "0x", "9" * 400]
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    """Booleans, words, other scripts' digits and infinities are no numbers."""
    with pytest.raises(Refusal, match=r"^q must be a number or numeric string$"):
        fields.quantity("q", value, RULES)


@pytest.mark.parametrize("value", ["-1", -1, "-0.5", -1e300])
def test_negative_quantities_are_refused(value: Any) -> None:
    """Anything below zero is refused, fractions included."""
    with pytest.raises(Refusal, match=r"^q must be greater than or equal to 0$"):
        fields.quantity("q", value, RULES)


def test_huge_quantities_are_refused_rather_than_rounded() -> None:
    """A number beyond 2^53 - 1 would lose digits on the server, so the local gate refuses it."""
    with pytest.raises(Refusal, match=r"^q must be at most 9007199254740991$"):
        fields.quantity("q", "9007199254740993", RULES)


def test_with_flaws_huge_quantities_lose_digits_or_break() -> None:
    """A gate that repeats the server's flaws loses the last digit, and fails beyond 64 bits."""
    assert 9007199254740992 == fields.quantity("q", "9007199254740993", FLAWED)
    with pytest.raises(Refusal) as refused:
        fields.quantity("q", "99999999999999999999", FLAWED)
    assert 500 == refused.value.status


@given(st.integers(0, 2**53 - 1))
def test_canonical_digit_strings_are_read_exactly(number: int) -> None:
    """What the client sends comes out as it went in."""
    assert number == fields.quantity("q", str(number), RULES)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "f must be a string"),
        (5, "f must be a string"),
        ("", "f is required"),
        ("  ", "f is required"),
        ("x" * 129, r"f must be 1\.\.128 chars"),
        ("a b", r"f must match \[a-z0-9\._/@:-\]\+"),
        ("-a", r"f must start and end with \[a-z0-9\]"),
        ("a.", r"f must start and end with \[a-z0-9\]"),
    ],
)
def test_codes_are_refused_with_the_servers_words(value: Any, message: str) -> None:
    """Each violation has the message of the server."""
    with pytest.raises(Refusal, match=rf"^{message}$"):
        fields.canonical_code("f", value)


def test_codes_are_trimmed_and_lowered() -> None:
    """Answers show a code in its canonical form."""
    assert "openai.gpt-4o" == fields.canonical_code("f", " OpenAI.GPT-4o ")


@pytest.mark.parametrize(("code", "possible"), [("a.b-c_d", True), ("a/b", False), ("a..b", False), ("a._b", False)])
def test_the_database_takes_fewer_codes_than_the_validator(code: str, possible: bool) -> None:
    """Slashes, colons and doubled separators pass the validator and cannot be created."""
    assert possible == fields.creatable(code)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {}),
        ("ab", {"0": "a", "1": "b"}),
        (["a"], {}),
        (5, {}),
        ({" a ": " b "}, {"a": "b"}),
        ({"a": "", "b": "  ", "": "x", "c": None}, {}),
        (
            {"i": 1, "f": 1.5, "w": 2.0, "t": True, "n": False},
            {"i": "1", "f": "1.5", "w": "2", "t": "true", "n": "false"},
        ),
        ({"l": [1, None, [2, "x"]], "o": {"x": 1}}, {"l": "1,,2,x", "o": "[object Object]"}),
        (
            {"big": 1e21, "small": 1e-7, "long": 10**20},
            {"big": "1e+21", "small": "1e-7", "long": "100000000000000000000"},
        ),
    ],
)
def test_labels_become_text_as_the_server_makes_it(value: Any, expected: dict[str, str]) -> None:
    """Labels are trimmed, turned into text by JavaScript's rules, and dropped when empty."""
    assert expected == fields.labels(value, RULES)


def test_labels_with_nul_are_refused() -> None:
    """The database takes no NUL character, so the gate says so instead of failing."""
    with pytest.raises(Refusal, match=r"^labels must not contain NUL characters, see 'a'$"):
        fields.labels({"a": "x\x00y"}, RULES)


@pytest.mark.parametrize(
    "value", [None, "2026-01-05T10:00:00Z", "2026-01-05", 1767961800000, "Mon, 05 Jan 2026 10:00:00 GMT"]
)
def test_parseable_times_pass(value: Any) -> None:
    """Dates as text of the usual forms and as numbers are taken."""
    fields.timestamp("occurred_at", value)


@pytest.mark.parametrize("value", ["yesterday", True, {}, ""])
def test_other_times_are_refused(value: Any) -> None:
    """What is no date is refused by name."""
    with pytest.raises(Refusal, match=r"^occurred_at must be a valid date-time$"):
        fields.timestamp("occurred_at", value)


@pytest.mark.parametrize("value", ["", "  ", "x" * 256, "a\nb", 5])
def test_references_are_short_visible_text(value: Any) -> None:
    """A handle or budget name chosen by the caller is refused when empty, too long or with control characters."""
    with pytest.raises(Refusal, match=r"^lease must be 1\.\.255 chars, not blank, without control characters$"):
        fields.reference("lease", value)


@pytest.mark.parametrize("value", ["nope", "lease.", "lease.nodot", "lease.a.", "token.a.b", "lease.a.b.c"])
def test_malformed_handles_are_refused(value: str) -> None:
    """A lease token has three parts and begins with the word."""
    with pytest.raises(Refusal, match=r"^invalid lease token format$"):
        fields.handle("lease_token", value, RULES)
