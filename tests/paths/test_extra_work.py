"""Work that tokens do not show: on a label always, and on meters where the user says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage

from langchain_vluna import Usage
from langchain_vluna.testing.models import ScriptedChatModel
from tests.support.billing import MODEL, Till

SEARCHED = AIMessage(
    [
        {"type": "web_search_call", "id": "1"},
        {"type": "web_search_call", "id": "2"},
        {"type": "text", "text": "Found."},
    ],
    usage_metadata={"input_tokens": 20, "output_tokens": 5, "total_tokens": 25},
)
SEARCH = f"{MODEL}.web_search"


def meters(used: Usage, feature: str) -> Mapping[str, int]:
    tokens = {f"{feature}.tokens.input": used.input_tokens, f"{feature}.tokens.output": used.output_tokens}
    return tokens | {f"{feature}.{kind}": count for kind, count in used.extra.items()}


def test_work_beside_tokens_is_on_a_label(till: Till):
    """Two searches of the provider are on the charge's label, and its meters are tokens alone."""
    ScriptedChatModel(responses=[SEARCHED]).invoke("question", till.config())
    (rating,) = till.ratings()
    assert "web_search=2" == rating.labels["extra_work"]
    assert (25, {f"{MODEL}.tokens.input": 20, f"{MODEL}.tokens.output": 5}) == (rating.quantity, rating.meters)


def test_a_callable_can_meter_it(till: Till):
    """A `meters` callable puts searches on a meter of their own, at their own price; the quantity is still tokens."""
    till.ledger.price(MODEL, SEARCH, 10_000, unit="search")
    config: Any = till.config(till.handler(meters=meters))
    ScriptedChatModel(responses=[SEARCHED, "Nothing to search."]).batch(["one", "two"], config)
    till.ratings()
    found = {rating.meters.get(SEARCH): rating for rating in till.ratings()}
    assert {2, None} == set(found)
    assert (25, 20 * 3 + 5 * 15 + 2 * 10_000) == (found[2].quantity, found[2].amount_xusd)
    assert "extra_work" not in found[None].labels


def test_a_stream_shows_it_too(till: Till):
    """Blocks that were streamed are counted as those of a whole answer."""
    list(ScriptedChatModel(responses=[SEARCHED]).stream("question", till.config()))
    assert ["web_search=2"] == [rating.labels["extra_work"] for rating in till.ratings()]
