"""A local gate on a loopback port, for tests that need HTTP. Knows nothing of pytest.

`with serve(local_gate) as url:` yields the base URL, prefix included;
`local_gate.settings.model_copy(update={"base_url": url})` are the settings of a client.
"""

from __future__ import annotations

from langchain_vluna.server.listening import serving as serve

__all__ = ["serve"]
