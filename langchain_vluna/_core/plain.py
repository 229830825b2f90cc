"""Plain data as JSON: by orjson where it is installed (extra `fast`; LangChain often brings it), else by the library.

Both write what the other reads, and neither writes what is not JSON.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["dump", "load"]

dump: Callable[[Mapping[str, Any]], bytes]
"""Write a mapping down, without blanks; `TypeError` or `ValueError` where it is not plain."""
load: Callable[[bytes | str], Any]
"""Read JSON; `ValueError` where it is none."""

if importlib.util.find_spec("orjson") is not None:
    import orjson

    dump, load = orjson.dumps, orjson.loads
else:
    _encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode

    def dump(value: Mapping[str, Any]) -> bytes:
        return _encode(value).encode()

    load = json.loads
