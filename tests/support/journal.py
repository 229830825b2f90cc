"""What models and tools say they used: written by themselves, and read by an audit. Knows nothing of pytest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Journal"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run used, by its model's or tool's own word."""

    customer: str
    run_id: str
    meters: Mapping[str, int]

    @property
    def quantity(self) -> int:
        return sum(self.meters.values())


class Journal:
    """What models and tools used. With a path it outlives its process, and many processes write it."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.entries: list[Entry] = []
        self.admitted: set[str] = set()
        """Runs that the gate let in, as far as their process lived to say so."""
        self.ended: set[str] = set()
        """Runs whose end this package has seen: from here on it answers for them."""

    def report(self, entry: Entry) -> None:
        """Note what a run used; before its answer is handed on."""
        self.entries.append(entry)
        self._write({"customer": entry.customer, "run_id": entry.run_id, "meters": dict(entry.meters)})

    def admit(self, run_id: str) -> None:
        """Note that the gate let a run in."""
        self.admitted.add(run_id)
        self._write({"admitted": run_id})

    def end(self, run_id: str) -> None:
        """Note that this package was told of the run's end and has returned."""
        self.ended.add(run_id)
        self._write({"ended": run_id})

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            # One write to a file opened for appending: processes do not tear each other's lines.
            os.write(self._file, json.dumps(line).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Return what all processes wrote."""
        journal = cls()
        for line in path.read_text(encoding="ascii").splitlines():
            told = json.loads(line)
            if "ended" in told:
                journal.ended.add(told["ended"])
            elif "admitted" in told:
                journal.admitted.add(told["admitted"])
            else:
                journal.entries.append(Entry(**told))
        return journal
