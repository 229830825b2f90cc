"""A process that does one thing to an outbox file, and may be killed at it: `python -m tests.support.outbox_worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

from langchain_vluna._core.run import Event
from langchain_vluna._io.outbox import Outbox, OutboxError, upkeep
from tests.support.outbox import advance, end, opened, usage

__all__: list[str] = []


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def listen() -> str:
    return sys.stdin.readline().strip()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(path: str, prefix: str) -> None:
    """Leave rows in every state, then wait to be killed."""
    outbox = Outbox(path)
    opened(outbox, f"{prefix}-open")
    opened(outbox, f"{prefix}-fallback", usage=usage(3))
    opened(outbox, f"{prefix}-used")
    end(outbox, f"{prefix}-used")
    opened(outbox, f"{prefix}-canceled")
    advance(outbox, f"{prefix}-canceled", Event.FAILED)
    advance(outbox, f"{prefix}-canceled", Event.CANCELED_)
    say(owner=outbox.owner_id)
    listen()


def take(path: str) -> None:
    """Take over what others left, as soon as told, and say how much it was."""
    outbox = Outbox(path)
    say(owner=outbox.owner_id)
    listen()
    say(taken=upkeep.take_over(outbox))
    listen()


def take_and_die(path: str) -> None:
    """Die in the middle of a take-over: after the rows were adopted, before the transaction ends."""
    outbox = Outbox(path)
    real = upkeep._give_up

    def fatal(*args: Any) -> None:
        real(*args)
        die()

    upkeep.__dict__["_give_up"] = fatal
    upkeep.take_over(outbox)


def hammer(path: str, prefix: str, seconds: str) -> None:
    """Write and end runs as fast as possible; say what was acknowledged."""
    outbox = Outbox(path)
    number, deadline = 0, time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        # Where another process writes just now, nothing is acknowledged.
        with contextlib.suppress(OutboxError):
            opened(outbox, f"{prefix}-{number}")
            number += 1
        if number % 20 == 0:
            say(written=number)
    say(written=number)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
