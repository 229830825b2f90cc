"""Runs the tests that drive LangChain against both ends of the supported range of langchain-core."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version

ENDS = ["1.7.2", "1.8.2"]
TESTS = ["tests/surfaces", "tests/examples", "tests/test_scripted_model.py"]


def main() -> int:
    failed = 0
    for end in ENDS:
        if end == version("langchain-core"):
            continue  # `make test` runs on it
        print(f"langchain-core {end}")
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            # Its dependencies are those of its neighbour, which is installed.
            subprocess.run([*pip, "--no-deps", "--target", folder, f"langchain-core=={end}"], check=True)
            environment = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-n", "2", *TESTS], env=environment, check=False
            )
            failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
