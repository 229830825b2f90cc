"""Random requests to the server's application, as CI sends them; `make fuzz` sends a million."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.drive import fuzz


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_asked_the_books_add_up(tmp_path: Path, seed: int):
    """Neither a server error nor a broken rule of the ledger comes of random requests."""
    report = fuzz(tmp_path, requests=10_000, seed=seed)

    assert [] == report.problems
    assert 10_000 == report.requests
    assert {200, 400, 401, 402, 404, 409, 422, 429} <= set(report.statuses)
    assert len(report.commits) > 1000
