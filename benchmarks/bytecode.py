"""Where a run's Python goes, in bytecodes: counted, not timed, so the same on any machine, however busy.

`python -m benchmarks.bytecode`. One model run on this thread, gate in the process, outbox on disk; what the relay's
threads do later is not in it, nor what C does: SQLite, HMAC, JSON and the sockets.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import Any

from benchmarks.report import Table
from benchmarks.subjects import Bare, Gated

__all__ = ["measure"]

_PARTS: Mapping[str, tuple[str, ...]] = {
    "describe the run": ("langchain_vluna/callbacks", "langchain_vluna/naming"),
    "read its usage": ("langchain_vluna/usage",),
    "open, bill and close it": ("langchain_vluna/gate",),
    "question, signature, answer": ("langchain_vluna/_core", "langchain_vluna/_io/client"),
    "outbox": ("langchain_vluna/_io/outbox",),
    "relay, locks": ("langchain_vluna/_io",),
    "the stub": ("benchmarks",),
}
_OTHER = "LangChain, asyncio, standard library"


def measure() -> Table:
    """Count the bytecodes of a run, ungated and gated, by part."""
    table = Table(0, "Bytecodes of one run", ("part", "invoke", "invoke, ungated", "ainvoke", "ainvoke, ungated"))
    columns = [_count(subject, how) for how in ("invoke", "ainvoke") for subject in (Gated(), Bare())]
    table.rows = [(part, *(column[part] for column in columns)) for part in (*_PARTS, _OTHER)]
    table.rows.append(("in all", *(column.total() for column in columns)))
    return table


def _count(subject: Bare, how: str) -> Counter[str]:
    executed: Counter[CodeType] = Counter()

    def enter(frame: FrameType, _event: str, _argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def trace(inner: FrameType, event: str, _: object) -> Any:
            executed[inner.f_code] += event == "opcode"
            return trace

        return trace

    async def traced() -> None:
        for _ in range(2):
            await subject.arun()
        sys.settrace(enter)
        await subject.arun()
        sys.settrace(None)

    if how == "ainvoke":
        asyncio.run(traced())
    else:
        for _ in range(2):
            subject.run()
        sys.settrace(enter)
        subject.run()
        sys.settrace(None)
    subject.settle()
    subject.close()
    return _by_part(executed)


def _by_part(executed: Mapping[CodeType, int]) -> Counter[str]:
    parts: Counter[str] = Counter()
    for code, count in executed.items():
        found = (part for part, places in _PARTS.items() if any(place in code.co_filename for place in places))
        parts[next(found, _OTHER)] += count
    return parts


if __name__ == "__main__":
    print(measure())
