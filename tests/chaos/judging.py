"""It always adds up: what models reported is applied, alarmed or pending, run by run and customer by customer.

Judges by the ledger alone, against a side journal of what the models really reported.
Knows nothing of pytest.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from langchain_vluna._core.ledger.model import Rating
from langchain_vluna._core.run import State
from langchain_vluna._io.local.admin import LeaseView
from langchain_vluna._io.outbox import Row

__all__ = ["Journal", "Rule", "Story", "Verdict", "judge"]

Rule = Literal["cancel", "bill_estimate"]
"""What becomes of a run that never ended: `on_orphan`."""


@dataclass
class Story:
    """What is known of one run besides what the gate was told."""

    customer: str
    admitted: bool = False
    """Whether the gate let it in, as far as its process lived to say so."""
    tokens: int | None = None
    """What its model reported, if it got so far."""
    ended: bool = False
    """Whether its end was recorded: from then on it must be charged."""


class Journal:
    """A file to which many processes append what really happened, a line at a time; it survives their deaths."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def write(self, run_id: object, customer: str, **facts: Any) -> None:
        """Append a line, at once and whole."""
        line = json.dumps({"run": str(run_id), "customer": customer, **facts}) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def stories(self) -> dict[str, Story]:
        """Return what happened, by run id."""
        stories: dict[str, Story] = {}
        for line in self._lines():
            story = stories.setdefault(line["run"], Story(line["customer"]))
            if "tokens" in line:
                story.tokens = line["tokens"]
            story.admitted = story.admitted or line.get("admitted", False)
            story.ended = story.ended or line.get("ended", False)
        return stories

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            yield from map(json.loads, self._path.read_text(encoding="ascii").splitlines())


@dataclass
class Verdict:
    """What does not add up. All empty is what must be."""

    lost: list[str] = field(default_factory=list)
    """Runs that ended and were charged nothing, in silence."""
    double: list[str] = field(default_factory=list)
    divergent: list[str] = field(default_factory=list)
    """Runs charged otherwise than they used, or against the rule, and charges without a run."""
    open_leases: list[str] = field(default_factory=list)
    customers: dict[str, str] = field(default_factory=dict)
    """Customers whose sums do not agree, with the sums."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.double or self.divergent or self.open_leases or self.customers)

    def __str__(self) -> str:
        return "; ".join(f"{name}: {value}" for name, value in vars(self).items() if value) or "it adds up"

    def counts(self) -> Counter[str]:
        """Return how many there are of each."""
        return Counter({name: len(value) for name, value in vars(self).items()})


def judge(
    stories: Mapping[str, Story],
    *,
    ratings: Iterable[Rating],
    leases: Iterable[LeaseView],
    rows: Iterable[Row] = (),
    rule: Rule = "cancel",
    settled: bool = True,
) -> Verdict:
    """Hold the ledger against the journal.

    Args:
        stories: What really happened.
        ratings: What the gate recorded.
        leases: All leases of the gate.
        rows: What is left in the outbox.
        rule: What becomes of runs that did not end.
        settled: Whether everything must be settled by now; leases of pending rows are open else.
    """
    verdict = Verdict()
    applied: dict[str, list[Rating]] = defaultdict(list)
    alarmed: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        (applied if rating.status == "applied" else alarmed)[rating.labels.get("run_id", "?")].append(rating)
    pending = {row.run_id: row for row in rows if row.usage is not None and row.state not in _OVER}
    for run_id, story in stories.items():
        _judge_run(run_id, story, applied[run_id], alarmed[run_id], pending.get(run_id), rule=rule, verdict=verdict)
    for run_id in applied.keys() - stories.keys():
        verdict.divergent.append(f"{run_id}: charged, and no run of this id is known")
    verdict.customers = _unbalanced(stories, applied, alarmed, pending)
    if settled:
        verdict.open_leases = [lease.lease_id for lease in leases if lease.state == "active" and not lease.commits]
    return verdict


_OVER = frozenset({State.ASKING, State.OPEN, State.UNGATED, State.CANCELED, State.CANCELING, State.VOIDING})


def _judge_run(
    run_id: str,
    story: Story,
    applied: list[Rating],
    alarmed: list[Rating],
    pending: Row | None,
    *,
    rule: Rule,
    verdict: Verdict,
) -> None:
    if len(applied) > 1:
        verdict.double.append(f"{run_id}: {[(r.idempotency_key, r.quantity) for r in applied]}")
    if story.ended:
        if not (applied or alarmed or pending):
            verdict.lost.append(f"{run_id}: {story.tokens} tokens")
        verdict.divergent += [
            f"{run_id}: reported {story.tokens}, charged {rating.quantity} ({rating.labels.get('usage_source')})"
            for rating in applied
            if rating.quantity != story.tokens or rating.labels.get("usage_source") != "reported"
        ]
        return
    for rating in applied:
        # Its end may have been on disk already when it died, before anybody was told.
        source = rating.labels.get("usage_source")
        exact = rating.quantity == story.tokens and source == "reported"
        if not exact and not (rule == "bill_estimate" and source == "estimated"):
            verdict.divergent.append(f"{run_id}: it did not end, and was charged {rating.quantity} ({source})")
    if rule == "bill_estimate" and story.admitted and not (applied or alarmed or pending):
        verdict.lost.append(f"{run_id}: the estimate")


def _unbalanced(
    stories: Mapping[str, Story],
    applied: Mapping[str, list[Rating]],
    alarmed: Mapping[str, list[Rating]],
    pending: Mapping[str, Row],
) -> dict[str, str]:
    reported: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    for run_id, story in stories.items():
        if not story.ended or story.tokens is None:
            continue
        reported[story.customer] += story.tokens
        if charged := applied.get(run_id):
            shown[story.customer] += sum(rating.quantity for rating in charged)
        elif marked := alarmed.get(run_id):
            # A lease that was lost with its commit is charged by ingest; each run is alarmed at most once.
            shown[story.customer] += max(rating.quantity for rating in marked)
        elif row := pending.get(run_id):
            shown[story.customer] += int((row.usage or {})["quantity_minor"])
    return {
        customer: f"reported {tokens}, applied + alarmed + pending {shown[customer]}"
        for customer, tokens in reported.items()
        if tokens != shown[customer]
    }
