"""LangChain's events -> the gate."""

from langchain_vluna.callbacks.handler import VlunaCallbackHandler

__all__ = ["VlunaCallbackHandler"]
