"""A service whose model changes, and clients that never stop asking it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import httpx

from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

# What a version does is in its file: how long it loads, what it holds, how it fails.
SCRIPT = """
import json, os, pathlib, signal, time

def init():
    global version, held
    version = json.loads(pathlib.Path(os.environ["AZUREML_MODEL_DIR"], "model.json").read_text())
    held = bytearray(os.urandom(1024)) * (1024 * version.get("megabytes", 0))
    time.sleep(version.get("seconds", 0))
    if version.get("memory"):
        raise MemoryError("cannot hold it")
    if version.get("killed"):
        os.kill(os.getpid(), signal.SIGKILL)

def run(data):
    if version.get("fails"):
        raise ValueError("cannot score")
    return version["answer"]
"""


class Changing:
    """``with Changing(folder, "--workers", "2") as service:`` serves version 1 of model ``m``."""

    def __init__(self, folder: Path, *options: str, **environ: str) -> None:
        self.folder = folder
        self.script = folder / "score.py"
        self.script.write_text(SCRIPT)
        self.add(1, answer={"value": 1})
        first = str(self.place(1))
        self.host = StandaloneHost(
            self.script, "--model-dir", first, *options, environ=environ, ready_path="/health/ready"
        )

    def place(self, version: int) -> Path:
        return self.folder / "azureml-models" / "m" / str(version)

    def add(self, version: int, samples: Mapping[str, Any] | None = None, **said: Any) -> None:
        """A version, which is there at once; its samples by the names of their files."""
        built = self.folder / f"built-{version}"
        (built / "samples").mkdir(parents=True)
        (built / "model.json").write_text(json.dumps(said))
        for name, value in (samples or {}).items():
            (built / "samples" / name).write_text(json.dumps(value))
        self.place(version).parent.mkdir(parents=True, exist_ok=True)
        built.rename(self.place(version))

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.host.url}{path}", json=body, timeout=120)

    def reload(self, version: int | None = None) -> dict[str, Any]:
        """What has become of a change to a version, or to the newest."""
        answer = self.post("/models/reload", **({"model": f"m:{version}"} if version else {}))
        outcome: dict[str, Any] = answer.json()
        assert (answer.status_code < 400) == (outcome["outcome"] in ("switched", "unchanged"))
        return outcome

    @property
    def in_force(self) -> str:
        return httpx.post(f"{self.host.url}/score", json={}).headers["x-model-version"]

    @property
    def workers(self) -> set[int]:
        pid = self.host.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def settled(self, count: int) -> None:
        """Wait until the processes of old versions are gone."""
        until(lambda: len(self.workers) == count)

    @property
    def held(self) -> int:
        """Bytes that the processes hold, what they share counted once (smaps_rollup: Pss)."""
        held = 0
        for pid in (self.host.process.pid, *self.workers):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            held += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        return held * 1024

    def __enter__(self) -> Self:
        self.host.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.host.stop()


class Clients:
    """``with Clients(port, 16) as clients:`` asks over so many connections, one after the other.

    ``seen`` are the versions of each connection in their order, ``failures`` what was no answer.
    """

    def __init__(self, port: int, count: int, pause: float = 0.0) -> None:
        self.seen: list[list[str]] = []
        self.failures: list[str] = []
        self.answered = 0
        self._port, self._pause = port, pause
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def _ask(self) -> None:
        connection, seen = HTTPConnection("127.0.0.1", self._port, timeout=60), list[str]()
        while not self._stopping.is_set():
            if connection.sock is None:
                seen = []
                self.seen.append(seen)
            try:
                self._one(connection, seen)
            except (OSError, HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            time.sleep(self._pause)
        connection.close()

    def _one(self, connection: HTTPConnection, seen: list[str]) -> None:
        connection.request("POST", "/score", b"{}", {"content-type": "application/json"})
        response = connection.getresponse()
        body, version = response.read(), response.getheader("x-model-version", "")
        if response.status != 200 or body != b'{"value":%b}' % version.encode():
            self.failures.append(f"{response.status} {version} {body!r}")
        self.answered += 1
        if seen[-1:] != [version]:
            seen.append(version)

    def turns(self) -> set[tuple[str, str]]:
        """The changes that a connection has seen."""
        return {pair for seen in self.seen for pair in pairwise(seen)}

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for each in self._threads:
            each.join()
