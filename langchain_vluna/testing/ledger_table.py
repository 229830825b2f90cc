"""A ledger as text, for the messages of failed tests."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_vluna._io.local import LeaseView, Rating

__all__ = ["ledger_table"]

_MOST = 40
_RATINGS = ("customer", "feature", "run", "root", "thread", "meters", "quantity", "xusd", "status", "source")
_LEASES = ("customer", "feature", "lease", "state")
_NUMBERS = frozenset({"quantity", "xusd"})


def ledger_table(ratings: Sequence[Rating], leases: Sequence[LeaseView]) -> str:
    """Return the last ratings and all open leases as tables."""
    open_leases = [lease for lease in leases if lease.state == "active" and lease.commits == 0]
    parts = [f"ledger: {len(ratings)} ratings, {len(leases)} leases, {len(open_leases)} of them open"]
    if len(ratings) > _MOST:
        parts.append(f"(the last {_MOST} ratings)")
    if ratings:
        parts.append(_table(_RATINGS, [_rating(rating) for rating in ratings[-_MOST:]]))
    if open_leases:
        parts.append(_table(_LEASES, [_lease(lease) for lease in open_leases[-_MOST:]]))
    return "\n".join(parts)


def _rating(rating: Rating) -> tuple[str, ...]:
    meters = {code.removeprefix(f"{rating.feature_code}."): count for code, count in rating.meters.items()}
    status = rating.status if rating.status == "applied" else f"quarantined ({', '.join(rating.hints)})"
    source = rating.source + (", estimated" if rating.labels.get("usage_source") == "estimated" else "")
    return (
        _customer(rating.principal_id, rating.user_id),
        rating.feature_code,
        rating.labels.get("run_id", "-"),
        rating.labels.get("root_run_id", "-")[:8],
        rating.labels.get("thread_id", "-"),
        " ".join(f"{code}={count}" for code, count in meters.items()),
        str(rating.quantity),
        str(rating.amount_xusd),
        status,
        source,
    )


def _lease(lease: LeaseView) -> tuple[str, ...]:
    return (_customer(lease.principal_id, lease.user_id), lease.feature_code, lease.lease_id, lease.state)


def _customer(principal_id: str, user_id: str | None) -> str:
    return principal_id if user_id is None else f"{principal_id}/{user_id}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
