"""The outbox: what must not be lost between a run and its settlement."""

from langchain_vluna._io.outbox.failure import OutboxError
from langchain_vluna._io.outbox.rows import Row, Transition
from langchain_vluna._io.outbox.schema import Durability
from langchain_vluna._io.outbox.store import Outbox

__all__ = ["Durability", "Outbox", "OutboxError", "Row", "Transition"]
