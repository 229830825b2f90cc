"""LangChain's events -> the gate."""

from langchain_vluna.callbacks.handler import VlunaCallbackHandler
from langchain_vluna.callbacks.options import RunInfo

__all__ = ["RunInfo", "VlunaCallbackHandler"]
