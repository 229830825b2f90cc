"""9. What importing the package adds to importing LangChain's callbacks."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.harness import Bench
from benchmarks.report import Aim, Table

__all__ = ["measure"]

_STEPS = {
    "langchain_core.callbacks": "import langchain_core.callbacks",
    "import langchain_vluna": "import langchain_vluna",
    "Gate, VlunaCallbackHandler": "from langchain_vluna import Gate, VlunaCallbackHandler",
    "Gate.local() and a handler": "h = VlunaCallbackHandler(Gate.local(), principal_id='customer')",
}
_CLOCK = "import time; was = time.process_time()"
_LAP = "now = time.process_time(); print(now - was); was = now"


def measure(bench: Bench) -> Table:
    """Measure fresh processes, each step in its turn."""
    table = Table(9, "Import time", ("step", "CPU ms"))
    laps = [_laps() for _ in range(3 if bench.quick else 15)]
    for index, step in enumerate(_STEPS):
        table.rows.append((step, median(lap[index] for lap in laps) * 1e3))
    added = median(lap[1] + lap[2] for lap in laps) * 1e3
    table.aims.append(Aim("package, Gate and handler over langchain_core.callbacks, ms", added, 40))
    return table


def _laps() -> list[float]:
    script = "\n".join([_CLOCK, *(line for step in _STEPS.values() for line in (step, _LAP))])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]
