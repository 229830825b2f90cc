"""The identity that surrounds a piece of code: `with gate.identity(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_vluna._core.errors import ConfigurationError
from langchain_vluna.gate.ambient import setting

__all__ = ["Surroundings", "surrounding", "surroundings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What holds for runs started here; `None` leaves the choice to the next source."""

    principal_id: str | None = None
    user_id: str | None = None
    feature_code: str | None = None
    feature_family_code: str | None = None
    budget: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


_CURRENT: ContextVar[Surroundings] = ContextVar("vluna_surroundings", default=Surroundings())  # noqa: B039 -- it is frozen


def surroundings() -> Surroundings:
    """Return what surrounds the caller."""
    return _CURRENT.get()


@contextmanager
def surrounding(**values: Any) -> Iterator[Surroundings]:
    """Set values for the code inside, on top of what surrounds it."""
    unknown = values.keys() - set(Surroundings.__dataclass_fields__)
    if unknown:
        msg = f"identity takes {', '.join(Surroundings.__dataclass_fields__)}, got {', '.join(sorted(unknown))}"
        raise ConfigurationError(msg)
    inner = replace(_CURRENT.get(), **{name: value for name, value in values.items() if value is not None})
    with setting(_CURRENT, inner):
        yield inner
