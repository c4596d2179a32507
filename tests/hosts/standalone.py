"""The standalone host for tests: `scoring-runtime serve` as a process on a free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx

_SETTINGS = (
    "AZUREML_", "AML_", "SCORING_", "SERVER_", "WORKER_", "SERVICE_", "HEALTH_PORT", "BLOB_",
    "SERVICEBUS_", "REDIS_", "CACHE_", "TriggerConnectionString",
    "ServiceBusConnectionString", "AzureWebJobs", "OTEL_", "APPLICATIONINSIGHTS_",
)  # fmt: skip


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def reserved_port() -> socket.socket:
    """A socket that keeps a free TCP port of the loopback interface from being given to others.

    It does not listen, so that a server that sets SO_REUSEADDR can listen there meanwhile.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper


def clean_environ(**more: str) -> dict[str, str]:
    """The environment without settings of the runtime, plus ``more``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**kept, **more}


def worker_of(pid: int) -> int:
    """The process id of the one worker of a host's process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class StandaloneHost:
    """`with StandaloneHost(script) as host:` serves ``script`` at ``host.url`` until the end.

    ``within`` is a command that runs it, which ends by exec; ``address`` is where it listens then.
    """

    def __init__(
        self,
        script: Path,
        *options: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_path: str = "/",
        startup_timeout: float = 120,
        descriptors: int = 0,
        address: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        self._reserved = reserved_port()
        self.port = int(self._reserved.getsockname()[1])
        self.url = f"http://{address}:{self.port}"
        self._command: Sequence[str] = [
            *within,
            sys.executable, "-m", "scoring_runtime", "serve", "--entry-script", str(script),
            "--port", str(self.port), "--host", address, *options,
        ]  # fmt: skip
        if descriptors:
            limit = f'ulimit -n {descriptors}; exec "$@"'
            self._command = ["/bin/sh", "-c", limit, "sh", *self._command]
        self._environ = clean_environ(**(environ or {}))
        self._cwd = cwd or script.parent
        self._ready_path = ready_path
        self._startup_timeout = startup_timeout
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (stop() closes it)

    def start(self) -> None:
        """Start the process without waiting for it to be ready."""
        self.process = subprocess.Popen(
            self._command,
            env=self._environ,
            cwd=self._cwd,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def wait_ready(self) -> None:
        """Wait for 200 of the ready path; RuntimeError with the output if it ends before."""
        until = time.monotonic() + self._startup_timeout
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(self.url + self._ready_path, timeout=30).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise RuntimeError(f"the standalone host did not start:\n{self.log}")

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def worker(self) -> int:
        """The process id of the one worker, which the process that was started looks after."""
        return worker_of(self.process.pid)

    @property
    def log(self) -> str:
        """All that the process has written so far."""
        if self._output.closed:
            return self._final_log
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15) -> int:
        """End the process; the result is its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self._output.closed:
            self._final_log: str = self.log
            self._output.close()
            self._reserved.close()
        return self.process.returncode
