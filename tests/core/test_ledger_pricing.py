"""Blocks, rounding and remainders."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vluna._core.ledger.answers import parse_lines, stored_lines
from langchain_vluna._core.ledger.model import Meter, MeterLine, Price, Rounding
from langchain_vluna._core.ledger.pricing import charge, rate

QUANTITIES = st.lists(st.integers(1, 10_000), min_size=1, max_size=20)
BLOCKS = st.integers(2, 5_000)


def price(per: int = 1000, rounding: Rounding = "floor", *, prepaid: bool = False, xusd: int = 7) -> Price:
    return Price(xusd, per, rounding, prepaid, 2, 1, 0, "f" * 64)


def blocks_of(at: Price, quantities: Iterable[int]) -> tuple[int, int]:
    """Return all blocks charged for a row of ratings, and what waits at the end."""
    blocks = remainder = 0
    for quantity in quantities:
        charged, remainder = charge(at, remainder, quantity)
        blocks += charged
    return blocks, remainder


@given(QUANTITIES, BLOCKS)
def test_floor_charges_whole_blocks_and_carries_the_rest(quantities: list[int], per: int) -> None:
    """With floor the blocks charged and the units waiting are together exactly what was used."""
    blocks, remainder = blocks_of(price(per), quantities)

    assert sum(quantities) == blocks * per + remainder
    assert 0 <= remainder < per


@given(QUANTITIES, BLOCKS)
def test_the_cut_into_ratings_does_not_matter_to_floor(quantities: list[int], per: int) -> None:
    """With floor many small ratings cost what one big one costs."""
    assert blocks_of(price(per), [sum(quantities)]) == blocks_of(price(per), quantities)


@given(QUANTITIES, BLOCKS)
def test_nearest_charges_a_block_early_by_half_at_most(quantities: list[int], per: int) -> None:
    """With nearest less than half a block ever waits, and each rating rounds up by half a block at most."""
    blocks, remainder = blocks_of(price(per, "nearest"), quantities)

    assert 2 * remainder < per
    assert 0 <= blocks * per + remainder - sum(quantities) <= len(quantities) * per / 2


@given(QUANTITIES, BLOCKS)
def test_ceil_charges_every_started_block_of_a_rating(quantities: list[int], per: int) -> None:
    """With ceil each rating pays its started blocks and nothing is carried."""
    assert (sum(-(-quantity // per) for quantity in quantities), 0) == blocks_of(price(per, "ceil"), quantities)


@given(QUANTITIES, BLOCKS, st.sampled_from(["floor", "nearest", "ceil"]))
def test_prepaid_blocks_are_used_up_before_others_are_bought(
    quantities: list[int], per: int, rounding: Rounding
) -> None:
    """With prepaid blocks, whatever the rounding, just enough blocks are bought and the unused part waits."""
    blocks, unused = blocks_of(price(per, rounding, prepaid=True), quantities)

    assert blocks * per == sum(quantities) + unused
    assert 0 <= unused < per


@given(QUANTITIES, st.sampled_from(["floor", "nearest", "ceil"]), st.booleans())
def test_a_price_per_unit_leaves_nothing(quantities: list[int], rounding: Rounding, prepaid: bool) -> None:
    """With a block of one unit every unit is charged at once."""
    assert (sum(quantities), 0) == blocks_of(price(1, rounding, prepaid=prepaid), quantities)


@pytest.mark.parametrize(("waiting", "charged"), [(499, (0, 499)), (500, (1, 0)), (999, (1, 0))])
def test_nearest_rounds_half_a_block_up(waiting: int, charged: tuple[int, int]) -> None:
    """With nearest half a block counts as a whole one."""
    assert charged == charge(price(rounding="nearest"), 0, waiting)


def test_two_lines_of_one_meter_start_from_the_same_remainder() -> None:
    """Lines of the same meter do not see each other; the last one's remainder is the one to keep."""
    ids = map(str, itertools.count())
    lines, left = rate(
        [MeterLine("m", 600), MeterLine("m", 300)],
        meters={"m": Meter("m", "token", price())},
        stored={"m": 500},
        new_id=lambda: next(ids),
    )

    assert [(7, 2), (0, 0)] == [(line.amount_xusd, line.cost_xusd) for line in lines]
    assert {"m": 800} == left


def test_a_meter_without_a_price_costs_nothing() -> None:
    """A line on an unpriced meter is rated 0 and leaves no remainder."""
    lines, left = rate([MeterLine("m", 600)], meters={"m": Meter("m", "token", None)}, stored={}, new_id=lambda: "line")

    assert [(600, 0, None)] == [(line.quantity, line.amount_xusd, line.price) for line in lines]
    assert {} == left


def test_rated_lines_survive_storage() -> None:
    """Lines read back from the ledger are the lines that were rated, with and without a price."""
    meters = {"m": Meter("m", "token", price()), "n": Meter("n", "call", None)}
    lines, _ = rate([MeterLine("m", 1600), MeterLine("n", 1)], meters=meters, stored={}, new_id=lambda: "line")

    assert tuple(lines) == parse_lines(stored_lines(lines))
