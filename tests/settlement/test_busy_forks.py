"""A process that forks while its other threads are at work: nobody in the child waits for who is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.isolated,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
]

FORKER = """
import os, sys, threading, time
from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel

gate = Gate.local(sys.argv[1])
for side in ("input", "output"):
    gate.local_gate.price("scripted.scripted-1", f"scripted.scripted-1.tokens.{side}", 1)
gate.local_gate.grant("customer", 10**12)
handler = VlunaCallbackHandler(gate, principal_id="customer")
busy, runs = True, 0

def work():
    global runs
    model = ScriptedChatModel()
    while busy:
        model.invoke("hello", {"callbacks": [handler]})
        runs += 1

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
while runs < 20:
    time.sleep(0.01)  # a child would wait for ever for a module that is being imported
children = []
for _ in range(12):
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            ScriptedChatModel().invoke("hello", {"callbacks": [handler]})
            status = gate.flush(20.0)
        finally:
            os._exit(status)
    children.append(os.waitpid(pid, 0)[1])
busy = False
for thread in threads:
    thread.join()
assert [0] * 12 == children, children
assert 0 == gate.flush(20.0)
print(runs + 12, len(gate.local_gate.ratings("customer")))
gate.close()
"""

HELD = """
import os, threading
from langchain_vluna._io import forks

lock, held, done = forks.Lock(), threading.Event(), threading.Event()

def hold():
    with lock:
        held.set()
        done.wait(20)

threading.Thread(target=hold).start()
held.wait(20)
pid = os.fork()
if pid == 0:
    with lock:
        os._exit(0)
status = os.waitpid(pid, 0)[1]
done.set()
assert status == 0
"""


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout


def test_children_of_a_busy_process_charge_their_own_runs(tmp_path: Path):
    """Each run of the parent's threads and of a dozen children is charged once, and no child hangs."""
    done, charged = run(FORKER, str(tmp_path / "ledger.db")).split()
    assert done == charged


def test_a_lock_that_another_thread_holds_is_open_in_the_child():
    """Who held it in the parent is not there to let go of it."""
    run(HELD)
