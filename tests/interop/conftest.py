"""The official SDK, each version in a folder of its own that no other test can see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Sdk = Callable[[str, dict[str, Any]], Any]
DRIVER = Path(__file__).with_name("sdk_driver.py")


@pytest.fixture(scope="session")
def sdk(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Sdk:
    """Return what hands a job to a version of the SDK, installed on first use and kept in pytest's cache."""
    cache = getattr(pytestconfig, "cache", None)
    home = cache.mkdir("vlunaai") if cache is not None else tmp_path_factory.mktemp("vlunaai")

    def run(requirement: str, job: dict[str, Any]) -> Any:
        done = subprocess.run(
            [sys.executable, os.fspath(DRIVER)],
            input=json.dumps(job),
            env=os.environ | {"PYTHONPATH": os.fspath(_installed(home, requirement))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def _installed(home: Path, requirement: str) -> Path:
    folder = home / f"{requirement}-py{sys.version_info.major}{sys.version_info.minor}"
    if folder.is_dir():
        return folder
    # Beside the final place, so that it appears there whole or not at all.
    draft = Path(tempfile.mkdtemp(dir=home))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", os.fspath(draft), requirement],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "No matching distribution found for vlunaai" in done.stderr:
        shutil.rmtree(draft)
        pytest.skip(f"the package index has no {requirement}")
    assert done.returncode == 0, done.stderr
    try:
        draft.rename(folder)
    except OSError:
        # Another worker was faster.
        shutil.rmtree(draft)
    return folder
