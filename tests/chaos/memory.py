"""What many finished runs leave behind: `python -m tests.chaos.memory --runs 100000`.

Real LangChain runs, of which some fail, over an outbox file and a gate that answers at once. Memory is measured after a
warm-up, and the outbox while it is at work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_vluna import Gate, Settings, VlunaCallbackHandler
from langchain_vluna._core.types import HttpRequest, HttpResponse
from langchain_vluna.testing.models import ScriptedChatModel

__all__ = ["Left", "PromptGate", "finish"]

_CUSTOMERS = 50
_MIB = 1024 * 1024


class PromptGate:
    """Grants and charges everything at once and remembers nothing."""

    settings = Settings(
        base_url="http://prompt.invalid/mgt/v1",
        realm_id="realm",
        service_key_id="key",
        service_key_secret="c2VjcmV0",  # type: ignore[arg-type]
    )

    def send(self, request: HttpRequest) -> HttpResponse:
        body = json.loads(request.content)
        verb = request.target.rpartition("/")[2]
        data: Any = {"cancelled": True}
        if verb == "authorize":
            data = {"lease_token": f"lease.{os.urandom(8).hex()}", "feature_code": body["feature_code"]}
        elif verb == "batch":
            items = [{"index": n, "status": "committed", "commit": self._commit()} for n in range(len(body["items"]))]
            data = {"items": items}
        elif verb != "cancel":
            data = self._commit()
        return HttpResponse(200, {}, json.dumps({"ok": True, "code": "OK", "data": data}).encode())

    def _commit(self) -> dict[str, Any]:
        line = {"meter_code": "m", "quantity_minor": "1", "unit_price_xusd": "1", "amount_xusd": "1"}
        return {"commit_id": os.urandom(8).hex(), "amount_xusd": "1", "lines": [line]}

    async def asend(self, request: HttpRequest) -> HttpResponse:
        return self.send(request)

    def close(self) -> None:
        """There is nothing to close."""

    async def aclose(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class Left:
    """What was left behind."""

    runs: int
    seconds: float
    grown: float
    """Resident memory, in MiB, since the warm-up."""
    objects: int
    """Objects that the collector knows, since the warm-up: what each run leaves shows here first."""
    file: float
    """The largest the outbox file was, with its log, in MiB."""
    rows: int


def finish(runs: int, *, warm_up: int, path: str | None, one_fails_of: int = 10) -> Left:
    """Let so many runs begin and end, and measure."""
    gate = Gate(PromptGate(), wire="tutorial", outbox=path or ":memory:", max_unsettled=1000)
    handlers = [VlunaCallbackHandler(gate, principal_id=f"customer_{n}") for n in range(_CUSTOMERS)]
    model = ScriptedChatModel(responses=["fine"] * (one_fails_of - 1) + [ValueError])
    largest = 0.0

    def some(count: int) -> None:
        nonlocal largest
        for number in range(count):
            try:
                model.invoke("hello", {"callbacks": [handlers[number % _CUSTOMERS]]})
            except ValueError:
                continue
            if path and number % 1000 == 0:
                largest = max(largest, _size(path))
        gate.flush(30)
        gc.collect()

    some(warm_up)
    before, known, began = _resident(), len(gc.get_objects()), time.monotonic()
    some(runs)
    seconds = time.monotonic() - began
    grown, objects = _resident() - before, len(gc.get_objects()) - known
    rows = gate.engine.outbox.query(lambda db: db.execute("SELECT count(*) FROM run").fetchone()[0])
    gate.close()
    return Left(runs, seconds, grown, objects, largest, rows)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def _size(path: str) -> float:
    return sum(file.stat().st_size for file in Path(path).parent.glob(Path(path).name + "*")) / _MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=10_000)
    parser.add_argument("--in-memory", action="store_true", help="an outbox in memory")
    parser.add_argument("--one-fails-of", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = None if options.in_memory else f"{folder}/vluna.outbox"
        left = finish(options.runs, warm_up=options.warm_up, path=path, one_fails_of=options.one_fails_of)
    each = 1e6 * left.seconds / left.runs
    sys.stdout.write(
        f"{left.runs} runs in {left.seconds:.0f} s ({each:.0f} us each):"
        f" memory grew by {left.grown:.1f} MiB and {left.objects} objects,"
        f" outbox at most {left.file:.1f} MiB, {left.rows} rows left\n"
    )
    return int(left.grown > 10 or left.file > 20)


if __name__ == "__main__":
    sys.exit(main())
