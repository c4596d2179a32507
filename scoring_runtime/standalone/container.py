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
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import partial
from os.path import commonprefix
from time import monotonic
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient

from ..connections.named import Connection
from ..errors import ConfigurationError, InputTrouble, TriggerTrouble
from ..settings.settings import Settings
from ..triggers.blob_paths import LONGEST_NAME, BlobPaths
from ..triggers.outcomes import INPUT_KEY, directions, is_folder
from .place import Claim, Document, Found

_ATTEMPTS = "scoringattempts"
_RECEIPT = "sourceetag"
_PAGE = 500
_PROBE = "scoring-probe"
_SHARED_SECONDS = 60.0
# With a condition that no blob meets a request tells whether it may be made, and does nothing.
_NEVER: dict[str, Any] = {"etag": '"0x0"', "match_condition": MatchConditions.IfNotModified}
# The account has too much to do, whichever blob it is asked for.
# https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
_BUSY = ("ServerBusy", "OperationTimedOut")
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
        self._service, self._credential = service_of(connection)
        self._input = self._service.get_container_client(paths.input.container)
        self.held: set[BlobClaim] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._shared_until = 0.0
        # What could be claimed and written the last time; until then names of the same shape.
        self._claimable = paths.input.example(_PROBE)
        documents = (paths.error, paths.output)
        self._writable = {each.container: each.example(_PROBE) for each in documents}
        self.translated = partial(translated, connection.name, paths)
        """Errors as sentences; those about one blob, ``container/name``, if that is given."""
        self.where = (
            f"{self._service.url.partition('?')[0].rstrip('/')}/{paths.input.text}; documents go "
            f"to {paths.output.text} and {paths.error.text}"
        )

    async def open(self) -> None:
        """Make the containers of the documents if they are missing.

        The second time on it asks whether an input may be leased and a document written: what is
        allowed for one and refused for another is no trouble of the account.
        """
        for name in {self._paths.output.container, self._paths.error.container}:
            # Whoever may write need not be allowed to make containers.
            with self.translated(), contextlib.suppress(HttpResponseError):
                await self._made_container(name)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
            return
        blob = self._input.get_blob_client(self._claimable)
        await self._ask(blob.acquire_lease(self._lease_seconds, **_NEVER))
        for container, name in self._writable.items():
            blob = self._service.get_blob_client(container, name)
            await self._ask(blob.upload_blob(b"", overwrite=True, **_NEVER))

    async def close(self) -> None:
        """Close the connections."""
        if self._renewing:
            self._renewing.cancel()
        try:
            await self._service.close()
        finally:
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
                    name_starts_with=commonprefix(several) or None,  # noqa: RUF071
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
                include=["metadata", "copy"],
                results_per_page=_PAGE,
            ).by_page()
            async for page in pages:
                found = [_found(blob) async for blob in page if not is_folder(blob.metadata or {})]
                if monotonic() < self._shared_until:
                    random.shuffle(found)  # two watchers in one order get in each other's way
                for each in found:
                    yield each

    async def changed(self, least: float, most: float) -> None:
        """The storage account tells nobody."""
        await asyncio.sleep(most)

    async def claim(self, found: Found, receipts: tuple[str, ...]) -> Claim | None:
        """Lease the input."""
        blob = self._input.get_blob_client(found.name)
        with self.translated(f"{self._input.container_name}/{found.name}"):
            _check_names(receipts[:1])
            try:
                lease = await blob.acquire_lease(
                    self._lease_seconds,
                    etag=f'"{found.etag}"',
                    match_condition=MatchConditions.IfNotModified,
                )
            except _NOT_OURS as error:
                # 409 has many reasons beside LeaseAlreadyPresent and its like.
                if error.status_code == 409 and "Lease" not in code_of(error):
                    raise
                self.is_shared()
                return None
            claim = BlobClaim(self, blob, lease, found)
            self.held.add(claim)
            try:
                shared = monotonic() < self._shared_until
                for each in receipts if shared else ():
                    if await self._receipt_of(each) == found.etag:
                        await claim.release(done=True)
                        return None
                if found.dropped:
                    await claim.count(found.attempts + 1)
            except BaseException:
                await claim.release(done=False)
                raise
            self._claimable = found.name
            return claim

    async def leave(self, found: Found, document: Document) -> None:
        """Write a document without a claim."""
        await self.write(document, found.version)

    async def remove(self, document: str) -> None:
        """Delete a document."""
        container, _, name = document.partition("/")
        with self.translated(document), contextlib.suppress(ResourceNotFoundError):
            await self._service.get_blob_client(container, name).delete_blob()

    def is_shared(self) -> None:
        """Another watcher is at work: for a while, receipts are looked at before each input."""
        self._shared_until = monotonic() + _SHARED_SECONDS

    async def write(self, document: Document, etag: str) -> None:
        """Write a document with its receipt."""
        container, _, name = document.name.partition("/")
        with self.translated(document.name):
            _check_names((document.name,))
            try:
                await self._upload(document, document.replaces)
            except ResourceExistsError:
                self.is_shared()
                if await self._receipt_of(document.name) != etag:
                    await self._upload(document, True)
            except ResourceNotFoundError:
                await self._made_container(container)
                await self._upload(document, True)
        self._writable[container] = name

    async def _ask(self, request: Awaitable[object]) -> None:
        """Make a request that does nothing, to see whether the account refuses all of its kind."""
        with self.translated():
            try:
                await request
            except HttpResponseError as error:
                status = error.status_code or 0
                if status in (401, 403) or status >= 500 or code_of(error) == "ContainerNotFound":
                    raise

    async def _upload(self, document: Document, overwrite: bool) -> None:
        container, _, name = document.name.partition("/")
        await self._service.get_blob_client(container, name).upload_blob(
            document.body,
            overwrite=overwrite,
            metadata=dict(document.metadata),
            content_settings=ContentSettings(content_type=document.content_type),
        )

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
                # One that does not answer must not cost the others their leases, nor end this task.
                renewals = (asyncio.wait_for(claim.renew(), pause) for claim in late)
                await asyncio.gather(*renewals, return_exceptions=True)


class BlobClaim:
    """A leased blob."""

    def __init__(self, container: Container, blob: Any, lease: Any, found: Found) -> None:
        self._container = container
        self._blob = blob
        self._lease = lease
        self._what = f"{blob.container_name}/{blob.blob_name}"
        self.etag = found.etag
        self.attempts = found.attempts
        self.renewed = monotonic()

    async def renew(self) -> None:
        """Keep the lease; when that fails another watcher may score the input too, to no harm."""
        self.renewed = monotonic()
        await self._lease.renew()

    async def read(self) -> bytes | None:
        """Download the blob if it is still the one that was leased."""
        with self._container.translated(self._what):
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
        with self._container.translated(self._what):
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
        with contextlib.suppress(Exception):
            await self._lease.release()


def service_of(connection: Connection) -> tuple[BlobServiceClient, Any]:
    """A client of the storage account, and the credential to close after it (None with a key).

    Raises:
        ConfigurationError: the connection string cannot be read.
    """
    # Without its logging of each request: credentials would be a setting away from the log.
    options: dict[str, Any] = {"retry_total": 3, "connection_timeout": 10, "read_timeout": 60}
    options |= {"initial_backoff": 1, "increment_base": 2}  # else it begins with 15 s
    if not connection.text:
        credential = connection.credential()
        return BlobServiceClient(connection.address, credential, **options), credential
    try:
        return BlobServiceClient.from_connection_string(connection.text, **options), None
    except (ValueError, KeyError, TypeError, AttributeError):
        # What it says may hold the key.
        raise ConfigurationError(
            f"{connection.name} (the connection that BLOB_CONNECTION names) is not a "
            "storage connection string: it needs AccountName and AccountKey, or BlobEndpoint "
            "and SharedAccessSignature."
        ) from None


def _found(blob: Any) -> Found:
    said = blob.content_settings
    lease = (blob.lease.state or "") if blob.lease else ""
    count = (blob.metadata or {}).get(_ATTEMPTS) or ""
    return Found(
        blob.name,
        blob.etag.strip('"'),
        blob.size,
        int(count) if count.isdecimal() else 0,
        said.content_type or "",
        said.content_encoding or "",
        (blob.metadata or {}).get(INPUT_KEY, ""),
        held=lease in ("leased", "breaking") or blob.copy.status == "pending",
        dropped=lease == "expired",
        directions=directions(blob.metadata or {}),
        state="archived" if blob.blob_tier == "Archive" else "",
        changed=blob.last_modified.timestamp(),
    )


def _check_names(documents: tuple[str, ...]) -> None:
    longest = max((len(each.partition("/")[2]) for each in documents), default=0)
    if longest > LONGEST_NAME:
        raise InputTrouble(f"A document's name would have {longest} characters; 1,024 may be.")


@contextlib.contextmanager
def translated(connection_name: str, paths: BlobPaths, blob: str = "") -> Iterator[None]:
    """Raise the SDK's errors as TriggerTrouble; as InputTrouble if they are about one ``blob``."""
    try:
        yield
    except AzureError as error:
        if blob and code_of(error) not in _BUSY:
            raise InputTrouble(f"{blob} cannot be used: {code_of(error)}.") from error
        raise TriggerTrouble(sentence(error, connection_name, paths)) from error


def code_of(error: AzureError) -> str:
    """The storage service's code for what is wrong, or the name of the error."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or type(error).__name__)


def sentence(error: AzureError, name: str, paths: BlobPaths) -> str:
    """What an operator can do; never the error's own text, which can hold a signature."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return f"The storage account of {name} (BLOB_CONNECTION) cannot be reached; trying again."
    code = code_of(error)
    if code == "ContainerNotFound":
        return (
            f"A container does not exist: {paths.input.container} (BLOB_INPUT_PATH), "
            f"{paths.output.container} (BLOB_OUTPUT_PATH) or {paths.error.container} "
            "(BLOB_ERROR_PATH). Create it; trying again."
        )
    if isinstance(error, ClientAuthenticationError) or code.startswith("Authorization"):
        return (
            f"The storage account refuses {name} (BLOB_CONNECTION): {code}. It needs to read and "
            "write blobs (role Storage Blob Data Contributor)."
        )
    return f"The storage account of {name} (BLOB_CONNECTION) answered {code}; trying again."
