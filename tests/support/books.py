"""It always adds up: what the models said they used, held against what the ledger charged and the outbox still owes.

Per customer: tokens reported = applied + alarmed + pending (+ cut off, where processes are killed). The models say it
themselves, into a `Journal`, before LangChain or this package see the answer; so a run that was charged nothing in
silence shows. Knows nothing of pytest.

    books = audit(journal, ledger, rows_of(gate), prices=PRICES)
    assert [] == books.problems()
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_vluna import Gate, LocalGate
from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._core.run import State
from langchain_vluna._io.outbox import Row, rows

__all__ = ["Books", "Entry", "Journal", "Sums", "audit", "rows_of"]

_SHOWN = 5
_OWED = frozenset({State.COMMITTING, State.RECANTING, State.INGESTING, State.DEAD})


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run used, by its model's or tool's own word."""

    customer: str
    run_id: str
    meters: Mapping[str, int]

    @property
    def quantity(self) -> int:
        return sum(self.meters.values())


class Journal:
    """What models and tools used. With a path it outlives its process, and many processes write it."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.entries: list[Entry] = []
        self.ended: set[str] = set()
        """Runs whose end this package has seen: from here on it answers for them."""

    def report(self, entry: Entry) -> None:
        """Note what a run used; before its answer is handed on."""
        self.entries.append(entry)
        self._write({"customer": entry.customer, "run_id": entry.run_id, "meters": dict(entry.meters)})

    def end(self, run_id: str) -> None:
        """Note that this package was told of the run's end and has returned."""
        self.ended.add(run_id)
        self._write({"ended": run_id})

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            # One write to a file opened for appending: processes do not tear each other's lines.
            os.write(self._file, json.dumps(line).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Return what all processes wrote."""
        journal = cls()
        for line in path.read_text(encoding="ascii").splitlines():
            told = json.loads(line)
            if "ended" in told:
                journal.ended.add(told["ended"])
            else:
                journal.entries.append(Entry(**told))
        return journal


@dataclass
class Sums:
    """Units of one customer. What was reported is all the others together, or something is wrong."""

    reported: int = 0
    applied: int = 0
    alarmed: int = 0
    """Recorded and not charged, or refused for good: somebody was told."""
    pending: int = 0
    cut: int = 0
    """Of runs whose process was killed before this package was told of their end."""

    @property
    def missing(self) -> int:
        return self.reported - self.applied - self.alarmed - self.pending - self.cut


@dataclass
class Books:
    """What an audit found. Each list names runs or leases."""

    sums: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    divergent: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    """Charged, although no model said that it used anything."""
    open_leases: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    money: list[str] = field(default_factory=list)
    """Amounts and balances that prices and grants do not explain."""

    def problems(self) -> list[str]:
        """Return what does not add up, each with the difference."""
        found = [
            f"{customer}: {sums.missing:+d} units unaccounted for: {sums}"
            for customer, sums in sorted(self.sums.items())
            if sums.missing
        ]
        for name in ("lost", "double", "divergent", "phantom", "open_leases", "money"):
            cases: list[str] = getattr(self, name)
            if cases:
                more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
                found.append(f"{len(cases)} {name}: {'; '.join(cases[:_SHOWN])}{more}")
        return found

    def counts(self) -> dict[str, int]:
        """Return how many of each problem there are."""
        names = ("lost", "double", "divergent", "phantom", "open_leases", "unsettled", "money")
        return {name: len(getattr(self, name)) for name in names}


def rows_of(*gates: Gate) -> list[Row]:
    """Return all rows of the gates' outboxes, in memory and on disk."""
    boxes = [box for gate in gates for box in gate.engine.outboxes if box.is_open]
    return [row for box in boxes for row in box.query(lambda db: rows.select(db, "1"))]


def audit(
    journal: Journal,
    ledger: LocalGate,
    waiting: Iterable[Row] = (),
    *,
    prices: Mapping[str, int],
    survived: bool = True,
) -> Books:
    """Hold journal, ledger and outbox against each other.

    Args:
        journal: What was used.
        ledger: What was charged.
        waiting: Rows of every outbox that was used.
        prices: XUSD per unit of each meter.
        survived: Whether the process of every run lived on; else only runs that `ended` must be charged.
    """
    books = Books(runs=len(journal.entries))
    entries = {entry.run_id: entry for entry in journal.entries}
    ratings = ledger.ratings()
    by_run: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_run[rating.labels.get("run_id", f"unlabelled {rating.commit_id}")].append(rating)
        sums = books.sums[rating.principal_id]
        if rating.status == "applied":
            sums.applied += rating.quantity
        else:
            sums.alarmed += rating.quantity
    owed = _owed(books, waiting, {rating.idempotency_key for rating in ratings})
    for entry in entries.values():
        sums = books.sums[entry.customer]
        sums.reported += entry.quantity
        if entry.run_id not in by_run and entry.run_id not in owed:
            if survived or entry.run_id in journal.ended:
                books.lost.append(f"{entry.run_id} of {entry.customer}: {entry.quantity} units")
            else:
                sums.cut += entry.quantity
    for run_id, charges in by_run.items():
        _compare(books, run_id, entries.get(run_id), charges)
    books.open_leases = [
        f"{lease.lease_id} of {lease.feature_code} for {lease.principal_id}"
        for lease in ledger.leases("active")
        if not lease.commits
    ]
    _count_money(books, ledger, ratings, prices)
    return books


def _owed(books: Books, waiting: Iterable[Row], charged: set[str]) -> set[str]:
    owed = set()
    for row in waiting:
        if row.state in {State.CANCELED, State.DONE}:
            continue
        books.unsettled.append(f"{row.run_id} is {row.state}: {row.reason}")
        if row.state in _OWED and row.usage is not None and not {row.key("c"), row.key("i")} & charged:
            owed.add(row.run_id)
            sums, quantity = books.sums[row.identity.principal_id], int(row.usage["quantity_minor"])
            if row.state is State.DEAD:
                sums.alarmed += quantity
            else:
                sums.pending += quantity
    return owed


def _compare(books: Books, run_id: str, entry: Entry | None, charges: list[Rating]) -> None:
    if len(charges) > 1:
        shown = ", ".join(f"{c.quantity} {c.status} by {c.source} under {c.idempotency_key}" for c in charges)
        books.double.append(f"{run_id}: {shown}")
    if entry is None:
        books.phantom.append(f"{run_id}: {charges[0].quantity} units of {charges[0].principal_id}")
        return
    for charge in charges:
        if (entry.customer, dict(entry.meters)) != (charge.principal_id, dict(charge.meters)):
            books.divergent.append(
                f"{run_id}: used {dict(entry.meters)} by {entry.customer},"
                f" charged {dict(charge.meters)} to {charge.principal_id}"
            )


def _count_money(books: Books, ledger: LocalGate, ratings: Iterable[Rating], prices: Mapping[str, int]) -> None:
    charged: Counter[str] = Counter()
    for rating in ratings:
        due = sum(prices[meter] * quantity for meter, quantity in rating.meters.items())
        if due != rating.amount_xusd:
            books.money.append(f"commit {rating.commit_id} cost {rating.amount_xusd} XUSD, not {due}")
        if rating.status == "applied":
            charged[rating.principal_id] += rating.amount_xusd
    granted: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for account in ledger.accounts():
        granted[account.principal_id] += account.granted_xusd
        left[account.principal_id] += account.balance_xusd
    for customer in granted:
        due = granted[customer] - charged[customer]
        if due != left[customer]:
            books.money.append(f"{customer} has {left[customer]} XUSD left, not {due} ({left[customer] - due:+d})")
