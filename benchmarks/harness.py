"""Stubs and measured processes: started, asked in turns, and ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from urllib.request import urlopen

__all__ = ["Bench", "Case", "Result"]

Result = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """What a measured process does: a generator of rounds and its parameters."""

    rounds: str
    """`<module>:<function>`."""
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """How thorough to be."""

    rounds: int
    quick: bool

    def size(self, full: int) -> int:
        """Return how many runs a round has."""
        return max(10, full // 20) if self.quick else full

    def measure(self, cases: Mapping[str, Case], rounds: int | None = None) -> dict[str, Result]:
        """Play the cases in turns, one at a time; returns the median of each figure."""
        results: dict[str, list[Result]] = {name: [] for name in cases}
        with ExitStack() as stack:
            workers = {name: stack.enter_context(_worker(case)) for name, case in cases.items()}
            for _ in range(rounds or self.rounds):
                for name, worker in workers.items():
                    results[name].append(_ask(worker))
        return {name: _medians(found) for name, found in results.items()}

    def together(self, cases: list[Case]) -> list[Result]:
        """Play one round of all cases at the same time."""
        with ExitStack() as stack:
            workers = [stack.enter_context(_worker(case)) for case in cases]
            for worker in workers:
                _tell(worker)
            return [_hear(worker) for worker in workers]

    @contextmanager
    def stub(self, wait: float = 0.0) -> Iterator[str]:
        """Run a stub gate that answers after `wait` seconds; returns its address."""
        command = [sys.executable, "-m", "benchmarks.stub", str(wait)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield f"http://127.0.0.1:{int(process.stdout.readline())}"
            finally:
                process.terminate()

    def served(self, url: str) -> Result:
        """Return how many requests a stub has had, by verb."""
        with urlopen(f"{url}/served") as response:  # noqa: S310 -- an address of our own
            found: Result = json.load(response)
            return found


@contextmanager
def _worker(case: Case) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.worker", case.rounds, json.dumps(dict(case.parameters))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            yield process
            process.stdin.close()
            process.wait(timeout=60)
        finally:
            process.kill()


def _ask(worker: subprocess.Popen[str]) -> Result:
    _tell(worker)
    return _hear(worker)


def _tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def _hear(worker: subprocess.Popen[str]) -> Result:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        msg = f"a measured process ended with {worker.wait()}: {worker.args!r}"
        raise RuntimeError(msg)
    result: Result = json.loads(line)
    return result


def _medians(results: list[Result]) -> Result:
    return {figure: median(result[figure] for result in results) for figure in results[0]}
