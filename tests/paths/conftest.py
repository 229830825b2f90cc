"""A till per test, in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.billing import Till

MakeTill = Callable[..., Till]


@pytest.fixture
def make_till() -> Iterator[MakeTill]:
    """Open tills in process; `options` are the gate's."""
    with ExitStack() as tills:

        def make(**options: Any) -> Till:
            till = Till("tutorial", **options)
            tills.callback(till.close)
            return till

        yield make


@pytest.fixture
def till(make_till: MakeTill) -> Till:
    """A till with money."""
    return make_till()
