"""The blocks of code that a bill is kept for: `with gated(handler) as bill`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

__all__ = ["current_scopes", "scope"]

_SCOPES: ContextVar[tuple[str, ...]] = ContextVar("vluna_scopes", default=())


def current_scopes() -> tuple[str, ...]:
    """Return the ids of the blocks around the caller."""
    return _SCOPES.get()


@contextmanager
def scope() -> Iterator[str]:
    """Open a block; runs that start inside carry its id."""
    scope_id = uuid4().hex
    token = _SCOPES.set((*_SCOPES.get(), scope_id))
    try:
        yield scope_id
    finally:
        _SCOPES.reset(token)
