"""The gate's verbs, each defined once as a flow and shown to users in both colours."""

from __future__ import annotations

import functools
import inspect
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from langchain_vluna._core import wire
from langchain_vluna._core.errors import ConfigurationError, VlunaError, blocking
from langchain_vluna._core.exchange import Flow
from langchain_vluna._core.types import BatchItem, BatchOutcome, Call, Commit, Identity, Lease, Limits, Preflight

if TYPE_CHECKING:
    from langchain_vluna._core.config import RetryPolicy

__all__ = ["Verbs"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V", bound="Verbs")


def _blocking(flow: Callable[Concatenate[V, P], Flow[T]]) -> Callable[Concatenate[V, P], T]:
    """Make the blocking twin of a verb."""

    @functools.wraps(flow)
    def verb(self: V, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self.perform(flow(self, *args, **kwargs))
        except VlunaError as error:
            raise blocking(error)  # noqa: B904 -- the same error, able to pass through agents

    return _shown_as(verb, flow, "")


def _async(flow: Callable[Concatenate[V, P], Flow[T]]) -> Callable[Concatenate[V, P], Coroutine[Any, Any, T]]:
    """Make the async twin of a verb."""

    @functools.wraps(flow)
    async def verb(self: V, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self.aperform(flow(self, *args, **kwargs))
        except VlunaError as error:
            raise blocking(error)  # noqa: B904 -- the same error, able to pass through agents

    return _shown_as(verb, flow, "a")


def _shown_as(verb: Callable[P, T], flow: Callable[..., Any], prefix: str) -> Callable[P, T]:
    """Give `verb` its public name and signature, for `help` and for editors."""
    signature = inspect.signature(flow)
    result = str(signature.return_annotation).removeprefix("Flow[").removesuffix("]")
    verb.__name__ = prefix + flow.__name__.removeprefix("_")
    verb.__qualname__ = f"Verbs.{verb.__name__}"
    verb.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    return verb


def _key(given: str | None) -> str:
    return str(uuid.uuid4()) if given is None else given


class Verbs(ABC):
    """The gate's own verbs, for direct use; `a...` is the async twin.

    Every verb raises `GateDenied`, `GateUnavailable`, `GateRejected` or `ConfigurationError`. A missing
    idempotency key is generated: pass one to repeat a call whose outcome is unknown.
    """

    @abstractmethod
    def exchange(self, call: Call, retry: RetryPolicy | None = None) -> Flow[wire.Reply]:
        """Return the flow of one call."""

    @abstractmethod
    def perform(self, flow: Flow[T]) -> T:
        """Run a flow, blocking."""

    @abstractmethod
    async def aperform(self, flow: Flow[T]) -> T:
        """Run a flow without blocking the event loop."""

    def _authorize(
        self,
        *,
        feature_code: str,
        principal_id: str,
        user_id: str | None = None,
        feature_family_code: str | None = None,
        estimated_quantity: int | None = None,
        budget: str | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Lease]:
        """Ask whether a customer may use a feature; the lease says yes.

        The estimate is never enforced, it only brings hints. Labels of a lease do not reach its commit.
        """
        identity = Identity(principal_id, user_id)
        call = wire.authorize_call(
            identity=identity,
            feature_code=feature_code,
            feature_family_code=feature_family_code,
            estimated_quantity=estimated_quantity,
            budget=budget,
            labels=labels,
            idempotency_key=_key(idempotency_key),
        )
        return wire.parse_lease((yield from self.exchange(call)), identity)

    def _commit(
        self,
        lease: Lease,
        *,
        quantity: int,
        meters: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Commit]:
        """Charge what a lease was used for, once; look at `Commit.quarantined`.

        Without meters the quantity is charged on the feature's primary meter; with meters only they are
        charged, and the quantity counts for the quota.
        """
        body = wire.commit_body(feature_code=lease.feature_code, quantity=quantity, meters=meters, labels=labels)
        call = wire.commit_call(
            identity=lease.identity,
            body=wire.leased(body, lease.handle),
            idempotency_key=_key(idempotency_key),
        )
        return wire.parse_commit((yield from self.exchange(call)))

    def _cancel(self, lease: Lease, *, idempotency_key: str | None = None) -> Flow[bool]:
        """Give a lease back unused; true when it was active until now.

        Never cancel once a commit was sent. Wire generation `lease` has no cancel: nothing is sent, the lease
        expires, and the answer is false.
        """
        call = wire.cancel_call(identity=lease.identity, handle=lease.handle, idempotency_key=_key(idempotency_key))
        return wire.parse_cancel((yield from self.exchange(call)))

    def _ingest(
        self,
        *,
        feature_code: str,
        principal_id: str,
        user_id: str | None = None,
        quantity: int | None = None,
        meters: Mapping[str, int] | None = None,
        occurred_at: datetime | str | None = None,
        budget: str | None = None,
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Commit]:
        """Charge usage that no lease was asked for. Nothing limits it: not balance, quota, rate or budget."""
        body = wire.ingest_body(
            feature_code=feature_code,
            quantity=quantity,
            meters=meters,
            occurred_at=occurred_at,
            budget=budget,
            labels=labels,
            metadata=metadata,
        )
        identity = Identity(principal_id, user_id)
        call = wire.ingest_call(identity=identity, body=body, idempotency_key=_key(idempotency_key))
        return wire.parse_commit((yield from self.exchange(call)))

    def _commit_batch(
        self, items: Sequence[BatchItem], *, idempotency_key: str | None = None
    ) -> Flow[list[BatchOutcome]]:
        """Charge up to 100 leases of one customer in one request; outcomes come in the order of the items.

        A batch hides quarantines and leaves its leases active: keep one key per piece of usage, and never
        cancel such a lease. Where the type of an error is `ROLLED_BACK`, send the item again in a new batch.
        """
        if not items:
            return []
        identity = items[0].lease.identity
        if any(item.lease.identity != identity for item in items):
            msg = "the leases of a batch belong to different customers; send one batch for each principal and user"
            raise ConfigurationError(msg)
        bodies = [
            wire.commit_body(
                feature_code=item.lease.feature_code, quantity=item.quantity, meters=item.meters, labels=item.labels
            )
            for item in items
        ]
        call = wire.batch_call(
            identity=identity,
            items=[
                (wire.leased(body, item.lease.handle), item.idempotency_key)
                for body, item in zip(bodies, items, strict=True)
            ],
            idempotency_key=_key(idempotency_key),
        )
        return wire.parse_batch((yield from self.exchange(call)), len(items))

    def _preflight(
        self,
        *,
        feature_code: str,
        principal_id: str,
        user_id: str | None = None,
        feature_family_code: str | None = None,
        estimated_quantity: int | None = None,
        budget: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Flow[Preflight]:
        """Ask what authorize would say, without a lease. Wire generation `lease` only."""
        call = wire.preflight_call(
            identity=Identity(principal_id, user_id),
            feature_code=feature_code,
            feature_family_code=feature_family_code,
            estimated_quantity=estimated_quantity,
            budget=budget,
            labels=labels,
            idempotency_key=_key(None),
        )
        return wire.parse_preflight((yield from self.exchange(call)))

    def _limits(
        self,
        *,
        principal_id: str,
        user_id: str | None = None,
        feature_code: str | None = None,
        expand: Iterable[str] = (),
    ) -> Flow[list[Limits]]:
        """Ask for quotas and rates; `expand` takes `quotas` and `rates`."""
        call = wire.limits_call(identity=Identity(principal_id, user_id), feature_code=feature_code, expand=expand)
        return wire.parse_limits((yield from self.exchange(call)))

    authorize = _blocking(_authorize)
    aauthorize = _async(_authorize)
    commit = _blocking(_commit)
    acommit = _async(_commit)
    cancel = _blocking(_cancel)
    acancel = _async(_cancel)
    ingest = _blocking(_ingest)
    aingest = _async(_ingest)
    commit_batch = _blocking(_commit_batch)
    acommit_batch = _async(_commit_batch)
    preflight = _blocking(_preflight)
    apreflight = _async(_preflight)
    limits = _blocking(_limits)
    alimits = _async(_limits)
