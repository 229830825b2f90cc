"""Quotas and rates: set in an embedded gate, shown of any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import RenderableType

from langchain_vluna._io.local import PolicyView
from langchain_vluna.cli.opening import opened_ledger, opened_target
from langchain_vluna.cli.options import Db, Json, User
from langchain_vluna.cli.output import emit, table
from langchain_vluna.cli.values import seconds

__all__ = ["quota", "rate"]

Feature = Annotated[str | None, typer.Argument(metavar="FEATURE", help="Feature; all by default.", show_default=False)]
Limit = Annotated[int | None, typer.Argument(metavar="LIMIT", min=0, help="New limit.", show_default=False)]
Window = Annotated[
    int, typer.Option(parser=seconds, metavar="SPAN", help="Length of a window: seconds, or 90s, 15m, 1h, 7d.")
]
OfPrincipal = Annotated[
    str | None,
    typer.Option("--principal", help="Show what this customer has used; needed with the service.", show_default=False),
]
Lift = Annotated[bool, typer.Option("--lift", help="Take the limit of this window away.")]
Kind = Literal["quota", "rate"]


def quota(
    *,
    feature_code: Feature = None,
    limit: Limit = None,
    window: Window = "1d",  # type: ignore[assignment]  # text, as typed: the parser reads it
    lift: Lift = False,
    principal_id: OfPrincipal = None,
    user_id: User = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Allow so many units per window; without a limit, show quotas."""
    if feature_code is not None and (lift or limit is not None):
        _set("quota", feature_code, None if lift else limit, window, db, as_json=as_json)
    else:
        _show("quota", feature_code, principal_id, user_id, db, as_json=as_json)


def rate(
    *,
    feature_code: Feature = None,
    limit: Limit = None,
    window: Window = "1m",  # type: ignore[assignment]  # as above
    lift: Lift = False,
    principal_id: OfPrincipal = None,
    user_id: User = None,
    db: Db = None,
    as_json: Json = False,
) -> None:
    """Allow so many runs per window; without a limit, show rates."""
    if feature_code is not None and (lift or limit is not None):
        _set("rate", feature_code, None if lift else limit, window, db, as_json=as_json)
    else:
        _show("rate", feature_code, principal_id, user_id, db, as_json=as_json)


def _set(kind: Kind, feature_code: str, limit: int | None, window: int, db: Path | None, *, as_json: bool) -> None:
    with opened_ledger(db, create=True) as local:
        change = local.quota if kind == "quota" else local.rate
        change(feature_code, limit, window)
    done = {"feature_code": feature_code.strip().lower(), "kind": kind, "limit": limit, "window_sec": window}
    what = "without limit" if limit is None else f"at most {limit:,}"
    emit(done, lambda: f"{kind} of {done['feature_code']} per {window:,} s: {what}", as_json=as_json)


def _show(
    kind: Kind,
    feature_code: str | None,
    principal_id: str | None,
    user_id: str | None,
    db: Path | None,
    *,
    as_json: bool,
) -> None:
    if principal_id is None:
        with opened_ledger(db) as local:
            known = [one for one in local.policies() if one.kind == kind and feature_code in {None, one.feature_code}]
        emit(known, lambda: _policy_table(known), as_json=as_json)
        return
    with opened_target(db) as target:
        limits = target.client().limits(
            principal_id=principal_id, user_id=user_id, feature_code=feature_code, expand=("quotas", "rates")
        )
    used = [
        {"feature_code": one.feature_code, **window}
        for one in limits
        for window in (one.quotas if kind == "quota" else one.rates)
    ]
    emit(used, lambda: _used_table(used), as_json=as_json)


def _policy_table(policies: Sequence[PolicyView]) -> RenderableType:
    return table(
        ("feature*", "kind", "limit>", "window (s)>"),
        [(one.feature_code, one.kind, f"{one.limit:,}", f"{one.window_sec:,}") for one in policies],
    )


def _used_table(windows: Sequence[Mapping[str, Any]]) -> RenderableType:
    return table(
        ("feature*", "limit>", "used>", "window start*", "window end*", "scope"),
        [
            (
                one["feature_code"],
                "none" if str(one.get("limit_minor")) == "-1" else one.get("limit_minor"),
                one.get("used_minor"),
                one.get("window_start"),
                one.get("window_end"),
                one.get("subject_scope"),
            )
            for one in windows
        ],
    )
