"""The local gate over HTTP (extra `server`)."""

from __future__ import annotations

from langchain_vluna.server.app import create_app

__all__ = ["create_app"]
