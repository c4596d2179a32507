"""A blob container as the place of records: files are uploaded once nobody writes to them.

Until then, and while the storage account is away, they lie in a folder of this machine. A file of
records becomes a blob; what scripts collect is appended to an append blob, at least once.
Source: https://learn.microsoft.com/rest/api/storageservices/append-block
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any
from zlib import crc32

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobServiceClient
from azure.storage.blob import ContainerClient as Client

from ..connections.named import Connection
from ..errors import ConfigurationError
from ..telemetry.logs import log

_LOOK_SECONDS = 5.0
_SAY_SECONDS = 60.0
_BLOCK = 4 * 1024 * 1024
_OPTIONS: dict[str, Any] = {"retry_total": 1, "connection_timeout": 5, "read_timeout": 30}


class Container:
    """Uploads files, and deletes them then, in a thread of its own.

    Args:
        url: of the container, with a folder in it if there is to be one.
        connection: where the account is, and how to sign in.
        folder: what the names of blobs are relative to.
        finished: gives the files that are whole.

    Raises:
        ConfigurationError: the connection is none, or that of another account.
    """

    def __init__(
        self, url: str, connection: Connection, folder: Path, finished: Callable[[], list[Path]]
    ) -> None:
        self._client, self._prefix = client(url, connection)
        self._url, self._folder, self._finished = url, folder, finished
        self._stopping = threading.Event()
        self._said = -_SAY_SECONDS
        self._is_made = False
        self._thread = threading.Thread(target=self._run, name="records-upload", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Upload what is left; no longer than ``seconds``. What then remains is for the next
        process of this machine."""
        self._stopping.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(_LOOK_SECONDS)
            try:
                self._make()
                for path in self._finished():
                    self._send(path)
            except (AzureError, OSError) as error:
                if monotonic() - self._said >= _SAY_SECONDS:
                    self._said = monotonic()
                    code = getattr(error, "error_code", None) or type(error).__name__
                    said = getattr(code, "value", code)
                    log.warning("%s takes no records (%s); trying again.", self._url, said)

    def _make(self) -> None:
        if not self._is_made:
            # Whoever may write need not be allowed to make containers.
            with suppress(HttpResponseError):
                self._client.create_container()
            self._is_made = True

    def _send(self, path: Path) -> None:
        name = f"{self._prefix}{path.relative_to(self._folder).as_posix()}"
        data = path.read_bytes()
        if path.suffix == ".csv":
            self._append(name.rpartition("/")[0], data)
        else:
            self._client.upload_blob(name, data, overwrite=True)
        path.unlink(missing_ok=True)

    def _append(self, name: str, data: bytes) -> None:
        head, end, rows = data.partition(b"\n")
        blob = self._client.get_blob_client(name)
        with suppress(ResourceExistsError):
            blob.create_append_blob(match_condition=MatchConditions.IfMissing)
        try:
            blob.append_block(head + end, appendpos_condition=0)
        except HttpResponseError as error:
            if error.status_code != 412:
                raise
            # It has its first line.
            found = blob.download_blob(offset=0, length=len(head) + 1).readall()
            if found != head + end:
                other = f"-{crc32(head + end):08x}.csv"
                self._append(name.removesuffix(".csv") + other, data)
                return
        for at in range(0, len(rows), _BLOCK):
            blob.append_block(rows[at : at + _BLOCK])


def client(url: str, connection: Connection) -> tuple[Client, str]:
    """The container of a URL, and what the names in it begin with: nothing, or a folder's name.

    Raises:
        ConfigurationError: the connection string cannot be read, or is that of another account; or
            the URL names no container.
    """
    service = _service(connection)
    account = service.url.partition("?")[0].rstrip("/")
    if not f"{url}/".startswith(f"{account}/"):
        raise ConfigurationError(
            f"SCORING_RECORD is {url}, but the account of {connection.name} "
            f"(SCORING_RECORD_CONNECTION) is {account}. Allowed: a container of that account."
        )
    container, _, folder = url[len(account) :].strip("/").partition("/")
    if not container:
        raise ConfigurationError(
            f"SCORING_RECORD is {url}, which names no container. Allowed: {account}/<container>."
        )
    return service.get_container_client(container), f"{folder}/" if folder else ""


def _service(connection: Connection) -> BlobServiceClient:
    if not connection.text:
        credential = connection.credential(awaited=False)
        return BlobServiceClient(connection.address, credential, **_OPTIONS)
    try:
        return BlobServiceClient.from_connection_string(connection.text, **_OPTIONS)
    except (ValueError, KeyError, TypeError, AttributeError):
        # What it says may hold the key.
        raise ConfigurationError(
            f"{connection.name} (the connection that SCORING_RECORD_CONNECTION names) is not a "
            "storage connection string."
        ) from None
