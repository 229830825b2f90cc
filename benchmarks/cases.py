"""Rounds of many runs: how long each took, and what they cost the process together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import rivals, subjects

__all__ = ["async_runs", "blocking_runs", "subject"]

SUBJECTS: dict[str, type[subjects.Subject]] = {
    "bare": subjects.Bare,
    "gated": subjects.Gated,
    "raw_socket": rivals.RawSocket,
    "http_client": rivals.HttpClient,
    "aiohttp": rivals.AioHttp,
    "sdk": rivals.OfficialSdk,
    "cycles": rivals.Cycles,
}

Result = dict[str, float]


def subject(name: str, options: dict[str, Any]) -> subjects.Subject:
    """Return a new subject."""
    return SUBJECTS[name](**options)


def blocking_runs(who: str, *, runs: int, threads: int = 1, **options: Any) -> Iterator[Result]:
    """Play rounds of `runs` runs, shared by `threads` threads."""
    measured = subject(who, options)
    try:
        _spread(measured, max(10, runs // 10), threads)
        measured.settle()
        while True:
            watch = _Watch()
            samples = _spread(measured, runs, threads)
            measured.settle()
            yield watch.result(samples)
    finally:
        measured.close()


def async_runs(who: str, *, runs: int, tasks: int = 1, **options: Any) -> Iterator[Result]:
    """Play rounds of `runs` runs, shared by `tasks` tasks of one event loop."""
    with asyncio.Runner() as runner:
        measured = subject(who, options)
        try:
            runner.run(_share(measured, max(10, tasks, runs // 10), tasks))
            while True:
                yield runner.run(_async_round(measured, runs, tasks))
        finally:
            runner.run(measured.aclose())
            measured.close()


class _Watch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def result(self, samples: list[float]) -> Result:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        samples.sort()
        count = len(samples)
        return {
            "cpu": cpu / count,
            "per_second": count / wall,
            "p50": samples[count // 2],
            "p99": samples[min(count - 1, count * 99 // 100)],
        }


def _spread(measured: subjects.Subject, runs: int, threads: int) -> list[float]:
    turns = iter(range(runs))
    samples: list[float] = []

    def work() -> None:
        for _ in turns:
            begun = time.perf_counter()
            measured.run()
            samples.append(time.perf_counter() - begun)

    if threads == 1:
        work()
        return samples
    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return samples


async def _async_round(measured: subjects.Subject, runs: int, tasks: int) -> Result:
    watch = _Watch()
    samples = await _share(measured, runs, tasks)
    return watch.result(samples)


async def _share(measured: subjects.Subject, runs: int, tasks: int) -> list[float]:
    turns = iter(range(runs))
    samples: list[float] = []

    async def work() -> None:
        for _ in turns:
            begun = time.perf_counter()
            await measured.arun()
            samples.append(time.perf_counter() - begun)

    await asyncio.gather(*(work() for _ in range(tasks)))
    await asyncio.to_thread(measured.settle)
    return samples
