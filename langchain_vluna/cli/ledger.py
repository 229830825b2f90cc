"""What an operator of an embedded gate does with money and prices, and what was recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import RenderableType

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._io.local import AccountView, MeterView, Rating
from langchain_vluna.cli.opening import opened_ledger
from langchain_vluna.cli.options import Customer, Db, Json, Principal, User
from langchain_vluna.cli.output import emit, table
from langchain_vluna.cli.values import money, usd, xusd
from langchain_vluna.naming import token_meter

__all__ = ["balance", "grant", "price", "ratings"]

Amount = Annotated[
    int,
    typer.Argument(
        parser=xusd,
        metavar="AMOUNT",
        help="XUSD (1 XUSD is 0.000001 USD), or USD as 5usd.",
        show_default=False,
    ),
]
Feature = Annotated[
    str | None, typer.Argument(metavar="FEATURE", help="Feature, such as openai.gpt5.", show_default=False)
]
Price = Annotated[
    int | None,
    typer.Argument(parser=xusd, metavar="PRICE", help="Price of --meter; whole XUSD, or USD.", show_default=False),
]
InputPrice = Annotated[
    int | None, typer.Option("--input", parser=xusd, metavar="PRICE", help="Price of input tokens.", show_default=False)
]
OutputPrice = Annotated[
    int | None,
    typer.Option("--output", parser=xusd, metavar="PRICE", help="Price of output tokens.", show_default=False),
]
CachedPrice = Annotated[
    int | None,
    typer.Option("--cached", parser=xusd, metavar="PRICE", help="Price of cached input tokens.", show_default=False),
]
MeterCode = Annotated[
    str | None, typer.Option("--meter", help="Meter to price; by default the feature's own.", show_default=False)
]


class Rounding(StrEnum):
    FLOOR = "floor"
    NEAREST = "nearest"
    CEIL = "ceil"


def grant(
    *, principal_id: Customer, amount: Amount, user_id: User = None, db: Db = None, as_json: Json = False
) -> None:
    """Give a customer of an embedded gate money."""
    with opened_ledger(db, create=True) as local:
        local.grant(principal_id, amount, user_id)
        left = local.balance(principal_id, user_id)
    data = {"principal_id": principal_id, "user_id": user_id, "granted_xusd": amount, "balance_xusd": left}
    emit(data, lambda: f"{principal_id} got {money(amount)} and now has {money(left)}", as_json=as_json)


def price(
    *,
    feature_code: Feature = None,
    amount: Price = None,
    meter_code: MeterCode = None,
    input_tokens: InputPrice = None,
    output_tokens: OutputPrice = None,
    cached_tokens: CachedPrice = None,
    per: Annotated[int, typer.Option(min=1, help="How many units a price is for.")] = 1,
    unit: Annotated[str, typer.Option(help="What is counted.")] = "token",
    rounding: Annotated[Rounding, typer.Option(help="How the rest of a block of --per units is charged.")] = (
        Rounding.NEAREST
    ),
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Set prices of an embedded gate; without a price, list them."""
    tokens = {"input": input_tokens, "output": output_tokens, "cached": cached_tokens}
    if feature_code is None or (amount is None and not any(number is not None for number in tokens.values())):
        with opened_ledger(db) as local:
            known = [view for view in local.meters() if feature_code is None or feature_code.lower() in view.features]
        emit(known, lambda: _price_table(known), as_json=as_json)
        return
    prices = {token_meter(feature_code, kind): number for kind, number in tokens.items() if number is not None}
    if amount is not None:
        prices[meter_code or feature_code] = amount
    elif meter_code is not None:
        msg = f"--meter {meter_code!r} needs a price: langchain-vluna price {feature_code} 3 --meter {meter_code}"
        raise ConfigurationError(msg)
    with opened_ledger(db, create=True) as local:
        for code, number in prices.items():
            # The gate charges by blocks of `per`: who knows the price of a million does not mean to wait for a million.
            block = math.gcd(number, per)
            local.price(feature_code, code, number // block, per // block, unit, rounding.value)
        named = {code.strip().lower() for code in prices}
        changed = [view for view in local.meters() if view.meter_code in named]
    emit(changed, lambda: _price_table(changed), as_json=as_json)


def balance(
    *,
    principal_id: Annotated[
        str | None, typer.Argument(metavar="PRINCIPAL", help="The customer; all by default.", show_default=False)
    ] = None,
    user_id: User = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Show what customers of an embedded gate have left."""
    with opened_ledger(db) as local:
        if principal_id is None:
            accounts = local.accounts()
            data = [{**_named(account), "balance_xusd": account.balance_xusd} for account in accounts]
            emit(data, lambda: _account_table(accounts), as_json=as_json)
            return
        left = local.balance(principal_id, user_id)
    single = {"principal_id": principal_id, "user_id": user_id, "balance_xusd": left}
    emit(single, lambda: money(left), as_json=as_json)


def ratings(
    *,
    principal_id: Principal = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many; 0 shows all.")] = 20,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only what was not charged.")] = False,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Show each commit and ingest of an embedded gate, newest last."""
    with opened_ledger(db) as local:
        found = [one for one in local.ratings(principal_id) if not quarantined or one.status == "quarantined"]
    shown = found[-last:] if last else found
    emit(shown, lambda: _rating_table(shown, len(found)), as_json=as_json)


def _named(account: AccountView) -> dict[str, object]:
    return {
        "principal_id": account.principal_id,
        "user_id": account.user_id,
        "granted_xusd": account.granted_xusd,
        "spent_xusd": account.spent_xusd,
    }


def _account_table(accounts: Sequence[AccountView]) -> RenderableType:
    return table(
        ("customer*", "user*", "granted>", "spent>", "balance>", "USD>"),
        [
            (one.principal_id, one.user_id, f"{one.granted_xusd:,}", f"{one.spent_xusd:,}", *_left(one.balance_xusd))
            for one in accounts
        ],
    )


def _left(amount: int) -> tuple[str, str]:
    return f"{amount:,}", usd(amount)


def _price_table(meters: Sequence[MeterView]) -> RenderableType:
    return table(
        ("meter*", "XUSD>", "per>", "unit", "rounding", "features"),
        [
            (
                one.meter_code,
                "no price" if one.xusd is None else f"{one.xusd:,}",
                f"{one.per:,}",
                one.unit,
                one.rounding,
                ", ".join(one.features),
            )
            for one in meters
        ],
    )


def _rating_table(found: Sequence[Rating], total: int) -> RenderableType:
    title = None if len(found) == total else f"the last {len(found)} of {total}; --last 0 shows all"
    return table(
        ("time (UTC)*", "customer*", "feature*", "quantity>", "XUSD>", "status", "run", "meters"),
        [
            (
                datetime.fromtimestamp(one.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S"),
                one.principal_id if one.user_id is None else f"{one.principal_id}/{one.user_id}",
                one.feature_code,
                f"{one.quantity:,}",
                f"{one.amount_xusd:,}",
                one.status if one.status == "applied" else f"quarantined: {', '.join(one.hints)}",
                one.labels.get("run_id", "-")[:8],
                " ".join(
                    f"{code.removeprefix(one.feature_code + '.')}={count:,}" for code, count in one.meters.items()
                ),
            )
            for one in found
        ],
        title=title,
    )
