"""Where a user drops inputs and finds documents, for tests: two folders, or two containers."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import httpx
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContentSettings

from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.folder import Folder
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.hosts.standalone import StandaloneHost

_numbers = itertools.count()


class Folders:
    """A watched folder and that of the documents, with the paths of the defaults or these."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.input, self.output = folder / "in", folder / "out"
        for each in (self.input, self.output):
            each.mkdir(parents=True)
        self.claims = self.output / ".scoring"
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self.input),
            "BLOB_OUTPUT_FOLDER": str(self.output),
            "BLOB_POLL_SECONDS": "0.1",
            **environ,
        }

    def put(self, name: str, body: bytes = b"x", *said: str) -> Path:
        """A folder keeps no content type and no encoding."""
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path

    def put_long_ago(self, name: str, body: bytes = b"x") -> Path:
        path = self.put(name, body)
        os.utime(path, (1e9, 1e9))
        return path

    def document(self, name: str) -> bytes | None:
        path = self.output / name
        return path.read_bytes() if path.is_file() else None

    def documents(self) -> set[str]:
        files = {each for each in self.output.rglob("*") if each.is_file()}
        names = {each.relative_to(self.output).as_posix() for each in files}
        return {each for each in names if not each.startswith(".scoring/")}

    def delete_document(self, name: str) -> None:
        (self.output / name).unlink()

    def held(self) -> list[str]:
        """What is claimed."""
        return [each.name for each in self.claims.iterdir()]

    def host(self, script: Path, **more: str) -> StandaloneHost:
        return StandaloneHost(script, environ={**self.environ, **more})

    def place(self) -> Folder:
        settings = Settings.from_environ(self.environ)
        return Folder(settings, blob_paths(settings))


class Containers:
    """Two containers of their own; `x` becomes `x.out` or `x.error`."""

    def __init__(self, service: BlobServiceClient, connection_string: str, **environ: str) -> None:
        number = next(_numbers)
        self.names = (f"site-{number}-in", f"site-{number}-out")
        self.input = service.create_container(self.names[0])
        self.output = service.get_container_client(self.names[1])
        self.environ = {
            "TriggerConnectionString": connection_string,
            "BLOB_INPUT_PATH": f"{self.names[0]}/{{name}}",
            "BLOB_OUTPUT_PATH": f"{self.names[1]}/{{name}}.out",
            "BLOB_ERROR_PATH": f"{self.names[1]}/{{name}}.error",
            "BLOB_POLL_SECONDS": "0.2",
            "BLOB_LEASE_SECONDS": "15",
            **environ,
        }

    def put(
        self, name: str, body: bytes = b"x", content_type: str = "", encoding: str = "", **more: Any
    ) -> None:
        said = ContentSettings(content_type or None, encoding or None)
        self.input.upload_blob(name, body, overwrite=True, content_settings=said, **more)

    def document(self, name: str) -> bytes | None:
        try:
            return bytes(self.output.download_blob(name).readall())
        except ResourceNotFoundError:
            return None

    def documents(self) -> set[str]:
        try:
            return set(self.output.list_blob_names())
        except ResourceNotFoundError:
            return set()

    def delete_document(self, name: str) -> None:
        self.output.delete_blob(name)

    def held(self) -> list[str]:
        """What is leased."""
        return [each.name for each in self.input.list_blobs() if each.lease.state != "available"]

    def host(self, script: Path, **more: str) -> StandaloneHost:
        return StandaloneHost(script, environ={**self.environ, **more})


Site = Folders | Containers


def message(body: bytes | None) -> str:
    """What an error document says."""
    assert body is not None
    text: str = json.loads(body)["message"]
    return text


def trouble(host: StandaloneHost) -> str:
    """What readiness says is wrong with the blob trigger; empty with 200."""
    answered = httpx.get(f"{host.url}/health/ready", timeout=120)
    said: str = answered.json().get("troubles", {}).get("blob", "")
    assert (answered.status_code == 200) == (not said)
    assert httpx.get(f"{host.url}/health/live", timeout=120).status_code == 200
    return said


def calls(script: Path) -> list[list[str]]:
    """The names and contents that run() was called with, in order, as scripts of tests note."""
    noted = script.with_name("calls")
    return [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
