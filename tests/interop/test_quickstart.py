"""The official SDK's README, followed to the letter against the served gate."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_vluna._io.local import LocalGate
from langchain_vluna.server.listening import serving
from tests.interop.conftest import installed_sdk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def quickstart(folder: Path) -> str:
    """The README's first program, without the token for front ends at its end: no gate issues one."""
    (metadata,) = folder.glob("vlunaai-*.dist-info/METADATA")
    code: str = re.findall(r"^```python\n(.*?)^```", metadata.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    program = code.replace("YOUR_PRINCIPAL_ID", "'acme'").replace("YOUR_USER_ID", "'u1'")
    before, _, rest = program.partition("    # 4) token issuance")
    return before + rest[rest.index("  finally:") :]


@pytest.mark.parametrize("requirement", ["vlunaai==0.1.2", "vlunaai==0.1.4", "vlunaai"])
def test_the_readmes_program_runs(requirement: str, request: pytest.FixtureRequest, tmp_path: Path):
    """Whatever its generation, the SDK authorizes, commits and reads its balance, and the gate was not told which."""
    folder = installed_sdk(request.config, requirement)
    gate = LocalGate(tmp_path / "gate.db")
    gate.grant("acme", 1_000_000)
    for feature in ("openai.gpt5.2", "openai.gpt-4o"):
        gate.price(feature, feature, 2)
    with serving(gate) as url:
        settings = gate.settings
        environment = os.environ | {
            "PYTHONPATH": os.fspath(folder),
            "VLUNA_SERVICE_BASE_URL": url,
            "VLUNA_REALM_ID": settings.realm_id,
            "VLUNA_SERVICE_KEY_ID": settings.service_key_id,
            "VLUNA_SERVICE_KEY_SECRET": settings.service_key_secret.get_secret_value(),
        }
        program = [sys.executable, "-c", quickstart(folder)]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    assert [(12_345, 24_690, "applied")] == [
        (rating.quantity, rating.amount_xusd, rating.status) for rating in gate.ratings()
    ]
    assert "'xusd': '975310'" in done.stdout
    gate.close()
