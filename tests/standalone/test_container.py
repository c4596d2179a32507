"""What is special to containers: what the storage refuses, for one blob or for all."""

from __future__ import annotations

import asyncio
import collections
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.storage.blob import BlobLeaseClient, BlobServiceClient

from scoring_runtime.connections import named
from scoring_runtime.settings.settings import Settings
from scoring_runtime.standalone.container import Container
from scoring_runtime.triggers.blob_paths import blob_paths
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.sites import Containers, message, trouble
from tests.hosts.waiting import until

PATIENCE = 90.0
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
    return {"got": data}
"""


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def calls(script: Path) -> list[str]:
    """The last parts of the names of the blobs that run() was called for."""
    noted = script.with_name("calls")
    return noted.read_text().splitlines() if noted.exists() else []


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


class Behind(Containers):
    """Two containers behind the proxy; at most two tries."""

    def __init__(self, service: BlobServiceClient, proxy: Refusing) -> None:
        super().__init__(service, proxy.connection_string, BLOB_MAX_ATTEMPTS="2")
        self.proxy = proxy
        self.output.create_container()


@pytest.fixture
def containers(azurite: Azurite) -> Iterator[Behind]:
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    with Refusing(azurite) as proxy, service:
        yield Behind(service, proxy)


def test_a_poll_with_nothing_new_costs_two_listings(containers: Behind, script: Path):
    """However many there are: no request for a blob, and none for one that is too large."""
    for number in range(30):
        containers.put(f"{number}", b"fail" if number % 3 == 0 else b"x")
    containers.put("large", b"x" * 5000)
    with containers.host(script, BLOB_MAX_BYTES="4999", BLOB_POLL_SECONDS="0.1") as host:
        asked = containers.proxy.asked
        until(lambda: len(containers.documents()) == 31)
        # The last inputs are let go after their documents are there.
        until(lambda: not any("comp=lease" in line for line in asked[-24:]))
        before = len(asked)
        until(lambda: len(asked) >= before + 12)
        lines = asked[before : before + 12]
        assert trouble(host) == ""
    assert all(line.startswith("GET ") and "comp=list" in line for line in lines)
    listed = [line.split()[1].partition("?")[0] for line in lines]
    assert collections.Counter(listed) == {containers.names[0]: 6, containers.names[1]: 6}
    assert listed[:-1:2] == listed[2::2] + listed[:1]
    assert "4999 bytes (BLOB_MAX_BYTES)" in message(containers.document("large.error"))
    assert [line for line in asked if line.startswith("GET") and "/large" in line] == []


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
    containers: Behind, script: Path, refusals: list[tuple[str, int, str, int]]
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
    with containers.host(script) as host:
        wanted = {f"good-{number}.out" for number in range(3)} | {f"{each}.error" for each in names}
        until(lambda: containers.documents() >= wanted)
        until(lambda: not trouble(host))
        containers.put("later")
        until(lambda: containers.document("later.out"))
        assert trouble(host) == ""
    assert containers.documents() == wanted | {"later.out"}
    called = calls(script)
    for name, (code, runs) in names.items():
        assert code in message(containers.document(f"{name}.error"))
        assert called.count(name) == runs, name
        assert len([line for line in host.log.splitlines() if f"{name} is left" in line]) == 1
    leases = [each for each in containers.proxy.asked if "/2-" in each and "comp=lease" in each]
    assert len(leases) == 2
    assert host.log.count("cannot be reached") == 0


def test_a_refused_blob_is_tried_again_when_it_is_new(containers: Behind, script: Path):
    """And when its error document is removed."""
    containers.proxy.refusals = [(TO_READ.format(".*"), 409, "BlobArchived")]
    containers.put("a")
    containers.put("b")
    with containers.host(script):
        until(lambda: {"a.error", "b.error"} <= containers.documents())
        containers.proxy.refusals = []
        containers.put("a", b"new")
        containers.output.delete_blob("b.error")
        until(lambda: containers.documents() == {"a.out", "b.out"})
    assert containers.document("a.out") == b'{"got":"new"}'


def test_nothing_can_be_written_for_a_name_that_is_too_long(containers: Behind, script: Path):
    """The input has 1,022 characters, its documents would have 1,026 and 1,028."""
    containers.put("l" * 1022)
    containers.put("m" * 1020)
    with containers.host(script) as host:
        until(lambda: containers.document("m" * 1020 + ".out"))
        until(lambda: "is left until it changes" in host.log)
        assert trouble(host) == ""
    assert "1026 characters" in host.log
    assert calls(script) == ["m" * 1020]
    assert containers.documents() == {"m" * 1020 + ".out"}


def test_an_archived_blob_is_scored_when_it_is_rehydrated(containers: Behind, script: Path):
    """Which changes neither its etag nor its time."""
    containers.put("a")
    blob = containers.input.get_blob_client("a")
    blob.set_standard_blob_tier("Archive")
    etag = blob.get_blob_properties().etag
    with containers.host(script) as host:
        said = message(until(lambda: containers.document("a.error")))
        assert "BlobArchived" in said
        assert trouble(host) == ""
        blob.set_standard_blob_tier("Hot")
        assert blob.get_blob_properties().etag == etag
        until(lambda: containers.documents() == {"a.out"})
        time.sleep(1)
    assert containers.documents() == {"a.out"}
    assert calls(script) == ["a"]


def test_folders_of_a_hierarchical_namespace_and_blobs_still_copied_are_no_inputs(
    containers: Behind, script: Path
):
    containers.put("folder", b"", metadata={"hdi_isfolder": "true"})
    containers.put("folder/a", metadata={"hdi_isfolder": "false"})
    containers.put("copied")
    containers.proxy.copying = b"copied"
    with containers.host(script) as host:
        until(lambda: containers.document("folder/a.out"))
        time.sleep(1)
        assert containers.documents() == {"folder/a.out"}
        assert trouble(host) == ""
        containers.proxy.copying = b""
        until(lambda: containers.document("copied.out"))
    assert sorted(calls(script)) == ["a", "copied"]


@pytest.mark.long
def test_an_output_that_is_leased_by_somebody_else_is_written_when_it_is_free(
    containers: Behind, script: Path
):
    """With enough tries run() is called once."""
    containers.output.upload_blob("a.out", b"theirs")
    lease: BlobLeaseClient = containers.output.get_blob_client("a.out").acquire_lease()
    containers.put("a")
    with containers.host(script, BLOB_MAX_ATTEMPTS="50") as host:
        until(lambda: calls(script))
        until(lambda: len([line for line in containers.proxy.asked if "/a.out" in line]) > 3)
        assert trouble(host) == ""
        lease.release()
        out = containers.output.get_blob_client("a.out")
        until(lambda: out.download_blob().readall() == b'{"got":"x"}')
    assert calls(script) == ["a"]


def test_tries_that_cannot_be_noted_are_counted_all_the_same(containers: Behind, script: Path):
    """The metadata of an immutable blob cannot be changed: run() must not be called for ever."""
    containers.proxy.refusals = [(TO_COUNT.format("a"), 409, "BlobImmutableDueToPolicy")]
    containers.put("a", b"fail")
    with containers.host(script, BLOB_MAX_ATTEMPTS="3") as host:
        said = message(until(lambda: containers.document("a.error")))
        assert trouble(host) == ""
        time.sleep(1)
    assert "scoring script" in said
    assert calls(script) == ["a"] * 3


def test_a_stale_document_that_cannot_be_removed_stops_nothing(containers: Behind, script: Path):
    containers.proxy.refusals = [(r"DELETE \S+/a.error", 409, "BlobImmutableDueToPolicy")]
    containers.output.upload_blob("a.error", b"{}", metadata={"sourceetag": "of an earlier one"})
    containers.put("a")
    with containers.host(script) as host:
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
    containers: Behind, script: Path, what: str, status: int, code: str, said: str
):
    """One input is enough to tell: the same is asked for a blob that is not there."""
    with containers.host(script) as host:
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
