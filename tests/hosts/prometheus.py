"""promtool, which checks metrics, rules and queries as Prometheus reads them.

`python -m tests.hosts.prometheus` unpacks it from Debian's package `prometheus` under `.cache/`,
without installing the server, where it is not there already.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

_SUDO = [] if os.geteuid() == 0 else ["sudo", "-n"]
_CACHE = Path(__file__).parents[2] / ".cache"


@cache
def promtool() -> str:
    """Where it is; fetched when it is missing."""
    found = shutil.which("promtool")
    if found:
        return found
    program = _CACHE / "prometheus" / "usr" / "bin" / "promtool"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _fetch(program.parents[2])
    return str(program)


def _fetch(home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*_SUDO, "apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "download", "prometheus"], cwd=folder, check=True)
        [package] = Path(folder).glob("prometheus_*.deb")
        unpacked = home.with_suffix(".part")
        subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)], check=True)
        unpacked.rename(home)


if __name__ == "__main__":
    print(promtool())
