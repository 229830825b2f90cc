"""The relay: outbox -> gate."""

from langchain_vluna._io.relay.circuit import RelayTimes
from langchain_vluna._io.relay.loop import Relay
from langchain_vluna._io.relay.settlement import Outcome, Settlement

__all__ = ["Outcome", "Relay", "RelayTimes", "Settlement"]
