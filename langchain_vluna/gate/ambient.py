"""What surrounds a piece of code, beside its identity: blocks with a bill, a cheaper model at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar, Token
from typing import TypeVar
from uuid import uuid4

__all__ = ["can_degrade", "current_scopes", "degradable", "scope", "setting"]

T = TypeVar("T")

_SCOPES: ContextVar[tuple[str, ...]] = ContextVar("vluna_scopes", default=())
_DEGRADABLE: ContextVar[bool] = ContextVar("vluna_degradable", default=False)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[T]:
    """Set a context variable for the code inside."""
    token: Token[T] = variable.set(value)
    try:
        yield value
    finally:
        # A generator may be closed from another context, which does not have the value to begin with.
        with suppress(ValueError):
            variable.reset(token)


def current_scopes() -> tuple[str, ...]:
    """Return the ids of the blocks around the caller."""
    return _SCOPES.get()


@contextmanager
def scope() -> Iterator[str]:
    """Open a block; runs that start inside carry its id."""
    scope_id = uuid4().hex
    with setting(_SCOPES, (*_SCOPES.get(), scope_id)):
        yield scope_id


def can_degrade() -> bool:
    """Whether somebody around the caller has a cheaper model to go on with."""
    return _DEGRADABLE.get()


def degradable(*, possible: bool) -> AbstractContextManager[bool]:
    """Say for the code inside whether there is a cheaper model to go on with."""
    return setting(_DEGRADABLE, possible)
