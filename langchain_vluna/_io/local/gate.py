"""LocalGate: a whole Vluna gate in process, behind the `Transport` protocol.

It verifies signatures, keeps leases, prices, grants, policies and ratings in one SQLite database, and answers byte for
byte what a gate would. Rules:
1. One request is one transaction: all of it is recorded or nothing.
2. Any number of threads and processes may share a file; what is in memory belongs to one object.
3. An async request runs on the event loop while that takes microseconds, and in a thread where it has to wait.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from pydantic import SecretStr

from langchain_vluna._core.config import Settings
from langchain_vluna._core.errors import ConfigurationError, TransportFailure
from langchain_vluna._core.ledger.model import Rules
from langchain_vluna._core.signing import decode_secret
from langchain_vluna._core.types import HttpRequest, HttpResponse, Verb
from langchain_vluna._io import forks
from langchain_vluna._io.local.admin import Admin
from langchain_vluna._io.local.auth import Generation, Verifier
from langchain_vluna._io.local.faults import Fault, FaultKind, Faults, Step
from langchain_vluna._io.local.journal import Journal
from langchain_vluna._io.local.registry import Registry
from langchain_vluna._io.local.routing import PREFIX, Router, verb_of
from langchain_vluna._io.local.store import Busy, Store
from langchain_vluna._io.local.views import Views

__all__ = ["DEVELOPMENT", "LocalGate"]

_SECRET: Final = "bG9jYWwtZ2F0ZS1pcy1ub3QtYS1zZWNyZXQtYXQtYWxsIQ=="  # noqa: S105 -- guards nothing: whoever has the object has it
DEVELOPMENT: Final = Settings(
    base_url=f"http://local.invalid{PREFIX}",
    realm_id="realm-local",
    service_key_id="key-local",
    service_key_secret=SecretStr(_SECRET),
)
"""What a gate is reached by where nothing else is said."""
_VERBS: Final = ("authorize", "commit", "cancel", "batch", "ingest", "preflight", "limits")
_WAIT: Final = 30.0
_DELAY: Final = 0.1
_ADVICE: Final = 1.0


class LocalGate(Admin):
    """An embedded gate. Takes the place of the service wherever a `Transport` goes."""

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        settings: Settings | None = None,
        auto_registry: bool = True,
        lease_ttl: float = 43_200,
        grace: float = 60,
        generation: Generation | None = None,
        server_flaws: bool = False,
        clock: Callable[[], float] = time.time,  # noqa: TID251 -- the one default
        sleep: Callable[[float], None] = time.sleep,  # noqa: TID251 -- the one default
    ) -> None:
        """Open a gate, and create its database where there is none.

        Args:
            path: File of the database, or `:memory:`.
            settings: Realm and service key to accept; by default a development key that everybody knows.
            auto_registry: Register unknown features and meters, without a price, when they are first used.
            lease_ttl: Life of a lease in seconds.
            grace: Seconds after its life in which a commit is still applied.
            generation: The wire generation served. `None` takes all of them, by what a request shows.
            server_flaws: Repeat the flaws that were recorded of the server, so that a client can be tried on them.
            clock: Seconds since the Unix epoch.
            sleep: Waits for the `delay` fault.
        """
        rules = Rules(
            auto_registry=auto_registry,
            lease_ttl_ms=_milliseconds("lease_ttl", lease_ttl, least=1),
            grace_ms=_milliseconds("grace", grace, least=0),
            server_flaws=server_flaws,
            refuse_rollover=generation == "tutorial",
        )
        self.settings = DEVELOPMENT if settings is None else settings
        verifier = _verifier(self.settings, generation)
        self.path = os.fspath(path)
        self.generation = generation
        self._clock = clock
        self._sleep = sleep
        self._ahead = 0.0
        self._changes = 0
        self._faults = Faults()
        self._counting = forks.Lock()
        self._requests: Counter[str] = Counter(dict.fromkeys(_VERBS, 0))
        store = Store(self.path, now_ms=self._now)
        super().__init__(store, now_ms=self._now)
        self._journal = Journal(store, rules=rules, now_ms=self._now)
        self._router = Router(
            store, self._journal, verifier=verifier, generation=generation, rules=rules, now_ms=self._now
        )
        self.views = Views(store, now_ms=self._now)

    # --- Transport

    def send(self, request: HttpRequest) -> HttpResponse:
        step = self._receive(request)
        if step.wait:
            self._sleep(step.wait)
        return step.deliver(step.canned or self._answer(request))

    async def asend(self, request: HttpRequest) -> HttpResponse:
        step = self._receive(request)
        if step.wait:
            await anyio.sleep(step.wait)
        if step.canned is not None:
            return step.canned
        try:
            response = self._router.answer(request, wait=0)
        except Busy:
            response = await anyio.to_thread.run_sync(self._answer, request)
        return step.deliver(response)

    def close(self) -> None:
        self._store.close()

    async def aclose(self) -> None:
        self._store.close()

    # --- for tests and for whoever remembers answers

    @property
    def requests(self) -> Mapping[str, int]:
        """Calls received by this object, per verb, refused ones included; live."""
        return MappingProxyType(self._requests)

    @property
    def revision(self) -> int:
        """Grows with every change that could make the gate answer otherwise."""
        with self._store.reading() as connection:
            return Registry(connection).revision() + self._changes

    def fault(self, kind: FaultKind, on: Verb | Literal["*"], times: int = 1, *, seconds: float | None = None) -> Fault:
        """Let the next `times` calls of a verb go wrong; in a `with` statement only inside the block.

        Args:
            kind: `drop_answer`: the request is carried out and its answer lost. `reset`: the connection breaks before
                it is carried out. `status_500`, `status_429`, `status_402`: refused with that status. `delay`: answered
                late, or, when that exceeds the request's timeout, carried out and not answered in time.
            on: The verb, `"*"` for any.
            times: How many calls it hits.
            seconds: Length of a `delay` (0.1), or the wait that a `status_429` advises (1).
        """
        if kind not in get_args(FaultKind) or (on != "*" and on not in _VERBS) or times < 1:
            known = f"kind is one of {get_args(FaultKind)}, on one of {_VERBS} or '*', times at least 1"
            raise ConfigurationError(f"fault({kind!r}, on={on!r}, times={times}) is not possible: {known}")
        self._changes += 1
        default = _DELAY if kind == "delay" else _ADVICE
        return self._faults.arm(kind, on=on, times=times, seconds=default if seconds is None else seconds)

    @property
    def faults(self) -> list[Fault]:
        """The faults that are armed, first armed first."""
        return self._faults.armed()

    def mend(self) -> None:
        """Disarm all faults."""
        self._changes += 1
        self._faults.disarm_all()

    def advance(self, seconds: float) -> None:
        """Put the clock forward, or back."""
        self._ahead += seconds
        self._changes += 1

    @property
    def ahead(self) -> float:
        """By how many seconds the gate's clock was put forward."""
        return self._ahead

    def now(self) -> float:
        """Return the gate's time, in seconds since the Unix epoch."""
        return self._clock() + self._ahead

    def _now(self) -> int:
        return math.floor(self.now() * 1000)

    def _receive(self, request: HttpRequest) -> Step:
        verb = verb_of(request.method, request.target)
        if verb is None or verb not in self._requests:
            return Step()
        with self._counting:
            self._requests[verb] += 1
        fault = self._faults.take(verb)
        if fault is None:
            return Step()
        self._journal.fault(request, verb, fault.kind)
        return Step.of(fault, request)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            return self._router.answer(request, wait=_WAIT)
        except Busy:
            msg = f"the local gate's database is locked by another process for more than {_WAIT:.0f} s"
            raise TransportFailure(msg, sent=False) from None


def _milliseconds(name: str, seconds: float, *, least: int) -> int:
    """Return the setting in the ledger's unit."""
    milliseconds = round(seconds * 1000)
    if milliseconds < least:
        msg = f"{name} must be at least {least} ms, got {seconds!r} s"
        raise ConfigurationError(msg)
    return milliseconds


def _verifier(settings: Settings, generation: Generation | None) -> Verifier:
    if urlsplit(settings.base_url).path != PREFIX:
        msg = f"a local gate answers below {PREFIX}; base_url {settings.base_url!r} must end with it"
        raise ConfigurationError(msg)
    return Verifier(
        realm_id=settings.realm_id,
        key_id=settings.service_key_id,
        secret=decode_secret(settings.service_key_secret.get_secret_value()),
        generation=generation,
    )
