"""A virtual environment of this Python with an environment's packages."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from ...packaging.specification import Environment
from ..exceptions import WebserviceException


def make(folder: Path, environment: Environment) -> Path:
    """Make it in ``folder``, in place of one that is there; the folder.

    Raises:
        WebserviceException: pip cannot install the packages; the message ends with its last line.
    """
    venv.create(folder, clear=True)
    if environment.requirements:
        requirements = folder / "requirements.txt"
        lines = (*environment.options, *environment.requirements)
        requirements.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _install(folder, requirements)
    return folder


def _install(folder: Path, requirements: Path) -> None:
    """With the pip of this Python, which installs for another (pip 22.3 and newer)."""
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--disable-pip-version-check"]
    command = [*pip, "install", "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise WebserviceException(
            f"The packages of {requirements} cannot be installed: {lines[-1]}"
        )
