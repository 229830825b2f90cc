"""A process that uses a local gate's file: `python -m tests.support.local_worker MODE PATH NUMBER`.

Modes: `duplicates` ingests under NUMBER keys that all workers share; `own` settles NUMBER runs of its own; `fork` uses
the gate on both sides of a fork; `die` stops in the middle of a transaction.
"""

from __future__ import annotations

import os
import sys

from langchain_vluna._io.local import LocalGate
from tests.support.caller import Caller


def duplicates(path: str, number: int) -> None:
    caller = Caller(LocalGate(path))
    assert all(caller.ingest(1, key=f"shared-{index}").status == 200 for index in range(number))


def own(path: str, number: int) -> None:
    caller = Caller(LocalGate(path))
    assert all(caller.commit(caller.lease(), 1).status == 200 for _ in range(number))


def fork(path: str, number: int) -> None:
    gate = LocalGate(path)
    caller = Caller(gate)
    caller.ingest(1)
    child = os.fork()
    for _ in range(number):
        assert caller.ingest(1).status == 200
    if child == 0:
        gate.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert 2 * number + 1 == len(gate.ratings())


def die(path: str, number: int) -> None:
    gate = LocalGate(path)
    caller = Caller(gate)
    caller.ingest(number)
    with gate._store.transaction() as connection:
        connection.execute("DELETE FROM ratings")
        os._exit(9)


if __name__ == "__main__":
    {"duplicates": duplicates, "own": own, "fork": fork, "die": die}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
