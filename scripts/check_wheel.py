"""Builds the wheel, installs it alone in a new environment, imports every public name and tries the command line."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]

CHECK = """
import sys
from importlib.metadata import version
from importlib.resources import files
import langchain_vluna as package
assert "site-packages" in package.__file__, package.__file__
page = ("index.html", "vendor/uplot.js", "vendor/uplot.LICENSE.txt")
for name in ("py.typed", *(f"server/page/{part}" for part in page)):
    assert files(package).joinpath(name).is_file(), f"{name} is missing"
assert package.__version__ == version("langchain-vluna")
optional = {"VlunaMiddleware"}
for name in sorted(set(package.__all__) - optional):
    getattr(package, name)
assert "langgraph" not in sys.modules and "pytest" not in sys.modules, "an optional package was imported"
with package.Gate.local() as gate:
    gate.local_gate.grant("customer_123", 1)
    assert gate.local_gate.balance("customer_123") == 1
print(f"wheel of langchain-vluna {package.__version__}: {len(package.__all__)} public names import from it alone")
"""

COMMANDS = ("--version", "serve --help", "grant customer_123 5usd", "doctor")
"""In this order, in an empty folder: `doctor` looks at what `grant` has made."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, str(ROOT)], check=True)
        (wheel,) = place.glob("*.whl")
        venv.create(place / "env", with_pip=True)
        python = str(place / "env" / "bin" / "python")
        subprocess.run([python, *PIP, "install", str(wheel)], check=True)
        subprocess.run([python, "-I", "-c", CHECK], check=True, cwd=place)
        subprocess.run([python, *PIP, "install", f"{wheel}[cli,server]"], check=True)
        for command in COMMANDS:
            program = str(place / "env" / "bin" / "langchain-vluna")
            subprocess.run([program, *command.split()], check=True, cwd=place, stdout=subprocess.DEVNULL)
        print(f"its command line does {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
