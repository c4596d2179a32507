"""The old server for tests: azureml-inference-server-http from a virtual environment of its own.

Installed beside the project it would be what `import azureml_inference_server_http` finds, and the
names that this runtime offers in its place would never be tried. `python -m tests.hosts.peer`
installs it; the environment variable SCORING_PEER_VENV names one that exists already.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.hosts.standalone import StandaloneHost

VERSION = "1.5.1"
_PACKAGES = (
    f"azureml-inference-server-http=={VERSION}",
    "inference-schema",
    "numpy",
    "pandas",
    "flask-cors",
)
_CACHE = Path(__file__).parents[2] / ".cache"
# Read at import: fixtures take variables of this prefix out of the environment.
_GIVEN = os.environ.get("SCORING_PEER_VENV")
# The command line of the old server, on the loopback interface instead of on all.
_SERVE = (
    "from azureml_inference_server_http import constants; constants.DEFAULT_HOST = '127.0.0.1'; "
    "from azureml_inference_server_http import amlserver; amlserver.run()"
)


def ensure_peer() -> Path:
    """The root of the virtual environment that holds the peer; made when it is missing."""
    if _GIVEN:
        return Path(_GIVEN)
    venv = _CACHE / "peer-venv"
    # Written last: an installation that was interrupted is done again.
    complete, wanted = venv / "complete", "\n".join((sys.version, *_PACKAGES))
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / "peer-venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists() or complete.read_text() != wanted:
            shutil.rmtree(venv, ignore_errors=True)
            _install(venv)
            complete.write_text(wanted)
    return venv


def _install(venv: Path) -> None:
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([*pip, "install", *_PACKAGES], check=True)


class PeerHost(StandaloneHost):
    """`with PeerHost(script) as peer:` serves ``script`` as old images do, at ``peer.url``."""

    def __init__(
        self,
        script: Path,
        *options: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_path: str = "/",
        startup_timeout: float = 60,
    ) -> None:
        # gunicorn's control socket would be the same file for all.
        self._own = tempfile.TemporaryDirectory()
        super().__init__(
            script,
            environ={"XDG_RUNTIME_DIR": self._own.name, **(environ or {})},
            cwd=cwd,
            ready_path=ready_path,
            startup_timeout=startup_timeout,
        )
        self._command = [
            str(ensure_peer() / "bin" / "python"), "-c", _SERVE, "--entry_script", str(script),
            "--port", str(self.port), *options,
        ]  # fmt: skip

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15) -> int:
        try:
            return super().stop(number, timeout)
        finally:
            self._own.cleanup()


if __name__ == "__main__":
    ensure_peer()
