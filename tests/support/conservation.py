"""It always adds up: what the models said they used, held against what the ledger charged and the outbox still owes.

Per customer: tokens reported = applied + alarmed + pending (+ cut off, where processes are killed). The models say it
themselves, into a `Journal`, before LangChain or this package see the answer; so a run that was charged nothing in
silence shows. A run whose process was killed before its end was recorded is charged by the rule for such runs, and
what it is charged is told apart from what models reported. Knows nothing of pytest.

    books = audit(journal, ledger, rows_of(gate), prices=PRICES)
    assert [] == books.problems()
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from langchain_vluna import Gate, LocalGate
from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._core.run import State
from langchain_vluna._io.outbox import Row, rows
from tests.support.journal import Entry, Journal

__all__ = ["Books", "Rule", "Sums", "audit", "rows_of"]

Rule = Literal["cancel", "bill_estimate"]
"""What becomes of a run that never ended: `on_orphan`."""

_SHOWN = 5
_WRONG = ("lost", "double", "divergent", "phantom", "open_leases", "money")
_OWED = frozenset({State.COMMITTING, State.RECANTING, State.INGESTING, State.DEAD})


@dataclass
class Sums:
    """Units of one customer. What was reported is all the others together, or something is wrong."""

    reported: int = 0
    applied: int = 0
    alarmed: int = 0
    """Recorded and not charged, or refused for good: somebody was told."""
    pending: int = 0
    cut: int = 0
    """Of runs whose process was killed before this package was told of their end, and that were not charged it."""
    estimated: int = 0
    """Charged for such runs by the rule, instead; in no equation with what was reported."""

    @property
    def missing(self) -> int:
        return self.reported - self.applied - self.alarmed - self.pending - self.cut


@dataclass
class Books:
    """What an audit found. Each list names runs or leases."""

    sums: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    runs: int = 0
    """Runs that said what they used."""
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    divergent: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    """Charged, although no model said that it used anything."""
    open_leases: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)
    money: list[str] = field(default_factory=list)
    """Amounts and balances that prices and grants do not explain."""

    @property
    def unbalanced(self) -> list[str]:
        """Customers whose sums do not agree."""
        return [
            f"{customer}: {sums.missing:+d} units unaccounted for: {sums}"
            for customer, sums in sorted(self.sums.items())
            if sums.missing
        ]

    def problems(self) -> list[str]:
        """Return what does not add up, each with the difference."""
        found = self.unbalanced
        for name in _WRONG:
            cases: list[str] = getattr(self, name)
            if cases:
                more = f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
                found.append(f"{len(cases)} {name}: {'; '.join(cases[:_SHOWN])}{more}")
        return found

    def counts(self) -> dict[str, int]:
        """Return how many of each problem there are, and of rows that are left."""
        return {name: len(getattr(self, name)) for name in (*_WRONG, "unbalanced", "unsettled")}


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
    rule: Rule = "cancel",
) -> Books:
    """Hold journal, ledger and outbox against each other.

    Args:
        journal: What was used.
        ledger: What was charged.
        waiting: Rows of every outbox that was used.
        prices: XUSD per unit of each meter.
        survived: Whether the process of every run lived on; else only runs that `ended` must be charged.
        rule: What becomes of runs that did not end.
    """
    books = Books(runs=len(journal.entries))
    entries = {entry.run_id: entry for entry in journal.entries}
    ratings = ledger.ratings()
    by_run: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_run[rating.labels.get("run_id", f"unlabelled {rating.commit_id}")].append(rating)
    owed = _owed(books, waiting, {rating.idempotency_key for rating in ratings})
    for run_id in entries.keys() | journal.admitted | by_run.keys():
        ended = run_id in journal.ended or (survived and run_id in entries)
        _judge(books, run_id, entries.get(run_id), by_run.get(run_id, []), owed.get(run_id), ended=ended, rule=rule)
    if rule == "bill_estimate":
        silent = journal.admitted - by_run.keys() - owed.keys() - journal.ended
        books.lost += [f"{run_id}: its estimate" for run_id in silent]
    books.open_leases = [
        f"{lease.lease_id} of {lease.feature_code} for {lease.principal_id}"
        for lease in ledger.leases("active")
        if not lease.commits
    ]
    _count_money(books, ledger, ratings, prices)
    return books


def _owed(books: Books, waiting: Iterable[Row], charged: set[str]) -> dict[str, Row]:
    """Return the rows whose usage was recorded and not charged yet."""
    owed = {}
    for row in waiting:
        if row.state in {State.CANCELED, State.DONE}:
            continue
        books.unsettled.append(f"{row.run_id} is {row.state}: {row.reason}")
        if row.state in _OWED and row.usage is not None and not {row.key("c"), row.key("i")} & charged:
            owed[row.run_id] = row
    return owed


def _judge(
    books: Books,
    run_id: str,
    entry: Entry | None,
    charges: list[Rating],
    owed: Row | None,
    *,
    ended: bool,
    rule: Rule,
) -> None:
    """Judge one run, and add it to the sums of its customer."""
    # What a lease lost is recorded without being charged, and then ingested: that is one charge.
    applied = [charge for charge in charges if charge.status == "applied"]
    if len(applied) > 1 or len(charges) > len(applied) + 1:
        shown = ", ".join(f"{c.quantity} {c.status} by {c.source} under {c.idempotency_key}" for c in charges)
        books.double.append(f"{run_id}: {shown}")
    if entry is not None:
        books.sums[entry.customer].reported += entry.quantity
    if not ended and not _is_exact(entry, applied):
        _judge_cut(books, run_id, entry, applied or charges, owed, rule=rule)
        return
    for charge in applied or charges:
        _judge_charge(books, run_id, entry, charge)
    if not charges and owed is not None:
        sums, quantity = books.sums[owed.identity.principal_id], int((owed.usage or {})["quantity_minor"])
        if owed.state is State.DEAD:
            sums.alarmed += quantity
        else:
            sums.pending += quantity
    elif not charges and entry is not None:
        books.lost.append(f"{run_id} of {entry.customer}: {entry.quantity} units")


def _judge_charge(books: Books, run_id: str, entry: Entry | None, charge: Rating) -> None:
    sums = books.sums[charge.principal_id]
    if charge.status == "applied":
        sums.applied += charge.quantity
    else:
        sums.alarmed += charge.quantity
    if entry is None:
        books.phantom.append(f"{run_id}: {charge.quantity} units of {charge.principal_id}")
    elif not _is_exact(entry, [charge]):
        books.divergent.append(
            f"{run_id}: used {dict(entry.meters)} by {entry.customer}, charged {dict(charge.meters)}"
            f" to {charge.principal_id} as {_source(charge)}"
        )


def _judge_cut(
    books: Books, run_id: str, entry: Entry | None, charges: list[Rating], owed: Row | None, *, rule: Rule
) -> None:
    """Judge a run whose end nobody recorded: nothing is charged, or its estimate, as the rule says."""
    if entry is not None:
        books.sums[entry.customer].cut += entry.quantity
    for charge in charges:
        books.sums[charge.principal_id].estimated += charge.quantity
        if rule == "bill_estimate" and _source(charge) == "estimated":
            continue
        wrong = books.divergent if entry is not None else books.phantom
        wrong.append(f"{run_id}: {charge.quantity} units of {charge.principal_id}")
    if owed is not None and rule == "cancel" and owed.source == "estimated":
        books.divergent.append(f"{run_id}: did not end, and owes {(owed.usage or {})['quantity_minor']} units")


def _is_exact(entry: Entry | None, charges: list[Rating]) -> bool:
    """Whether the run was charged, each time to its customer and as its model reported."""
    if entry is None or not charges:
        return False
    right = (entry.customer, dict(entry.meters), "reported")
    return all(right == (charge.principal_id, dict(charge.meters), _source(charge)) for charge in charges)


def _source(charge: Rating) -> str:
    return charge.labels.get("usage_source", "reported")


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
