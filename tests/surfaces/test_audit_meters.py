"""A `meters` callable that says that something is free."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from langchain_core.tools import tool

from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import MODEL, Till


@pytest.mark.parametrize("own", [0, {}, {"some.meter": 0}])
def test_what_a_callable_says_is_free_is_not_charged(till: Till, own: int | Mapping[str, int]) -> None:
    """As for tools, nothing charges nothing; sent without meters, the total would cost what the primary meter does."""
    till.ledger.price(MODEL, MODEL, 5)
    ScriptedChatModel().invoke("Hello", till.unwitnessed(till.handler(meters=lambda _usage, _feature: own)))
    till.assert_nothing_charged()
    assert ["canceled"] == [lease.state for lease in till.ledger.leases()]


@pytest.mark.parametrize("own", [-1, 1.5, True, {"some.meter": -1}, {"a b": 1}, "7"])
def test_what_a_callable_says_wrong_charges_the_tokens(till: Till, own: object) -> None:
    """The answer is paid for, so a callable that breaks loses neither it nor the charge."""
    handler = till.handler(meters=lambda _usage, _feature: own)
    ScriptedChatModel().invoke("Hello", till.config(handler))
    till.assert_exact()


def test_bytes_of_text_that_was_cut_badly_are_counted(till: Till) -> None:
    """Half a surrogate pair in a tool's output is three bytes, and no reason to charge one call instead."""

    @tool
    def search(query: str) -> str:
        """Search."""
        return f"{query} \ud800"

    search.invoke({"query": "q"}, till.unwitnessed(till.handler(tools={"search": "bytes"})))
    assert [(5, "reported")] == [(rating.quantity, rating.labels["usage_source"]) for rating in till.ratings()]
