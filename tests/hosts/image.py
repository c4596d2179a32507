"""The two hosts as they run in images: an image's own program, and its wwwroot in the worker."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from tests.hosts import functions as functions_host
from tests.hosts.functions import FunctionsHost
from tests.hosts.images import Container, ImageStore, end
from tests.hosts.standalone import reserved_port

WWWROOT = "/home/site/wwwroot"
_WORKER = "/worker"
# Microsoft's worker library, and what the stand-in for its host needs; none of it is the app's.
_WORKER_PACKAGES = ("azure_functions_runtime", "azurefunctions", "uvicorn", "h11", "click")


class StandaloneContainer:
    """`with StandaloneContainer(images, image) as host:` serves at `host.url` until the end."""

    def __init__(
        self,
        images: ImageStore,
        image: str,
        *,
        volumes: Mapping[Path, str] | None = None,
        **environ: str,
    ) -> None:
        self._images, self._image, self._volumes = images, image, volumes
        self._environ = environ

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            reserved = stack.enter_context(reserved_port())
            port = str(reserved.getsockname()[1])
            self.url = f"http://127.0.0.1:{port}"
            container = self._images.container(
                self._image, volumes=self._volumes, SERVER_PORT=port, **self._environ
            )
            self.container: Container = stack.enter_context(container)
            self._output = stack.enter_context(tempfile.TemporaryFile())
            started = self._images.config(self._image)["Cmd"]
            command, out = self.container.command(*started), self._output
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            stack.callback(self.stop)
            self._wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def stop(self) -> int:
        """SIGTERM, as an orchestrator sends it; the result is the program's exit code."""
        return end(self.process, signal.SIGTERM)

    @property
    def log(self) -> str:
        """All that the program has written so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def _wait_ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=30).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise RuntimeError(f"the container did not start:\n{self.log}")


class FunctionsContainer(FunctionsHost):
    """An image's wwwroot under the worker library, with the image's own Python and packages."""

    def __init__(self, images: ImageStore, image: str, worker: Path, **environ: str) -> None:
        super().__init__(Path(WWWROOT), environ)
        self._images, self._image, self._worker = images, image, worker

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # The app's packages come first, as in Azure.
            own = dict(each.split("=", 1) for each in self._images.config(self._image)["Env"])
            path = f"{own['PYTHONPATH']}:{_WORKER}"
            container = self._images.container(
                self._image,
                volumes={self._worker: f"{_WORKER}:ro"},
                PYTHONPATH=path,
                **self.environ,
            )
            self.container = stack.enter_context(container)
            command = self.container.command("python", f"{_WORKER}/functions_host.py", WWWROOT)
            self._output = tempfile.TemporaryFile()
            self.process = subprocess.Popen(command, stdout=self._output, stderr=subprocess.STDOUT)
            stack.callback(self.stop)
            self._wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not (ready := re.search(r'^(\{"port": .*)\n', self.log, re.MULTILINE)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not ready:\n{self.log}")
            time.sleep(0.02)
        report = json.loads(ready[1])
        self.url = f"http://127.0.0.1:{report['port']}"
        self.functions = report["functions"]

    def stop(self) -> None:
        """End the worker."""
        end(self.process)
        self._final_log = self.log
        self._output.close()


def worker_library(folder: Path) -> Path:
    """A folder with Microsoft's worker library alone, to be mounted into a container."""
    installed = Path(sysconfig.get_path("purelib"))
    for name in _WORKER_PACKAGES:
        shutil.copytree(installed / name, folder / name)
    shutil.copy(functions_host.__file__, folder / "functions_host.py")
    return folder
