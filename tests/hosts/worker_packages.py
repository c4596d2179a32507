"""The protobuf that Microsoft's Functions worker (4.34, for Python up to 3.12) brings along.

`python -m tests.hosts.worker_packages` installs it beside the project, under .cache/.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGE = "protobuf==4.25.9"
_CACHE = Path(__file__).parents[2] / ".cache"


def ensure_worker_packages() -> Path:
    """The folder that the worker puts first on the path; made when it is missing."""
    folder = _CACHE / "worker-packages"
    # Written last: an installation that was interrupted is done again.
    complete = folder / "complete"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "worker-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists() or complete.read_text() != _PACKAGE:
            shutil.rmtree(folder, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
            install = ["install", "--no-deps", "--target", str(folder), _PACKAGE]
            subprocess.run([*pip, *install], check=True)
            complete.write_text(_PACKAGE)
    return folder


if __name__ == "__main__":
    print(ensure_worker_packages())
