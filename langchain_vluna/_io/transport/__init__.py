"""HTTP to a gate: the only part of this package that opens connections."""

from langchain_vluna._io.transport.pool import HttpTransport

__all__ = ["HttpTransport"]
