"""The measured process: builds one case and plays a round of it for each line it is sent.

`python -m benchmarks.worker <module>:<function> <parameters as JSON>`. The function is a generator; what it yields
is the result of a round. A case lives as long as its process, so rounds of different cases can take turns: what
else the machine does then falls on all of them alike.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main() -> None:
    """Serve rounds until standard input ends."""
    module, function = sys.argv[1].split(":")
    rounds = getattr(import_module(module), function)(**json.loads(sys.argv[2]))
    try:
        for _ in sys.stdin:
            print(json.dumps(next(rounds)), flush=True)
    finally:
        rounds.close()


if __name__ == "__main__":
    main()
