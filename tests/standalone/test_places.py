"""What every place of the blob trigger promises, held by folders and containers alike."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import BlobClient, BlobLeaseClient, BlobServiceClient, ContentSettings

from scoring_runtime.connections import named
from scoring_runtime.errors import TriggerTrouble
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.container import Container, translated
from scoring_runtime.standalone.folder import Folder
from scoring_runtime.standalone.place import Claim, Document, Found, Place
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.hosts.azurite import Azurite

EVERY_BYTE = bytes(range(256))
_numbers = itertools.count()


class Store(Protocol):
    """What a user sees of a place, and new places on it.

    `put` and `delete` go on although somebody holds the input, as `az storage blob` after breaking
    the lease does.
    """

    output: str
    """The container of the documents."""

    def place(self) -> Place: ...

    def put(self, name: str, body: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def document(self, name: str) -> bytes | None: ...

    def put_document(self, name: str, body: bytes) -> None: ...


class Files:
    """Two folders."""

    output = "output"

    def __init__(self, folder: Path) -> None:
        self._input, self._output = folder / "in", folder / "out"
        self._settings = Settings.from_environ(
            {"BLOB_INPUT_FOLDER": str(self._input), "BLOB_OUTPUT_FOLDER": str(self._output)}
        )
        self._ticks = itertools.count()

    def place(self) -> Place:
        return Folder(self._settings, blob_paths(self._settings))

    def put(self, name: str, body: bytes) -> None:
        path = self._input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        # Old enough to be complete, and each version of its own moment.
        moment = time.time() - 3600 + next(self._ticks)
        os.utime(path, (moment, moment))

    def delete(self, name: str) -> None:
        (self._input / name).unlink()

    def document(self, name: str) -> bytes | None:
        path = self._output / name
        return path.read_bytes() if path.exists() else None

    def put_document(self, name: str, body: bytes) -> None:
        (self._output / name).write_bytes(body)


class Blobs:
    """Two containers."""

    def __init__(self, azurite: Azurite) -> None:
        number = next(_numbers)
        self._input, self.output = f"places-{number}-in", f"places-{number}-out"
        self._settings = Settings.from_environ(
            {
                "TriggerConnectionString": azurite.connection_string,
                "BLOB_INPUT_PATH": f"{self._input}/{{blobname}}.json",
                "BLOB_OUTPUT_PATH": f"{self.output}/{{blobname}}_out.json",
            }
        )
        self._connection = azurite.connection_string
        with BlobServiceClient.from_connection_string(self._connection) as service:
            service.create_container(self._input)

    def place(self) -> Place:
        settings = self._settings
        return Container(settings, blob_paths(settings), named.blob(settings))

    def put(self, name: str, body: bytes) -> None:
        said = ContentSettings(content_type="text/x-own", content_encoding="identity")
        with self._blob(self._input, name) as blob:
            self._break_lease(blob)
            blob.upload_blob(body, overwrite=True, content_settings=said)

    def delete(self, name: str) -> None:
        with self._blob(self._input, name) as blob:
            self._break_lease(blob)
            blob.delete_blob()

    def document(self, name: str) -> bytes | None:
        with self._blob(self.output, name) as blob:
            try:
                return bytes(blob.download_blob().readall())
            except ResourceNotFoundError:
                return None

    def put_document(self, name: str, body: bytes) -> None:
        with self._blob(self.output, name) as blob:
            blob.upload_blob(body)

    def _blob(self, container: str, name: str) -> BlobClient:
        return BlobClient.from_connection_string(self._connection, container, name)

    def _break_lease(self, blob: BlobClient) -> None:
        with contextlib.suppress(ResourceNotFoundError):
            if blob.get_blob_properties().lease.state == "leased":
                BlobLeaseClient(blob).break_lease(0)


@pytest.fixture(params=["folder", "container"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Files(tmp_path)
    return Blobs(request.getfixturevalue("azurite"))


Scenario = Callable[..., Awaitable[None]]


def on_a_loop(test: Scenario) -> Callable[..., None]:
    """An async test."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def scenario() -> None:
            await test(*args, **kwargs)

        asyncio.run(scenario())

    return run


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Place]:
    place = store.place()
    await place.open()
    try:
        yield place
    finally:
        await place.close()


async def found_in(place: Place) -> dict[str, Found]:
    return {each.name: each async for each in place.inputs()}


async def claimed(place: Place, name: str, *receipts: str) -> Claim:
    """The claim of an input that nobody has."""
    claim = await place.claim((await found_in(place))[name], receipts)
    assert claim is not None
    return claim


def document_of(store: Store, name: str, body: bytes, etag: str, *, replaces=False) -> Document:
    receipt = {"sourceetag": etag, "status": "200"}
    return Document(f"{store.output}/{name}", body, "application/json", receipt, replaces)


# --- looking --------------------------------------------------------------------------------------

NAMES = ["a.json", "sub/folder/b.json", "a b.json", "100%25 #1?.json", "grüße/漢字 😀.json"]


@on_a_loop
async def test_inputs_are_listed_and_read_as_they_were_put_and_documents_are_their_receipts(
    store: Store,
):
    """Whatever their names; an empty document is a receipt too."""
    async with opened(store) as place:
        assert (await found_in(place), await place.receipts()) == ({}, {})
        for number, name in enumerate(NAMES):
            store.put(name, EVERY_BYTE * number)
        listed = await found_in(place)
        for number, name in enumerate(NAMES):
            found = listed.pop(name)
            assert (found.size, found.attempts) == (256 * number, 0)
            assert (found.held, found.dropped) == (False, False)
            claim = await claimed(place, name)
            assert claim.etag == found.etag
            assert await claim.read() == EVERY_BYTE * number
            document = f"{name.removesuffix('.json')}_out.json"
            await claim.write(document_of(store, document, EVERY_BYTE * number, claim.etag))
            await claim.release(done=True)
            assert store.document(document) == EVERY_BYTE * number
            assert (await place.receipts())[f"{store.output}/{document}"] == found.etag
        assert listed == {}
        assert len(await place.receipts()) == len(NAMES)


# --- claiming -------------------------------------------------------------------------------------


@on_a_loop
async def test_what_a_watcher_has_claimed_nobody_gets_until_it_is_released(store: Store):
    async with opened(store) as one, opened(store) as other:
        store.put("a.json", b"x")
        before = (await found_in(other))["a.json"]
        claims = await asyncio.gather(*(each.claim(before, ()) for each in (one, other) * 2))
        [claim] = filter(None, claims)
        for place in (one, other):
            await place.open()  # as after trouble
            assert await place.claim((await found_in(place))["a.json"], ()) is None
        await claim.release(done=False)
        again = await claimed(other, "a.json")
        assert await again.read() == b"x"
        await again.release(done=False)


@pytest.mark.parametrize("change", ["put", "delete"])
@on_a_loop
async def test_an_input_that_changes_or_goes_is_neither_claimed_nor_read(store: Store, change: str):
    """And letting go of it raises nothing."""

    def act(number: int) -> None:
        store.put("a.json", b"%d" % number) if change == "put" else store.delete("a.json")

    async with opened(store) as place:
        store.put("a.json", b"one")
        before = (await found_in(place))["a.json"]
        act(1)
        assert await place.claim(before, ()) is None
        store.put("a.json", b"two")
        claim = await claimed(place, "a.json")
        assert claim.etag != before.etag
        assert await claim.read() == b"two"
        act(2)
        assert await claim.read() is None
        await claim.release(done=False)
        assert len(await found_in(place)) == (1 if change == "put" else 0)


@on_a_loop
async def test_what_another_watcher_has_scored_meanwhile_is_not_claimed(store: Store):
    """Once it knows of the other one, by an input that was taken from under its hands."""
    async with opened(store) as one, opened(store) as other:
        for name in ("a.json", "b.json"):
            store.put(name, b"x")
        before = await found_in(other)
        claim = await claimed(one, "a.json")
        assert await other.claim(before["a.json"], ()) is None
        await claim.release(done=False)
        claim = await claimed(one, "b.json")
        await claim.write(document_of(store, "b_error.json", b"{}", claim.etag))
        await claim.release(done=True)
        receipts = (f"{store.output}/b_out.json", f"{store.output}/b_error.json")
        assert await other.claim(before["b.json"], receipts) is None
        # It has let go of it too.
        store.put("b.json", b"y")
        claim = await claimed(other, "b.json", *receipts)
        await claim.release(done=False)


@on_a_loop
async def test_failed_tries_of_a_version_are_counted_beyond_the_watcher(store: Store):
    """Letting go without a try counts nothing, as a host does that is told to stop.

    Counting is no new version: the receipt that is written at last says what the listing says.
    """
    tries = (0, 1, 1, 2)
    for before, after in itertools.pairwise(tries):
        async with opened(store) as place:
            if before == 0:
                store.put("a.json", b"x")
            claim = await claimed(place, "a.json")
            assert claim.attempts == before
            if after > before:
                await claim.count(after)
            assert claim.attempts == after
            assert await claim.read() == b"x"
            await claim.release(done=False)
    async with opened(store) as place:
        claim = await claimed(place, "a.json")
        await claim.write(document_of(store, "a_error.json", b"{}", claim.etag))
        await claim.release(done=True)
        listed = (await found_in(place))["a.json"].etag
        assert (await place.receipts())[f"{store.output}/a_error.json"] == listed
        store.put("a.json", b"two")
        claim = await claimed(place, "a.json")
        assert claim.attempts == 0
        await claim.release(done=False)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaces", [True, False])
@on_a_loop
async def test_a_document_takes_the_place_of_what_is_there(store: Store, replaces: bool):
    """Of an earlier version's, or somebody else's, which is no receipt; also of none, or of one
    that was not there when the pass began."""
    async with opened(store) as place:
        store.put("a.json", b"x")
        if not replaces:
            store.put_document("a_out.json", b"theirs")
            found = (await found_in(place))["a.json"]
            assert (await place.receipts())[f"{store.output}/a_out.json"] != found.etag
        for body in (b"one", b"two"):
            store.put("a.json", body)
            claim = await claimed(place, "a.json", f"{store.output}/a_out.json")
            said = document_of(store, "a_out.json", body, claim.etag, replaces=replaces)
            await claim.write(said)
            await claim.release(done=True)
            assert store.document("a_out.json") == body
            assert await place.receipts() == {f"{store.output}/a_out.json": claim.etag}


@on_a_loop
async def test_a_removed_document_is_gone_and_so_is_its_receipt(store: Store):
    """Once more is no trouble."""
    async with opened(store) as place:
        store.put("sub/a.json", b"x")
        claim = await claimed(place, "sub/a.json")
        for name in ("sub/a_out.json", "sub/a_error.json"):
            await claim.write(document_of(store, name, b"{}", claim.etag))
        await claim.release(done=True)
        for _ in range(2):
            await place.remove(f"{store.output}/sub/a_error.json")
            assert store.document("sub/a_error.json") is None
            assert await place.receipts() == {f"{store.output}/sub/a_out.json": claim.etag}


# --- trouble --------------------------------------------------------------------------------------


@on_a_loop
async def test_folders_that_cannot_be_made_are_trouble_that_names_the_settings(tmp_path: Path):
    (tmp_path / "in").write_text("a file, not a folder")
    with pytest.raises(TriggerTrouble, match="BLOB_INPUT_FOLDER, BLOB_OUTPUT_FOLDER"):
        await Files(tmp_path).place().open()


@on_a_loop
async def test_a_missing_container_is_trouble_or_is_made_again(azurite: Azurite):
    """That of the inputs is trouble that names the setting, that of the documents is made."""
    store = Blobs(azurite)
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    async with opened(store) as place:
        store.put("a.json", b"x")
        claim = await claimed(place, "a.json")
        with service:
            service.delete_container(store.output)
            await claim.write(document_of(store, "a_out.json", b"x", claim.etag))
            await claim.release(done=True)
            assert store.document("a_out.json") == b"x"
            service.delete_container(store._input)
        with pytest.raises(TriggerTrouble) as caught:
            await found_in(place)
        assert f"{store._input} (BLOB_INPUT_PATH)" in str(caught.value)


def coded(code: str, kind: type[HttpResponseError] = HttpResponseError) -> HttpResponseError:
    """An answer of the service with its own code."""
    error = kind("h0st")
    error.error_code = code  # type: ignore[attr-defined]  # as the storage SDK does
    return error


SENTENCES = [
    (ServiceRequestError("h0st"), "of Mine (BLOB_CONNECTION) cannot be reached; trying again."),
    (ServiceResponseError("h0st"), "of Mine (BLOB_CONNECTION) cannot be reached; trying again."),
    (coded("ContainerNotFound"), "does not exist: input (BLOB_INPUT_PATH), output (BLOB_OUTPUT_P"),
    (coded("AuthorizationFailure"), "refuses Mine (BLOB_CONNECTION): AuthorizationFailure. It ne"),
    (coded("AuthenticationFailed", ClientAuthenticationError), "refuses Mine (BLOB_CONNECTION): A"),
    (ClientAuthenticationError("h0st"), "refuses Mine (BLOB_CONNECTION): ClientAuthenticationErr"),
    (coded("ServerBusy"), "of Mine (BLOB_CONNECTION) answered ServerBusy; trying again."),
    (HttpResponseError("h0st"), "of Mine (BLOB_CONNECTION) answered HttpResponseError; trying"),
]


@pytest.mark.parametrize(("error", "part"), SENTENCES)
def test_errors_of_the_storage_are_sentences_that_name_the_setting(error: AzureError, part: str):
    """And never the error's own text, in which there may be a signature."""
    paths = blob_paths(Settings.from_environ({}))
    with pytest.raises(TriggerTrouble) as caught, translated("Mine", paths):
        raise error
    assert part in str(caught.value)
    assert "h0st" not in str(caught.value)


# --- what only containers keep --------------------------------------------------------------------


@on_a_loop
async def test_containers_keep_content_types_and_metadata(azurite: Azurite):
    """Of the document, and of the input although its tries are counted."""
    store = Blobs(azurite)
    async with opened(store) as place:
        store.put("a.json", b"x")
        with store._blob(store._input, "a.json") as blob:
            blob.set_blob_metadata({"owner": "somebody"})
        found = (await found_in(place))["a.json"]
        assert (found.content_type, found.content_encoding) == ("text/x-own", "identity")
        claim = await claimed(place, "a.json")
        assert (await found_in(place))["a.json"].held
        await claim.count(1)
        await claim.write(document_of(store, "a_out.json", b"x", claim.etag))
        await claim.release(done=True)
        with store._blob(store.output, "a_out.json") as blob:
            properties = blob.get_blob_properties()
        assert properties.content_settings.content_type == "application/json"
        assert properties.metadata == {"sourceetag": claim.etag, "status": "200"}
        with store._blob(store._input, "a.json") as blob:
            said = blob.get_blob_properties()
        assert said.etag == f'"{claim.etag}"'
        assert said.metadata == {"owner": "somebody", "scoringattempts": "1"}
        assert said.content_settings.content_type == "text/x-own"


@on_a_loop
async def test_a_count_that_is_none_counts_nothing(azurite: Azurite):
    store = Blobs(azurite)
    async with opened(store) as place:
        for count in ("", "many", "-1", "1.5"):
            store.put("a.json", b"x")
            with store._blob(store._input, "a.json") as blob:
                blob.set_blob_metadata({"scoringattempts": count})
            assert (await found_in(place))["a.json"].attempts == 0
