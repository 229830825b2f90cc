"""What the fixtures hand out: an embedded gate to set up, break and look into, with assertions about billing."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self, Unpack

from langchain_vluna._core.config import Settings
from langchain_vluna._core.run import UNSETTLED, State
from langchain_vluna._core.types import Verb
from langchain_vluna._io.local import Fault, LocalGate
from langchain_vluna._io.outbox import rows
from langchain_vluna.gate import Gate
from langchain_vluna.testing.checks import Tokens, billed_once, nothing_open, tokens_billed
from langchain_vluna.testing.ledger_table import ledger_table

__all__ = ["NOON", "GateKit", "LedgerKit", "ServerKit"]

NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""Where the clock of a test stands until `advance` moves it."""

_SETTLE: Final = 10.0
_LOOK_AGAIN: Final = 0.01
_WAITING: Final = sorted({*UNSETTLED, State.DEAD})


class LedgerKit:
    """Set up, break and look into an embedded gate; every assertion shows the ledger when it fails."""

    def __init__(self, local: LocalGate) -> None:
        self.ledger = local
        self.price = local.price
        self.grant = local.grant
        self.withdraw = local.withdraw
        self.quota = local.quota
        self.rate = local.rate
        self.budget = local.budget
        self.entitle = local.entitle
        self.feature = local.feature
        self.family = local.family
        self.balance = local.balance
        self.ratings = local.ratings
        self.leases = local.leases
        self.budgets = local.budgets
        self.quota_used = local.quota_used
        self.fault = local.fault
        self.mend = local.mend
        self.expire_leases = local.expire_leases
        self.advance = local.advance

    @property
    def requests(self) -> Mapping[str, int]:
        """Calls received per verb, refused ones included; live."""
        return self.ledger.requests

    @property
    def now(self) -> datetime:
        """The gate's time. It stands still; `advance(seconds)` moves it."""
        return datetime.fromtimestamp(self.ledger.now(), UTC)

    def outage(self, on: Verb | None = None) -> Fault:
        """Let no request through, until the end of a `with` block."""
        return self.ledger.fault("reset", on="*" if on is None else on, times=2**31)

    def assert_billed_once(self, run_id: object = None, *, thread: object = None, runs: int | None = None) -> None:
        """Each gated run below a root run, or of a LangGraph thread, was charged exactly once.

        Args:
            run_id: Id of a run or of its root, such as `config={"run_id": ...}` sets it.
            thread: A `thread_id`, instead of a run id.
            runs: How many runs that must be; by default any number above 0.
        """
        __tracebackhide__ = True
        self._hold(lambda: billed_once(self.ratings(), run_id=run_id, thread=thread, runs=runs))

    def assert_nothing_open(self) -> None:
        """No lease is open, and nothing waits in the outbox."""
        __tracebackhide__ = True
        self._hold(lambda: nothing_open(self.leases(), self._waiting()))

    def assert_tokens(self, feature_code: str, *, principal_id: str | None = None, **expected: Unpack[Tokens]) -> None:
        """The charges of a feature, or those of one customer, add up to these tokens: `input=40, output=9`."""
        __tracebackhide__ = True
        self._hold(lambda: tokens_billed(self.ratings(), feature_code, expected, principal_id=principal_id))

    def _hold(self, problems: Callable[[], list[str]]) -> None:
        __tracebackhide__ = True
        found = self._settled(problems)
        if found:
            raise AssertionError("\n".join([*found, "", self.table()]))

    def table(self) -> str:
        """Return the ledger as text."""
        return ledger_table(self.ratings(), self.leases())

    def _waiting(self) -> Mapping[str, str]:
        return {}

    def _settled(self, problems: Callable[[], list[str]]) -> list[str]:
        """Return what is still wrong once everything had its time to settle."""
        deadline = time.monotonic() + _SETTLE
        while (found := problems()) and time.monotonic() < deadline:
            threading.Event().wait(_LOOK_AGAIN)
        return found


class GateKit(Gate, LedgerKit):
    """A `Gate` to hand to handlers, and its embedded gate in memory, in one. Takes the keywords of both."""

    def __init__(self, **settings: Any) -> None:
        ours, local = _split(settings)
        local_gate = LocalGate(**local)
        Gate.__init__(self, local_gate, **ours)
        LedgerKit.__init__(self, local_gate)

    @property
    def gate(self) -> Gate:
        """The gate as the code under test sees it: this object."""
        return self

    def _settled(self, problems: Callable[[], list[str]]) -> list[str]:
        self.flush(_SETTLE)
        return problems()

    def _waiting(self) -> Mapping[str, str]:
        states = ", ".join(f"'{state}'" for state in _WAITING)
        left = self.engine.outbox.apply(lambda db: rows.select(db, f"state IN ({states})"))
        return {row.run_id: f"{row.state}, {row.reason or 'not tried yet'}" for row in left}

    def __exit__(self, *_: object) -> None:
        self.close(timeout=1.0)


class ServerKit(LedgerKit):
    """An embedded gate over HTTP. Its assertions wait a moment, because its clients settle in the background."""

    def __init__(self, local: LocalGate, url: str) -> None:
        super().__init__(local)
        self.url = url
        """What goes into `VLUNA_SERVICE_BASE_URL`."""
        self.settings: Settings = local.settings.model_copy(update={"base_url": url})

    @classmethod
    @contextlib.contextmanager
    def serve(cls, **settings: Any) -> Iterator[Self]:
        """Serve inside the block, on a free port of the loopback interface."""
        from langchain_vluna.server.listening import serving

        local = LocalGate(**_split(settings)[1])
        with serving(local) as url:
            yield cls(local, url)

    @property
    def environ(self) -> dict[str, str]:
        """The four variables of a client."""
        return {
            "VLUNA_SERVICE_BASE_URL": self.url,
            "VLUNA_REALM_ID": self.settings.realm_id,
            "VLUNA_SERVICE_KEY_ID": self.settings.service_key_id,
            "VLUNA_SERVICE_KEY_SECRET": self.settings.service_key_secret.get_secret_value(),
        }


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the keywords of `Gate` from those of `LocalGate`."""
    known = inspect.signature(LocalGate).parameters
    local = {name: value for name, value in settings.items() if name in known}
    ours = {name: value for name, value in settings.items() if name not in known}
    return ours, {"clock": NOON.timestamp, **local}
