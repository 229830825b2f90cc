"""What must be true of a ledger, as functions of what it holds: each returns what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna._io.local import LeaseView, Rating
from langchain_vluna.naming import token_meter

__all__ = ["Tokens", "billed_once", "nothing_open", "tokens_billed"]


class Tokens(TypedDict, total=False):
    """Tokens by kind; `total` is the quantity."""

    input: int
    output: int
    cached: int
    cache_write: int
    reasoning: int
    audio_input: int
    audio_output: int
    total: int


def billed_once(
    ratings: Iterable[Rating], *, run_id: object = None, thread: object = None, runs: int | None = None
) -> list[str]:
    """Each run below a root run, or of a thread, has exactly one charge, and there are `runs` of them."""
    if (run_id is None) == (thread is None):
        msg = "assert_billed_once takes a run id or thread=..., one of them"
        raise ConfigurationError(msg)
    mine: dict[str, list[Rating]] = {}
    for rating in ratings:
        labels = rating.labels
        ids = (labels.get("run_id"), labels.get("root_run_id")) if thread is None else (labels.get("thread_id"),)
        if str(run_id if thread is None else thread) in ids:
            mine.setdefault(labels.get("run_id", rating.idempotency_key), []).append(rating)
    what = f"run {run_id}" if thread is None else f"thread {thread!r}"
    if not mine:
        return [f"nothing was billed for {what}"]
    problems = [problem for run, charges in mine.items() for problem in _not_once(run, charges)]
    if runs is not None and len(mine) != runs:
        problems.append(f"{what}: {runs} runs should have been billed, {len(mine)} were")
    return problems


def _not_once(run: str, charges: Sequence[Rating]) -> list[str]:
    applied = sum(charge.status == "applied" for charge in charges)
    feature = charges[0].feature_code
    if applied == 0:
        return [f"run {run} of {feature} was recorded but not charged: {_reasons(charges)}"]
    if applied > 1:
        return [f"run {run} of {feature} was charged {applied} times"]
    return []


def _reasons(charges: Iterable[Rating]) -> str:
    types = dict.fromkeys(hint for charge in charges for hint in charge.hints)
    advice = "; give each of its meters a price with price(feature, meter, xusd)"
    return (", ".join(types) or "no reason given") + (advice if "pricing.not_configured" in types else "")


def nothing_open(leases: Iterable[LeaseView], waiting: Mapping[str, str]) -> list[str]:
    """No lease is active without a charge, and nothing waits in the outbox (`waiting`: run to what it waits for)."""
    problems = [
        f"lease {lease.lease_id} of {lease.feature_code} for {lease.principal_id!r} is open"
        for lease in leases
        if lease.state == "active" and lease.commits == 0
    ]
    return problems + [f"run {run} waits in the outbox: {why}" for run, why in waiting.items()]


def tokens_billed(
    ratings: Iterable[Rating], feature_code: str, expected: Mapping[str, Any], *, principal_id: str | None = None
) -> list[str]:
    """The charges of a feature add up to `expected`, kind by kind; kinds that are not named may be anything."""
    if unknown := [kind for kind in expected if kind not in Tokens.__annotations__]:
        msg = f"assert_tokens knows no {', '.join(unknown)}; it takes {', '.join(Tokens.__annotations__)}"
        raise ConfigurationError(msg)
    if not expected:
        msg = "assert_tokens needs at least one expected number, such as input=40"
        raise ConfigurationError(msg)
    mine = [
        rating
        for rating in ratings
        if rating.feature_code == feature_code
        and rating.status == "applied"
        and principal_id in {None, rating.principal_id}
    ]
    return [
        f"{feature_code}: {number} {kind} tokens should have been billed, {billed} were"
        for kind, number in expected.items()
        if (billed := _billed(mine, feature_code, kind)) != number
    ]


def _billed(ratings: Iterable[Rating], feature_code: str, kind: str) -> int:
    if kind == "total":
        return sum(rating.quantity for rating in ratings)
    meter = token_meter(feature_code, kind)
    return sum(rating.meters.get(meter, 0) for rating in ratings)
