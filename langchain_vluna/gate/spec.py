"""What a run is, before and while it is gated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import UUID

from langchain_vluna._core.errors import VlunaError
from langchain_vluna._core.types import Identity, Usage
from langchain_vluna._io.outbox import Outbox, Row
from langchain_vluna.gate.liveness import Caller

__all__ = ["Meter", "OpenRun", "RunId", "RunKind", "RunSpec", "UsageBody"]

RunId = UUID | str
RunKind = Literal["model", "tool", "retriever", "work"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """A run as its start event describes it. Holds no text of prompts or answers."""

    run_id: RunId
    parent_id: RunId | None
    root_id: RunId
    kind: RunKind
    identity: Identity
    feature_code: str
    feature_family_code: str | None = None
    estimated_quantity: int | None = None
    budget: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None
    """Key of the logical step; `None` charges each attempt."""
    thread_id: str | None = None
    scopes: tuple[str, ...] = ()
    """Ids of the `gated` blocks around the run."""
    event: object = field(default=None, repr=False, compare=False)
    """Something that every telling of one start has in common, and no other start has."""

    @property
    def above(self) -> frozenset[RunId]:
        """The runs whose end means that this one's is due: parent and root."""
        return frozenset({self.parent_id, self.root_id} - {None, self.run_id})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class UsageBody:
    """What to charge: a neutral commit body, and the tokens behind it where there are any."""

    body: Mapping[str, Any]
    source: str
    usage: Usage | None = None


class Meter(Protocol):
    """Measures one run while it is open."""

    def partial(self) -> UsageBody | None:
        """What was delivered so far, estimated; `None` where that is nothing or must not be charged."""


@dataclass(slots=True, eq=False)
class OpenRun:
    """A run between its admission and its end, in the process that runs it."""

    spec: RunSpec
    row: Row
    """As last written; its state is the one to expect in the outbox."""
    outbox: Outbox
    caller: Caller
    meter: Meter
    started: float
    """Monotonic seconds, as the next two."""
    touched: float
    """When something last happened to it."""
    orphaned_at: float | None = None
    """When it is settled by the orphan rule, unless its end comes first; `None` while it may be running."""
    why: str = ""
    unless_at_work: bool = False
    """Whether it is left alone for as long as it is seen running."""
    ended: bool = False
    objection: VlunaError | None = None
    """What must be raised instead of doing the work, though the gate let it in: a choice about its hints."""
    unwatch: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def claim_end(self) -> bool:
        """Whether the caller is the first to end the run in this process; the outbox has the last word."""
        with self.lock:
            first, self.ended = not self.ended, True
            return first

    def orphan(self, at: float, why: str, *, unless_at_work: bool = False) -> None:
        """Settle the run by the orphan rule from monotonic time `at` on."""
        if self.orphaned_at is None or at < self.orphaned_at or (self.unless_at_work and not unless_at_work):
            self.orphaned_at, self.why, self.unless_at_work = at, why, unless_at_work
