"""Runs the crash matrix and judges it by the ledger.

A run whose answer reached the caller must be charged once, with its tokens. A run that
was cut short is charged at most once: its end never reached the outbox, and it is
settled as an orphan. No lease may stay open.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from langchain_vluna import LocalGate
from tests.crash.points import POINTS
from tests.crash.worker import FEATURE, PRINCIPALS, Plan, recover, work

__all__ = ["Verdict", "run_matrix"]

_GRANT = 10**9
_PRICE = 3
_RECOVERIES = 5


@dataclass(slots=True)
class Verdict:
    """What the ledger showed, over all workers."""

    workers: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    divergent: list[str] = field(default_factory=list)
    open_leases: int = 0
    unsettled: int = 0
    broken: list[str] = field(default_factory=list)
    """Workers that ended in another way than by their kill or their end."""

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return not (self.lost or self.double or self.divergent or self.open_leases or self.unsettled or self.broken)

    def __str__(self) -> str:
        killed = sum(self.killed.values())
        counts = {
            "lost": len(self.lost),
            "double": len(self.double),
            "divergent": len(self.divergent),
            "open leases": self.open_leases,
            "unsettled": self.unsettled,
            "broken": len(self.broken),
        }
        lines = [
            f"{self.workers} workers, {killed} killed, {self.answered} answers reached their callers",
            ", ".join(f"{name} {count}" for name, count in counts.items()),
        ]
        lines += [f"  killed {self.killed[point]:4} at {point}" for point in POINTS]
        return "\n".join(lines + self.lost + self.double + self.divergent + self.broken)


def run_matrix(runs: int, seed: int, *, durable: bool = True) -> Verdict:
    """Kill `runs` workers, each at one of the points in turn, and look at what the ledger says."""
    verdict = Verdict()
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            plan = Plan(Path(folder), POINTS[number % len(POINTS)], seed * 1_000_003 + number, durable)
            _one(plan, verdict)
    return verdict


def _one(plan: Plan, verdict: Verdict) -> None:
    gate = LocalGate(plan.ledger)
    for side in ("input", "output"):
        gate.price(FEATURE, f"{FEATURE}.tokens.{side}", _PRICE)
    for principal in PRINCIPALS:
        gate.grant(principal, _GRANT)
    gate.close()
    verdict.workers += 1
    first = Plan(plan.folder, "after_usage_row", plan.seed, plan.durable) if plan.point == "during_take_over" else plan
    _note(verdict, plan, _in_child(lambda: work(first)), counts=plan.point != "during_take_over")
    if plan.durable:
        status = -signal.SIGKILL
        for _ in range(_RECOVERIES):
            attempt = plan if plan.point == "during_take_over" and status < 0 else Plan(plan.folder, "", plan.seed)
            status = _in_child(lambda attempt=attempt: recover(attempt))  # type: ignore[misc]
            if status < 0:
                verdict.killed[plan.point] += 1
                plan = Plan(plan.folder, "", plan.seed)
                continue
            break
        verdict.unsettled += max(status, 0)
    _judge(plan, verdict)


def _note(verdict: Verdict, plan: Plan, status: int, *, counts: bool) -> None:
    if status == -signal.SIGKILL:
        verdict.killed[plan.point] += counts
    elif status:
        verdict.broken.append(f"worker {plan.point} seed {plan.seed}: exit status {status}")


def _in_child(task: Callable[[], int]) -> int:
    """Run a task in a forked process; returns its result, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = task()
        except BaseException:  # noqa: BLE001
            # Border of a process: whatever happened is told by its exit status.
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _judge(plan: Plan, verdict: Verdict) -> None:
    where = f"at {plan.point or 'during_take_over'}, seed {plan.seed}"
    started, ended = _journal(plan)
    verdict.answered += len(ended)
    gate = LocalGate(plan.ledger)
    charged: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for rating in gate.ratings():
        charged[rating.labels["root_run_id"]].append((rating.principal_id, rating.quantity, rating.status))
    for run, (principal, tokens) in ended.items():
        found = charged.pop(run, [])
        if not found:
            verdict.lost.append(f"lost: run {run} of {tokens} tokens, killed {where}")
        elif len(found) > 1:
            verdict.double.append(f"double: run {run}: {found}, killed {where}")
        elif found != [(principal, tokens, "applied")]:
            verdict.divergent.append(f"divergent: run {run}: {found}, not {tokens} of {principal}, killed {where}")
    for run in (run for run, found in charged.items() if run not in started or len(found) > 1):
        verdict.double.append(f"double: run {run}, cut short: {charged[run]}, killed {where}")
    verdict.open_leases += plan.durable * sum(not lease.commits for lease in gate.leases("active"))
    for principal in PRINCIPALS:
        spent = _PRICE * sum(r.quantity for r in gate.ratings(principal) if r.status == "applied")
        if gate.balance(principal) != _GRANT - spent:
            verdict.divergent.append(f"divergent: balance of {principal}, killed {where}")
    gate.close()


def _journal(plan: Plan) -> tuple[set[str], dict[str, tuple[str, int]]]:
    """Return the runs that started, and customer and tokens of those whose answer reached the caller."""
    said = [json.loads(line) for line in plan.journal.read_text().splitlines()] if plan.journal.exists() else []
    ended = {line["run"]: (line["principal"], line["tokens"]) for line in said if line["event"] == "end"}
    return {line["run"] for line in said}, ended
