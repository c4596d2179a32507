"""Blob containers as the place of the blob trigger.

The receipt is the document's metadata ``sourceetag``. An input is leased while it is scored; its
metadata ``scoringattempts`` counts the tries that failed. A lease that has expired was dropped by a
killed process: whoever lives renews or releases it.
Source: https://learn.microsoft.com/rest/api/storageservices/lease-blob
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from time import monotonic
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient

from ..blob_paths import BlobPaths
from ..connections import Connection
from ..errors import ConfigurationError
from ..outcomes import INPUT_KEY, directions
from ..settings import Settings
from .place import Claim, Document, Found
from .storage_errors import translated

_ATTEMPTS = "scoringattempts"
_RECEIPT = "sourceetag"
_PAGE = 500
_SHARED_SECONDS = 60.0
# A blob that is gone, changed or held by another watcher is nobody's fault.
_NOT_OURS = (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError)


class Container:
    """The containers of the paths, in one storage account.

    Raises:
        ConfigurationError: the connection string cannot be read.
    """

    def __init__(self, settings: Settings, paths: BlobPaths, connection: Connection) -> None:
        self._paths = paths
        self._connection = connection
        self._lease_seconds = settings.blob_lease_seconds
        self._credential: Any = None
        self._service = self._made_service()
        self._input = self._service.get_container_client(paths.input.container)
        self.held: set[BlobClaim] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._shared_until = 0.0
        self.translated = partial(translated, connection.name, paths)
        self.where = (
            f"{self._service.url.partition('?')[0].rstrip('/')}/{paths.input.text}; documents go "
            f"to {paths.output.text} and {paths.error.text}"
        )

    async def open(self) -> None:
        """Make the containers of the documents if they are missing."""
        for name in {self._paths.output.container, self._paths.error.container}:
            # Whoever may write need not be allowed to make containers.
            with self.translated(), contextlib.suppress(HttpResponseError):
                await self._made_container(name)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Close the connections."""
        if self._renewing:
            self._renewing.cancel()
        await self._service.close()
        if self._credential is not None:
            await self._credential.close()

    async def receipts(self) -> dict[str, str]:
        """The documents' metadata."""
        prefixes: dict[str, list[str]] = {}
        for each in (self._paths.output, self._paths.error):
            prefixes.setdefault(each.container, []).append(each.prefix)
        found: dict[str, str] = {}
        with self.translated():
            for container, several in prefixes.items():
                client = self._service.get_container_client(container)
                async for blob in client.list_blobs(
                    name_starts_with=_common(several) or None,
                    include=["metadata"],
                    results_per_page=_PAGE,
                ):
                    found[f"{container}/{blob.name}"] = (blob.metadata or {}).get(_RECEIPT, "")
        return found

    async def inputs(self) -> AsyncIterator[Found]:
        """The blobs of the input container."""
        with self.translated():
            pages = self._input.list_blobs(
                name_starts_with=self._paths.input.prefix or None,
                include=["metadata"],
                results_per_page=_PAGE,
            ).by_page()
            async for page in pages:
                found = [_found(blob) async for blob in page]
                if monotonic() < self._shared_until:
                    random.shuffle(found)  # two watchers in one order get in each other's way
                for each in found:
                    yield each

    async def claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        """Lease the input."""
        blob = self._input.get_blob_client(found.name)
        with self.translated():
            try:
                lease = await blob.acquire_lease(
                    self._lease_seconds,
                    etag=f'"{found.etag}"',
                    match_condition=MatchConditions.IfNotModified,
                )
            except _NOT_OURS:
                self.is_shared()
                return None
            claim = BlobClaim(self, blob, lease, found)
            self.held.add(claim)
            try:
                if monotonic() < self._shared_until and await self._has_receipt(found, receipts):
                    await claim.release(done=True)
                    return None
                if found.dropped:
                    await claim.count(found.attempts + 1)
            except BaseException:
                await claim.release(done=False)
                raise
            return claim

    async def remove(self, document: str) -> None:
        """Delete a document."""
        container, _, name = document.partition("/")
        with self.translated(), contextlib.suppress(ResourceNotFoundError):
            await self._service.get_blob_client(container, name).delete_blob()

    def is_shared(self) -> None:
        """Another watcher is at work: for a while, receipts are looked at before each input."""
        self._shared_until = monotonic() + _SHARED_SECONDS

    async def write(self, document: Document, etag: str) -> None:
        """Write a document with its receipt."""
        with self.translated():
            try:
                await self._upload(document, document.replaces)
            except ResourceExistsError:
                self.is_shared()
                if await self._receipt_of(document.name) != etag:
                    await self._upload(document, True)
            except ResourceNotFoundError:
                await self._made_container(document.name.partition("/")[0])
                await self._upload(document, True)

    async def _upload(self, document: Document, overwrite: bool) -> None:
        container, _, name = document.name.partition("/")
        await self._service.get_blob_client(container, name).upload_blob(
            document.body,
            overwrite=overwrite,
            metadata=dict(document.metadata),
            content_settings=ContentSettings(content_type=document.content_type),
        )

    async def _has_receipt(self, found: Found, receipts: tuple[str, ...]) -> bool:
        for each in receipts:
            if await self._receipt_of(each) == found.etag:
                return True
        return False

    async def _receipt_of(self, document: str) -> str:
        container, _, name = document.partition("/")
        try:
            blob = await self._service.get_blob_client(container, name).get_blob_properties()
        except ResourceNotFoundError:
            return ""
        return str((blob.metadata or {}).get(_RECEIPT, ""))

    async def _made_container(self, name: str) -> None:
        with contextlib.suppress(ResourceExistsError):
            await self._service.create_container(name)

    async def _renew(self) -> None:
        pause = self._lease_seconds / 3
        while True:
            await asyncio.sleep(pause / 4)
            due = monotonic() - pause
            late = [claim for claim in self.held if claim.renewed < due]
            if late:
                await asyncio.gather(*(claim.renew() for claim in late))

    def _made_service(self) -> BlobServiceClient:
        # Without its logging of each request: credentials would be a setting away from the log.
        options: dict[str, Any] = {"retry_total": 3, "connection_timeout": 10, "read_timeout": 60}
        options |= {"initial_backoff": 1, "increment_base": 2}  # else it begins with 15 s
        if not self._connection.text:
            self._credential = self._connection.credential()
            return BlobServiceClient(self._connection.address, self._credential, **options)
        try:
            return BlobServiceClient.from_connection_string(self._connection.text, **options)
        except (ValueError, KeyError, TypeError, AttributeError):
            # What it says may hold the key.
            raise ConfigurationError(
                f"{self._connection.name} (the connection that BLOB_CONNECTION names) is not a "
                "storage connection string: it needs AccountName and AccountKey, or BlobEndpoint "
                "and SharedAccessSignature."
            ) from None


class BlobClaim:
    """A leased blob."""

    def __init__(self, container: Container, blob: Any, lease: Any, found: Found) -> None:
        self._container = container
        self._blob = blob
        self._lease = lease
        self._found = found
        self.etag = found.etag
        self.attempts = found.attempts
        self.renewed = monotonic()

    async def renew(self) -> None:
        """Keep the lease; when that fails another watcher may score the input too, to no harm."""
        self.renewed = monotonic()
        with contextlib.suppress(AzureError):
            await self._lease.renew()

    async def read(self) -> bytes | None:
        """Download the blob if it is still the one that was leased."""
        with self._container.translated():
            try:
                stream = await self._blob.download_blob(
                    etag=f'"{self.etag}"',
                    match_condition=MatchConditions.IfNotModified,
                    decompress=False,  # the runtime does it, and knows a limit
                )
                content: bytes = await stream.readall()
            except (ResourceModifiedError, ResourceNotFoundError):
                return None
            return content

    async def count(self, attempts: int) -> None:
        """Keep the count in the blob's metadata, which gives it a new etag."""
        with self._container.translated():
            now = await self._blob.get_blob_properties()
            changed = await self._blob.set_blob_metadata(
                {**(now.metadata or {}), _ATTEMPTS: str(attempts)},
                lease=self._lease,
                etag=f'"{self.etag}"',
                match_condition=MatchConditions.IfNotModified,
            )
        self.etag, self.attempts = changed["etag"].strip('"'), attempts

    async def write(self, document: Document) -> None:
        """Upload it with its receipt."""
        await self._container.write(document, self.etag)

    async def release(self, *, done: bool) -> None:
        """Let go of the lease; if that fails it ends by itself."""
        self._container.held.discard(self)
        with contextlib.suppress(AzureError):
            await self._lease.release()


def _found(blob: Any) -> Found:
    said = blob.content_settings
    state = (blob.lease.state or "") if blob.lease else ""
    count = (blob.metadata or {}).get(_ATTEMPTS) or ""
    return Found(
        blob.name,
        blob.etag.strip('"'),
        blob.size,
        int(count) if count.isdecimal() else 0,
        said.content_type or "",
        said.content_encoding or "",
        (blob.metadata or {}).get(INPUT_KEY, ""),
        held=state in ("leased", "breaking"),
        dropped=state == "expired",
        directions=directions(blob.metadata or {}),
    )


def _common(prefixes: list[str]) -> str:
    first, last = min(prefixes), max(prefixes)
    same = 0
    while same < len(first) and first[same : same + 1] == last[same : same + 1]:
        same += 1
    return first[:same]
