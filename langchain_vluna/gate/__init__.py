"""The gate: what users make, and what handlers and wrappers share."""

from langchain_vluna.gate.alarm import Alarm
from langchain_vluna.gate.bill import Bill
from langchain_vluna.gate.wiring import Gate

__all__ = ["Alarm", "Bill", "Gate"]
