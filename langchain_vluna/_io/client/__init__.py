"""The client of a gate: drivers of flows, and the gate's verbs in both colours."""

from __future__ import annotations

from langchain_vluna._io.client.client import Client, system_sources
from langchain_vluna._io.client.drivers import adrive, drive
from langchain_vluna._io.client.verbs import Verbs

__all__ = ["Client", "Verbs", "adrive", "drive", "system_sources"]
