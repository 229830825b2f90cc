"""`idempotency="step"` where there are no steps."""

from __future__ import annotations

import pytest

from langchain_vluna import Gate, VlunaCallbackHandler
from langchain_vluna.testing.models import ScriptedChatModel


@pytest.mark.parametrize("metadata", [{"thread_id": "t"}, {"thread_id": "t", "langgraph_checkpoint_ns": ""}])
def test_outside_a_graph_each_call_of_a_thread_is_charged(metadata: dict[str, str]) -> None:
    """A thread id alone, which chains without a graph carry too, does not make the next call a repetition."""
    with Gate.local() as gate:
        handler = VlunaCallbackHandler(gate, principal_id="customer", idempotency="step")
        model = ScriptedChatModel()
        for _ in range(3):
            model.invoke("Hello", {"callbacks": [handler], "metadata": metadata})
        assert 0 == gate.flush()
        assert 3 == len(gate.local_gate.ratings("customer"))
