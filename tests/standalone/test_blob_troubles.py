"""Trouble of the place and of one input, told apart: full disks, links, refusals of the storage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobLeaseClient, BlobServiceClient

from scoring_runtime.connections import named
from scoring_runtime.errors import InputTrouble, TriggerTrouble
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.container import Container
from scoring_runtime.standalone.files import claim_name
from scoring_runtime.standalone.folder import Folder
from scoring_runtime.standalone.place import Document
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

PATIENCE = 90.0
# Root may read and write everything; without these capabilities it is as everybody.
AS_EVERYBODY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
SCRIPT = """
import pathlib

CALLS = pathlib.Path(__file__).with_name("calls")

def init():
    pass

def run(data, request_headers):
    with CALLS.open("a") as calls:
        calls.write(request_headers["X-Blob-Name"].rpartition("/")[2] + "\\n")
    if data == "fail":
        raise ValueError("as asked")
    if data.startswith("fill "):
        with open(data[5:], "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
    return {"got": data}
"""


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def calls(script: Path) -> list[str]:
    """The last parts of the names of the blobs that run() was called for."""
    noted = script.with_name("calls")
    return noted.read_text().splitlines() if noted.exists() else []


def trouble(host: StandaloneHost) -> str:
    """What readiness says is wrong with the blob trigger; empty with 200."""
    answered = httpx.get(f"{host.url}/health/ready", timeout=30)
    said: str = answered.json().get("troubles", {}).get("blob", "")
    assert (answered.status_code == 200) == (not said)
    return said


# --- folders --------------------------------------------------------------------------------------


class Folders:
    """A watched folder and that of the documents."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        self.output.mkdir()
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self.input),
            "BLOB_OUTPUT_FOLDER": str(self.output),
            "BLOB_POLL_SECONDS": "0.1",
            "BLOB_MAX_ATTEMPTS": "2",
        }

    def put(self, name: str, text: str = "x") -> Path:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1e9, 1e9))  # complete since long
        return path

    def document(self, name: str) -> Any:
        path = self.output / name
        return json.loads(path.read_bytes()) if path.is_file() else None

    def place(self) -> Folder:
        settings = Settings.from_environ(self.environ)
        return Folder(settings, blob_paths(settings))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system of 1 MB at the folder; calling what it gives fills it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)

    def fill() -> None:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("when", ["before it is claimed", "while it is scored"])
def test_a_full_disk_is_said_and_delays_its_inputs(folders: Folders, script: Path, when: str):
    """It goes on by itself, and run() is called once for each."""
    with (
        small_disk(folders.output) as fill,
        StandaloneHost(script, environ=folders.environ) as host,
    ):
        until(lambda: not trouble(host))
        if when == "before it is claimed":
            fill()
            folders.put("a.json")
        else:
            folders.put("a.json", f"fill {folders.output / 'filler'}")
        said = until(lambda: trouble(host))
        assert "No space left on device" in said and "BLOB_OUTPUT_FOLDER" in said
        assert folders.document("a_out.json") is None
        (folders.output / "filler").unlink()
        until(lambda: folders.document("a_out.json"))
        until(lambda: not trouble(host))
        folders.put("b.json")
        until(lambda: folders.document("b_out.json"))
        assert calls(script) == ["a.json", "b.json"]
        assert host.log.count("No space left on device") == 1
        assert "a_error.json" not in os.listdir(folders.output)


def test_nothing_that_was_opened_stays_open_when_the_disk_is_full(folders: Folders):
    """And the input can be claimed as soon as there is space."""
    folders.put("a.json")
    place = folders.place()

    async def scenario(fill: Callable[[], None]) -> None:
        await place.open()
        [found] = [each async for each in place.inputs()]
        claim = await place.claim(found, ())
        assert claim is not None
        await claim.count(1)
        fill()
        before = os.listdir("/proc/self/fd")
        document = Document("output/a_out.json", bytes(8192), "", {}, False)
        for act in (
            place.open,
            lambda: claim.write(document),
            lambda: place.leave(found, document),
        ):
            with pytest.raises(TriggerTrouble, match="No space left"):
                await act()
        await claim.release(done=True)
        (folders.output / "more").write_bytes(b"")
        fill()
        with pytest.raises(TriggerTrouble, match="No space left"):
            await place.claim(found, ())
        assert len(os.listdir("/proc/self/fd")) == len(before) - 1
        assert os.listdir(folders.output / ".scoring") == []
        (folders.output / "filler").unlink()
        assert await place.claim(found, ()) is not None

    with small_disk(folders.output) as fill:
        asyncio.run(scenario(fill))


def test_a_claim_is_let_go_although_a_process_that_run_has_forked_has_it_open(folders: Folders):
    """Here another descriptor of the same open file, as a forked process has."""
    folders.put("a.json")

    async def scenario() -> None:
        place = folders.place()
        await place.open()
        [found] = [each async for each in place.inputs()]
        claim = await place.claim(found, ())
        assert claim is not None
        forked = os.dup(claim._descriptor)  # type: ignore[attr-defined]
        await claim.count(1)
        await claim.release(done=False)
        again = await place.claim(found, ())
        assert again is not None and again.attempts == 1
        os.close(forked)
        await again.release(done=True)

    asyncio.run(scenario())


def bad_output_is_a_folder(folders: Folders) -> None:
    folders.put("bad.json")
    (folders.output / "bad_out.json").mkdir()


def bad_both_documents_are_folders(folders: Folders) -> None:
    bad_output_is_a_folder(folders)
    (folders.output / "bad_error.json").mkdir()


def bad_output_below_a_file(folders: Folders) -> None:
    folders.put("sub/bad.json")
    (folders.output / "sub").write_text("no folder")


def bad_output_below_a_link(folders: Folders) -> None:
    folders.put("sub/bad.json")
    elsewhere = folders.input.parent / "elsewhere"
    elsewhere.mkdir()
    (folders.output / "sub").symlink_to(elsewhere)


def bad_claim_is_a_link(folders: Folders) -> None:
    folders.put("bad.json")
    (folders.output / ".scoring").mkdir()
    (folders.output / ".scoring" / claim_name("bad.json")).symlink_to(folders.put("b.txt"))


def bad_input_is_unreadable(folders: Folders) -> None:
    folders.put("bad.json").chmod(0)


def bad_names_are_too_long(folders: Folders) -> None:
    folders.put("l" * 250 + ".json")


FOLDER_TROUBLES = [
    (bad_output_is_a_folder, 1, "Is a directory", "bad_error.json"),
    (bad_both_documents_are_folders, 1, "Is a directory", None),
    (bad_output_below_a_file, 0, "Not a directory", None),
    (bad_output_below_a_link, 0, "Not a directory", None),
    (bad_claim_is_a_link, 0, "symbolic link", "bad_error.json"),
    (bad_input_is_unreadable, 0, "Permission denied", "bad_error.json"),
    (bad_names_are_too_long, 0, "File name too long", None),
]


@pytest.mark.parametrize(("prepare", "runs", "why", "document"), FOLDER_TROUBLES)
def test_the_trouble_of_one_file_is_its_own(
    folders: Folders,
    script: Path,
    prepare: Callable[[Folders], None],
    runs: int,
    why: str,
    document: str | None,
):
    """The others are scored, the host is ready, and the log names it once; run() is called once."""
    prepare(folders)
    for number in range(3):
        folders.put(f"{number}.json")
    host = StandaloneHost(script, environ=folders.environ)
    if os.geteuid() == 0:
        host._command = [*AS_EVERYBODY, *host._command]
    with host:
        until(lambda: all(folders.document(f"{number}_out.json") for number in range(3)))
        until(lambda: " is left" in host.log)
        time.sleep(0.5)
        assert trouble(host) == ""
        assert [each for each in calls(script) if not re.match("[0-2]", each)] == [
            "bad.json"
        ] * runs
        [line] = [each for each in host.log.splitlines() if " is left" in each]
        assert why in line
        # What is left is found by its log line, and scored when it is put there again.
        if document is not None:
            assert why in folders.document(document)["message"]
        if prepare is bad_output_is_a_folder:
            (folders.output / "bad_out.json").rmdir()
            os.utime(folders.input / "bad.json", (2e9, 2e9))
            until(lambda: folders.document("bad_out.json"))
            until(lambda: folders.document("bad_error.json") is None)
    assert list((folders.input.parent / "elsewhere").glob("**/*")) == []


# --- links and special files ----------------------------------------------------------------------


def test_a_file_that_is_no_input_by_its_name_is_said_with_the_setting(
    folders: Folders, script: Path
) -> None:
    """Once, however often the folder is looked through; the others are scored."""
    folders.put("notes.txt")
    folders.put("a.json")
    with StandaloneHost(script, environ=folders.environ) as host:
        until(lambda: folders.document("a_out.json"))
        folders.put("b.json")
        until(lambda: folders.document("b_out.json"))
    said = "notes.txt is not scored: BLOB_INPUT_PATH, which is input/{blobname}.json, says which "
    assert host.log.count(f"{said}files are inputs.") == 1


def test_links_and_special_files_are_no_inputs_and_named_once(folders: Folders, script: Path):
    """Whatever they lead to; the folder that is watched may be a link itself."""
    secret = folders.input.parent / "secret.json"
    secret.write_text("secret")
    folders.put("folder/b.json")
    links = {
        "secret.json": str(secret),
        "environ.json": "/proc/self/environ",
        "again.json": "folder/b.json",
        "nowhere.json": "not-there",
        "loop.json": "loop.json",
        "long.json": "l" * 4000,
        "up": "..",
        "line\nend.json": "/dev/zero",
    }
    for name, target in links.items():
        (folders.input / name).symlink_to(target)
    os.mkfifo(folders.input / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folders.input / "socket.json"))
    (folders.input.parent / "link").symlink_to(folders.input)
    environ = {**folders.environ, "BLOB_INPUT_FOLDER": str(folders.input.parent / "link")}
    with StandaloneHost(script, environ=environ) as host:
        folders.put("c.json")
        until(lambda: folders.document("c_out.json"))
        until(lambda: folders.document("folder/b_out.json"))
        folders.put("d.json")
        until(lambda: folders.document("d_out.json"))
        assert trouble(host) == ""
    assert sorted(calls(script)) == ["b.json", "c.json", "d.json"]
    said = [line.rpartition("/in/")[2] for line in host.log.splitlines() if "not scored" in line]
    followed = [line for line in said if line.endswith("is not scored: a link is not followed.")]
    special = [line for line in said if line.endswith("is not scored: it is no regular file.")]
    names = [line.partition(" is not")[0] for line in followed]
    assert {*names} >= {each for each in links if each.isprintable()}
    assert len(names) == len(links)
    assert {line.partition(" ")[0] for line in special} == {"pipe.json", "socket.json"}
    assert len(said) == len(links) + 2
    assert not any(line.startswith("end.json") for line in host.log.splitlines())


def becomes_a_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def becomes_a_pipe(path: Path, secret: Path) -> None:
    os.mkfifo(path)


def becomes_a_folder(path: Path, secret: Path) -> None:
    path.mkdir()


def is_reached_by_a_link(path: Path, secret: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(secret.parent)


@pytest.mark.parametrize(
    "change", [becomes_a_link, becomes_a_pipe, becomes_a_folder, is_reached_by_a_link]
)
def test_what_takes_the_place_of_an_input_after_it_was_listed_is_not_read(
    folders: Folders, change: Callable[[Path, Path], None]
):
    secret = folders.put("elsewhere/a.json", "secret")
    path = folders.put("sub/a.json", "x")

    async def scenario() -> None:
        place = folders.place()
        await place.open()
        found = {each.name: each async for each in place.inputs()}["sub/a.json"]
        claim = await place.claim(found, ())
        assert claim is not None
        path.unlink()
        change(path, secret)
        for act in (claim.read(), place.claim(found, ())):
            with contextlib.suppress(InputTrouble):
                assert await asyncio.wait_for(act, PATIENCE) is None
        await claim.release(done=True)

    asyncio.run(scenario())


def test_no_link_among_the_documents_is_followed_when_one_is_written(
    folders: Folders, script: Path
):
    """A link in a document's place is replaced, one in a half-written one's too."""
    target = folders.input.parent / "target"
    target.write_text("theirs")
    claims = folders.output / ".scoring"
    claims.mkdir()
    for link in (folders.output / "a_out.json", claims / f"{claim_name('a.json')}.tmp"):
        link.symlink_to(target)
    with StandaloneHost(script, environ=folders.environ):
        folders.put("a.json")
        until(lambda: not (folders.output / "a_out.json").is_symlink())
        assert folders.document("a_out.json") == {"got": "x"}
    assert target.read_text() == "theirs"


def test_claims_in_a_linked_folder_are_said_by_readiness_until_it_is_gone(
    folders: Folders, script: Path
):
    elsewhere = folders.input.parent / "elsewhere"
    elsewhere.mkdir()
    (folders.output / ".scoring").symlink_to(elsewhere)
    folders.put("a.json")
    with StandaloneHost(script, environ=folders.environ) as host:
        assert ".scoring" in until(lambda: trouble(host).partition("connecting")[0])
        assert os.listdir(elsewhere) == []
        (folders.output / ".scoring").unlink()
        until(lambda: folders.document("a_out.json"))
        until(lambda: not trouble(host))


def test_a_folder_that_cannot_be_listed_is_named_and_hides_no_other(folders: Folders, script: Path):
    folders.put("closed/a.json").parent.chmod(0)
    folders.put("b.json")
    host = StandaloneHost(script, environ=folders.environ)
    if os.geteuid() == 0:
        host._command = [*AS_EVERYBODY, *host._command]
    try:
        with host:
            until(lambda: folders.document("b_out.json"))
            assert trouble(host) == ""
            (folders.input / "closed").chmod(0o700)
            until(lambda: folders.document("closed/a_out.json"))
    finally:
        (folders.input / "closed").chmod(0o700)
    assert host.log.count("closed is not scored: it cannot be listed: Permission denied.") == 1


# --- containers -----------------------------------------------------------------------------------


class Refusing:
    """A proxy before Azurite that answers some requests as the storage service would.

    Azurite has no customer's keys and no immutability. Statuses and codes:
    https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
    """

    def __init__(self, azurite: Azurite) -> None:
        self._target = httpx.URL(azurite.blob_url)
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._listener.daemon_threads = True
        port = self._listener.server_port
        self.connection_string = azurite.connection_string.replace(
            f":{self._target.port}/", f":{port}/", 1
        )
        self.refusals: list[tuple[str, int, str]] = []
        """Regular expressions for ``METHOD path?query``, each with a status and a code."""
        self.copying = b""
        """The name of a blob that listings show as being copied."""
        self.asked: list[str] = []

    def __enter__(self) -> Refusing:
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def refusal(self, line: str) -> tuple[int, str] | None:
        """How a request is refused."""
        found = (each[1:] for each in self.refusals if re.fullmatch(each[0], line))
        return next(found, None)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Nothing."""

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                line = f"{self.command} {self.path.removeprefix('/devstoreaccount1/')}"
                proxy.asked.append(line)
                refusal = proxy.refusal(line)
                if refusal is None:
                    return self._hand_on(body)
                status, code = refusal
                text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                kept = {"x-ms-error-code": code, "content-type": "application/xml"}
                return self._send(status, kept, b"" if self.command == "HEAD" else text)

            do_GET = do_PUT = do_HEAD = do_DELETE = _answer

            def _hand_on(self, body: bytes) -> None:
                target = proxy._target
                client = HTTPConnection(target.host, target.port, timeout=60)
                client.request(self.command, self.path, body, dict(self.headers))
                answer = client.getresponse()
                content = answer.read()
                client.close()
                name = b"<Name>%s</Name><Properties>" % proxy.copying
                content = content.replace(name, name + b"<CopyStatus>pending</CopyStatus>")
                left_out = ("connection", "content-length", "transfer-encoding", "keep-alive")
                kept = {k: v for k, v in answer.getheaders() if k.lower() not in left_out}
                if self.command == "HEAD":
                    kept["content-length"] = answer.getheader("content-length") or "0"
                self._send(answer.status, kept, content)

            def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        return Handler


class Containers:
    """Two containers behind the proxy."""

    def __init__(self, azurite: Azurite, proxy: Refusing, name: str) -> None:
        self.proxy = proxy
        self.service = BlobServiceClient.from_connection_string(azurite.connection_string)
        self.input = self.service.create_container(f"{name}-in")
        self.output = self.service.create_container(f"{name}-out")
        self.environ = {
            "TriggerConnectionString": proxy.connection_string,
            "BLOB_INPUT_PATH": f"{name}-in/{{name}}",
            "BLOB_OUTPUT_PATH": f"{name}-out/{{name}}.out",
            "BLOB_ERROR_PATH": f"{name}-out/{{name}}.error",
            "BLOB_POLL_SECONDS": "0.2",
            "BLOB_LEASE_SECONDS": "15",
            "BLOB_MAX_ATTEMPTS": "2",
        }

    def put(self, name: str, text: str = "x", **metadata: str) -> None:
        self.input.upload_blob(name, text, overwrite=True, metadata=metadata)

    def document(self, name: str) -> Any:
        try:
            return json.loads(self.output.download_blob(name).readall())
        except ResourceNotFoundError:
            return None

    def documents(self) -> set[str]:
        return set(self.output.list_blob_names())


_numbers = iter(range(1000))


@pytest.fixture
def containers(azurite: Azurite) -> Iterator[Containers]:
    with Refusing(azurite) as proxy:
        made = Containers(azurite, proxy, f"troubles-{next(_numbers)}")
        with made.service:
            yield made


TO_LEASE, TO_READ = r"PUT \S+-in/{}\?comp=lease", r"GET \S+-in/{}"
TO_WRITE, TO_COUNT = r"PUT \S+-out/{}\.out", r"PUT \S+-in/{}\?comp=metadata"
REFUSALS = [
    (TO_LEASE, 409, "BlobArchived", 0),
    (TO_LEASE, 409, "PendingCopyOperation", 0),
    (TO_LEASE, 403, "AuthorizationPermissionMismatch", 0),
    (TO_READ, 409, "BlobArchived", 0),
    (TO_READ, 409, "BlobBeingRehydrated", 0),
    (TO_READ, 409, "BlobUsesCustomerSpecifiedEncryption", 0),
    (TO_READ, 400, "InvalidHeaderValue", 0),
    (TO_READ, 403, "AuthorizationPermissionMismatch", 0),
    (TO_WRITE, 409, "BlobImmutableDueToPolicy", 1),
    (TO_WRITE, 412, "LeaseIdMissing", 1),
    (TO_WRITE, 403, "UnauthorizedBlobOverwrite", 1),
]
# The SDK tries for half a minute.
SLOW_REFUSALS = [*REFUSALS, (TO_READ, 500, "InternalError", 0)]


@pytest.mark.parametrize(
    "refusals", [REFUSALS, pytest.param(SLOW_REFUSALS, marks=pytest.mark.long)]
)
def test_what_the_storage_refuses_for_one_blob_is_that_blobs_trouble(
    containers: Containers, script: Path, refusals: list[tuple[str, int, str, int]]
):
    """Many at once: each gets an error document that says why, and run() is called once at most."""
    names = {}
    for number, (what, status, code, runs) in enumerate(refusals):
        name = f"{number}-{code}"
        containers.proxy.refusals.append((what.format(name), status, code))
        containers.put(name)
        names[name] = (code, runs)
    for number in range(3):
        containers.put(f"good-{number}")
    with StandaloneHost(script, environ=containers.environ) as host:
        wanted = {f"good-{number}.out" for number in range(3)} | {f"{each}.error" for each in names}
        until(lambda: containers.documents() >= wanted)
        until(lambda: not trouble(host))
        containers.put("later")
        until(lambda: containers.document("later.out"))
        assert trouble(host) == ""
    assert containers.documents() == wanted | {"later.out"}
    called = calls(script)
    for name, (code, runs) in names.items():
        assert code in containers.document(f"{name}.error")["message"]
        assert called.count(name) == runs, name
        assert len([line for line in host.log.splitlines() if f"{name} is left" in line]) == 1
    leases = [each for each in containers.proxy.asked if "/2-" in each and "comp=lease" in each]
    assert len(leases) == 2
    assert host.log.count("cannot be reached") == 0


def test_a_refused_blob_is_tried_again_when_it_is_new(containers: Containers, script: Path):
    """And when its error document is removed."""
    containers.proxy.refusals = [(TO_READ.format(".*"), 409, "BlobArchived")]
    containers.put("a")
    containers.put("b")
    with StandaloneHost(script, environ=containers.environ):
        until(lambda: {"a.error", "b.error"} <= containers.documents())
        containers.proxy.refusals = []
        containers.put("a", "new")
        containers.output.delete_blob("b.error")
        until(lambda: containers.documents() == {"a.out", "b.out"})
    assert containers.document("a.out") == {"got": "new"}


def test_nothing_can_be_written_for_a_name_that_is_too_long(containers: Containers, script: Path):
    """The input has 1,022 characters, its documents would have 1,026 and 1,028."""
    containers.put("l" * 1022)
    containers.put("m" * 1020)
    with StandaloneHost(script, environ=containers.environ) as host:
        until(lambda: containers.document("m" * 1020 + ".out"))
        until(lambda: "is left until it changes" in host.log)
        assert trouble(host) == ""
    assert "1026 characters" in host.log
    assert calls(script) == ["m" * 1020]
    assert containers.documents() == {"m" * 1020 + ".out"}


def test_an_archived_blob_is_scored_when_it_is_rehydrated(containers: Containers, script: Path):
    """Which changes neither its etag nor its time."""
    containers.put("a")
    blob = containers.input.get_blob_client("a")
    blob.set_standard_blob_tier("Archive")
    etag = blob.get_blob_properties().etag
    with StandaloneHost(script, environ=containers.environ) as host:
        message = until(lambda: containers.document("a.error"))["message"]
        assert "BlobArchived" in message
        assert trouble(host) == ""
        blob.set_standard_blob_tier("Hot")
        assert blob.get_blob_properties().etag == etag
        until(lambda: containers.documents() == {"a.out"})
        time.sleep(1)
    assert containers.documents() == {"a.out"}
    assert calls(script) == ["a"]


def test_folders_of_a_hierarchical_namespace_and_blobs_still_copied_are_no_inputs(
    containers: Containers, script: Path
):
    containers.put("folder", "", hdi_isfolder="true")
    containers.put("folder/a", hdi_isfolder="false")
    containers.put("copied")
    containers.proxy.copying = b"copied"
    with StandaloneHost(script, environ=containers.environ) as host:
        until(lambda: containers.document("folder/a.out"))
        time.sleep(1)
        assert containers.documents() == {"folder/a.out"}
        assert trouble(host) == ""
        containers.proxy.copying = b""
        until(lambda: containers.document("copied.out"))
    assert sorted(calls(script)) == ["a", "copied"]


@pytest.mark.long
def test_an_output_that_is_leased_by_somebody_else_is_written_when_it_is_free(
    containers: Containers, script: Path
):
    """With enough tries run() is called once."""
    containers.output.upload_blob("a.out", b"theirs")
    lease: BlobLeaseClient = containers.output.get_blob_client("a.out").acquire_lease()
    containers.put("a")
    environ = {**containers.environ, "BLOB_MAX_ATTEMPTS": "50"}
    with StandaloneHost(script, environ=environ) as host:
        until(lambda: calls(script))
        until(lambda: len([line for line in containers.proxy.asked if "/a.out" in line]) > 3)
        assert trouble(host) == ""
        lease.release()
        out = containers.output.get_blob_client("a.out")
        until(lambda: out.download_blob().readall() == b'{"got":"x"}')
    assert calls(script) == ["a"]


def test_tries_that_cannot_be_noted_are_counted_all_the_same(containers: Containers, script: Path):
    """The metadata of an immutable blob cannot be changed: run() must not be called for ever."""
    containers.proxy.refusals = [(TO_COUNT.format("a"), 409, "BlobImmutableDueToPolicy")]
    containers.put("a", "fail")
    environ = {**containers.environ, "BLOB_MAX_ATTEMPTS": "3"}
    with StandaloneHost(script, environ=environ) as host:
        message = until(lambda: containers.document("a.error"))["message"]
        assert trouble(host) == ""
        time.sleep(1)
    assert "scoring script" in message
    assert calls(script) == ["a"] * 3


def test_a_stale_document_that_cannot_be_removed_stops_nothing(
    containers: Containers, script: Path
):
    containers.proxy.refusals = [(r"DELETE \S+/a.error", 409, "BlobImmutableDueToPolicy")]
    containers.output.upload_blob("a.error", b"{}", metadata={"sourceetag": "of an earlier one"})
    containers.put("a")
    with StandaloneHost(script, environ=containers.environ) as host:
        until(lambda: containers.document("a.out"))
        until(lambda: "a.error cannot be used: BlobImmutableDueToPolicy" in host.log)
        containers.put("b")
        until(lambda: containers.document("b.out"))
        time.sleep(1)
        assert trouble(host) == ""
    assert host.log.count("BlobImmutableDueToPolicy") == 1
    assert calls(script) == ["a", "b"]


AWAY = [
    (r"PUT \S+-out/\S+", 403, "AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
    (r"PUT \S+comp=lease", 403, "AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
    (r"PUT \S+-out/\S+", 503, "ServerBusy", "answered ServerBusy"),
    (r".*", 403, "AuthenticationFailed", "AuthenticationFailed"),
    (r".*", 403, "AccountIsDisabled", "AccountIsDisabled"),
]


@pytest.mark.parametrize(
    ("what", "status", "code", "said"),
    [AWAY[0], *(pytest.param(*each, marks=pytest.mark.long) for each in AWAY[1:])],
)
def test_what_the_storage_refuses_for_all_is_said_and_delays_without_scoring_again(
    containers: Containers, script: Path, what: str, status: int, code: str, said: str
):
    """One input is enough to tell: the same is asked for a blob that is not there."""
    with StandaloneHost(script, environ=containers.environ) as host:
        until(lambda: not trouble(host))
        containers.proxy.refusals = [(what, status, code)]
        for number in range(3):
            containers.put(f"{number}")
        text = until(lambda: trouble(host))
        assert said in text and "TriggerConnectionString (BLOB_CONNECTION)" in text
        time.sleep(3)  # longer than it takes to give up an input
        assert trouble(host) == text
        containers.proxy.refusals = []
        until(lambda: containers.documents() == {f"{number}.out" for number in range(3)})
        until(lambda: not trouble(host))
    assert sorted(calls(script)) == ["0", "1", "2"]
    assert " is left" not in host.log


def test_a_lease_that_cannot_be_renewed_costs_no_other_its_own(azurite: Azurite):
    """One renewal that never ends, and one that fails in a way of its own."""

    class Renewed:
        def __init__(self, fails: Callable[[], Any]) -> None:
            self.times, self.renewed, self._fails = 0, 0.0, fails

        async def renew(self) -> None:
            self.times += 1
            await self._fails()

    async def never() -> None:
        await asyncio.Event().wait()

    async def wrong() -> None:
        raise RuntimeError("session is closed")

    async def right() -> None:
        """Renewed."""

    async def scenario() -> None:
        settings = Settings.from_environ(
            {"TriggerConnectionString": azurite.connection_string, "BLOB_LEASE_SECONDS": "15"}
        )
        place = Container(settings, blob_paths(settings), named.blob(settings))
        place._lease_seconds = 1
        await place.open()
        claims = [Renewed(each) for each in (never, wrong, right)]
        place.held.update(claims)  # type: ignore[arg-type]
        end = time.monotonic() + PATIENCE
        while min(each.times for each in claims) < 3:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        await place.close()

    asyncio.run(scenario())
