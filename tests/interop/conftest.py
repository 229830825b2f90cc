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
def sdk(pytestconfig: pytest.Config) -> Sdk:
    """Return what hands a job to a version of the SDK, installed on first use and kept in pytest's cache."""

    def run(requirement: str, job: dict[str, Any]) -> Any:
        done = subprocess.run(
            [sys.executable, os.fspath(DRIVER)],
            input=json.dumps(job),
            env=os.environ | {"PYTHONPATH": os.fspath(installed_sdk(pytestconfig, requirement))},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def installed_sdk(config: pytest.Config, requirement: str) -> Path:
    """Return the folder of a version of the SDK, which is installed there on first use."""
    cache = getattr(config, "cache", None)
    home = cache.mkdir("vlunaai") if cache is not None else Path(tempfile.gettempdir()) / "vlunaai-for-tests"
    home.mkdir(exist_ok=True)
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
