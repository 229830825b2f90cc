"""What LangChain's event protocol (`stream_events(version="v3")`) delivers.

Models that report no tokens one by one are heard in events alone; others in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_vluna import usage
from langchain_vluna.usage.sizes import content_size

__all__ = ["Events"]


class Events:
    """Adds up the events of one run."""

    def __init__(self) -> None:
        self._sizes: dict[object, int] = {}
        self._finish: usage.Reported | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Take what `on_stream_event` was called with."""
        kind = event.get("event")
        if kind == "content-block-delta":
            delta, index = event.get("delta") or {}, event.get("index")
            if "fields" in delta:  # not what came, but all that has come
                self._sizes[index, "fields"] = content_size(delta["fields"])
            else:
                self._sizes[index] = self._sizes.get(index, 0) + content_size(delta)
        elif kind == "message-finish":
            self._finish = usage.read_usage_metadata(event.get("usage"))

    @property
    def tokens(self) -> int:
        """Estimate of the tokens delivered."""
        return usage.estimate_text_tokens(sum(self._sizes.values()))

    @property
    def reported(self) -> usage.Reported:
        """What the last event reported."""
        return (self._finish or usage.Reported()).judged(delivered=bool(self._sizes))
