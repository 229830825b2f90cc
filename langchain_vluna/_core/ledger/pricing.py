"""Prices: blocks, rounding, and the remainder that is carried from one rating to the next.

A price is charged per block of units. What does not fill a block waits, per account, meter and
price version, for the next rating. Two lines of one meter in the same rating both start from the
stored remainder, and the last one's result is stored: that is what the server does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from langchain_vluna._core.ledger.model import Line, Meter, MeterLine, Price

__all__ = ["charge", "rate"]


def charge(price: Price, remainder: int, quantity: int) -> tuple[int, int]:
    """Return blocks to charge and the new remainder."""
    if price.per == 1:
        return quantity, 0
    if price.prepaid:
        missing = quantity - remainder
        if missing <= 0:
            return 0, -missing
        bought = -(-missing // price.per)
        return bought, bought * price.per - missing
    blocks, rest = divmod(remainder + quantity, price.per)
    if price.rounding == "ceil":
        return blocks + (rest > 0), 0
    if price.rounding == "nearest" and 2 * rest >= price.per:
        return blocks + 1, 0
    return blocks, rest


def rate(
    lines: Iterable[MeterLine], *, meters: Mapping[str, Meter], stored: Mapping[str, int], new_id: Callable[[], str]
) -> tuple[list[Line], dict[str, int]]:
    """Return the rated lines in request order, and per meter the remainder to store.

    A meter without a price costs 0. Costs are charged by the same blocks as prices.
    """
    rated: list[Line] = []
    left: dict[str, int] = {}
    for line in lines:
        meter = meters[line.meter_code]
        before, blocks, price = stored.get(line.meter_code, 0), 0, meter.price
        if price is not None:
            blocks, rest = charge(price, before, line.quantity)
            if price.per > 1:
                left[line.meter_code] = rest
        rated.append(
            Line(
                line_id=new_id(),
                meter_code=line.meter_code,
                quantity=line.quantity,
                amount_xusd=0 if price is None else blocks * price.xusd,
                cost_xusd=0 if price is None else blocks * price.cost_xusd,
                remainder=before,
                unit=meter.unit,
                price=price,
            )
        )
    return rated, left
