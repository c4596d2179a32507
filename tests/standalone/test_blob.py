"""The blob trigger of the standalone host as a process: on Azurite, and on local folders."""

from __future__ import annotations

import collections
import gzip
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import httpx
import joblib
import numpy as np
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobLeaseClient, BlobServiceClient, ContentSettings

from scoring_runtime.cli.main import main
from tests.conftest import WriteScript
from tests.hosts.azurite import KEY, Azurite
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

ROOT = Path(__file__).parents[2]
DIABETES = ROOT / "examples" / "diabetes"
EVERY_BYTE = bytes(range(256))
PATIENCE = 120.0
KINDS = ("folder", "container")
_numbers = itertools.count()

# run() notes each call in a file beside the script: the name of the blob, and what it held.
NOTING = """
import json, pathlib

def note(headers, data):
    name = {key.lower(): value for key, value in headers.items()}.get("x-blob-name", "")
    with pathlib.Path(__file__).with_name("calls").open("a") as calls:
        calls.write(json.dumps([name, str(data)]) + "\\n")

def noted():
    return len(pathlib.Path(__file__).with_name("calls").read_text().splitlines())

def init():
    pass
"""
TEXT = (
    NOTING
    + """
import time
from scoring_runtime import AMLResponse, InputError

def refuse():
    raise InputError("not this one")

def fail():
    raise ValueError("the details are for the log")

ANSWERS = {
    "refuse": refuse,
    "fail": fail,
}

def run(data, request_headers):
    note(request_headers, data)
    while data == "wait" and not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    if data.startswith("sleep "):
        time.sleep(float(data[6:]))
    if data == "slow at first" and noted() == 1:
        time.sleep(20)
    if data.startswith("status "):
        return AMLResponse("chosen: \\u00fc", int(data[7:]))
    return ANSWERS[data]() if data in ANSWERS else {"got": data}
"""
)
RAW = (
    NOTING
    + """
from scoring_runtime import AMLResponse, rawhttp

@rawhttp
def run(request):
    note(request.headers, "")
    body = request.get_data()
    if body == b"see":
        names = ("X-Blob-Name", "Content-Type")
        return [request.method, request.path, *(request.headers.get(each) for each in names)]
    return AMLResponse(body, 200, {"Content-Type": "application/octet-stream"})
"""
)
SCRIPTS = {"text": TEXT, "raw": RAW}


# --- places ---------------------------------------------------------------------------------------


class Site(Protocol):
    """Where a user drops inputs and finds documents; `x` becomes `x.out` or `x.error`."""

    @property
    def environ(self) -> dict[str, str]: ...

    def put(self, name: str, body: bytes, content_type: str = "", encoding: str = "") -> None: ...

    def document(self, name: str) -> bytes | None: ...

    def documents(self) -> set[str]: ...

    def delete_document(self, name: str) -> None: ...

    def held(self) -> list[str]:
        """What is claimed."""


class Folders:
    """A watched folder and a folder of documents; they keep no content types."""

    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir(parents=True)
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self.input),
            "BLOB_OUTPUT_FOLDER": str(self.output),
            "BLOB_INPUT_PATH": "input/{name}",
            "BLOB_OUTPUT_PATH": "output/{name}.out",
            "BLOB_ERROR_PATH": "output/{name}.error",
            "BLOB_POLL_SECONDS": "0.1",
        }

    def put(self, name: str, body: bytes, content_type: str = "", encoding: str = "") -> None:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def document(self, name: str) -> bytes | None:
        path = self.output / name
        return path.read_bytes() if path.exists() else None

    def documents(self) -> set[str]:
        files = {each for each in self.output.rglob("*") if each.is_file()}
        names = {each.relative_to(self.output).as_posix() for each in files}
        return {each for each in names if not each.startswith(".scoring/")}

    def delete_document(self, name: str) -> None:
        (self.output / name).unlink()

    def held(self) -> list[str]:
        return [each.name for each in (self.output / ".scoring").iterdir()]


class Containers:
    """Two containers of their own."""

    def __init__(self, service: BlobServiceClient, connection_string: str) -> None:
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
        }

    def put(
        self, name: str, body: bytes, content_type: str = "", encoding: str = "", **more: Any
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
        return [each.name for each in self.input.list_blobs() if each.lease.state != "available"]


@pytest.fixture(scope="module")
def service(azurite: Azurite) -> Iterator[BlobServiceClient]:
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        yield service


MakeSite = Callable[[str], Any]


@pytest.fixture(scope="module")
def make_site(
    azurite: Azurite, service: BlobServiceClient, tmp_path_factory: pytest.TempPathFactory
) -> MakeSite:
    def make(kind: str) -> Site:
        if kind == "folder":
            return Folders(tmp_path_factory.mktemp("site"))
        return Containers(service, azurite.connection_string)

    return make


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, make_site: MakeSite) -> Site:
    """For a host of its own."""
    made: Site = make_site(request.param)
    return made


def holds(site: Site, document: str, content: bytes | None) -> bool:
    return site.document(document) == content


def has_documents(site: Site, count: int) -> bool:
    return len(site.documents()) >= count


def calls(script: Path) -> list[list[str]]:
    """The names and contents that run() was called with, in order."""
    noted = script.with_name("calls")
    return [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []


# --- the table of outcomes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One input; what its only document is, and how often run() is called for it.

    Without `result`, and with it too, it is what HTTP answers to the same bytes.
    """

    script: str
    name: str
    body: bytes
    ending: str = "out"
    result: bytes | None = None
    runs: int = 1
    status: int = 200
    said: tuple[str, str] = ("", "")
    http: bool = True
    kinds: tuple[str, ...] = KINDS
    kept: str = field(default="application/json")
    """The content type of the document, where it keeps one."""


HTML = "text/html; charset=utf-8"
OCTETS = "application/octet-stream"
CHOSEN = "chosen: ü".encode()
REFUSED = b'{"message": "not this one"}'

CASES = [
    Case("text", "text.json", b"plain", result=b'{"got":"plain"}'),
    Case("text", "undecodable.json", b"\xff\xfe", "error", runs=0, status=400),
    Case("text", "refused.json", b"refuse", "error", REFUSED, status=400),
    Case("text", "fails.json", b"fail", "error", runs=2, status=500),
    Case("text", "503.json", b"status 503", "error", CHOSEN, runs=2, status=503, kept=HTML),
    Case(
        "text",
        "large.json",
        b"x" * 1001,
        "error",
        b'{"message": "The blob is larger than 1000 bytes (BLOB_MAX_BYTES)."}',
        runs=0,
        status=413,
        http=False,
    ),
    Case("text", "largest.json", b"x" * 1000, result=b'{"got":"%s"}' % (b"x" * 1000)),
    Case(
        "text",
        "gzip.json",
        gzip.compress(b"plain"),
        result=b'{"got":"plain"}',
        said=("application/json", "gzip"),
        kinds=("container",),
    ),
    Case(
        "text",
        "not-gzip.json",
        b"plain",
        "error",
        runs=0,
        status=400,
        said=("application/json", "gzip"),
        kinds=("container",),
    ),
    Case("raw", "bytes.bin", EVERY_BYTE, result=EVERY_BYTE, kept=OCTETS),
]
NAMES = [
    "sub/folder/a.json",
    "with space.json",
    "100%25 #1 & ?x=y + z;'.json",
    "grüße/漢字 😀.json",
    "e\u0301 is not é.json",
    "l" * 200 + ".json",
    "/".join(["d" * 90] * 10) + ".json",
]
SEEN = [
    Case(
        "raw",
        name,
        b"see",
        result=json.dumps(
            ["POST", "/score", f"INPUT/{quote(name)}", "application/json"], separators=(",", ":")
        ).encode(),
        http=False,
    )
    for name in NAMES
]


class Bench(NamedTuple):
    """A running host and its inputs; at most two tries, at most 1,000 bytes for text."""

    site: Any
    host: StandaloneHost
    script: Path

    def runs(self, name: str) -> int:
        """How often run() has been called for this input."""
        return [unquoted for unquoted, _ in calls(self.script)].count(self.header(name))

    def header(self, name: str) -> str:
        container = self.site.environ["BLOB_INPUT_PATH"].partition("/")[0]
        return quote(f"{container}/{name}")


def _cases(kind: str, script: str) -> list[Case]:
    return [each for each in [*CASES, *SEEN] if each.script == script and kind in each.kinds]


@pytest.fixture(scope="module")
def benches(
    make_site: MakeSite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Bench]]:
    """A host for each kind of place and script, which has got all inputs of the table."""
    made: dict[tuple[str, str], Bench] = {}
    with ExitStack() as stack:
        for kind, name in itertools.product(KINDS, SCRIPTS):
            script = tmp_path_factory.mktemp("bench") / "score.py"
            script.write_text(SCRIPTS[name], encoding="utf-8")
            site: Site = make_site(kind)
            limits = {"BLOB_MAX_ATTEMPTS": "2"}
            if name == "text":
                limits["BLOB_MAX_BYTES"] = "1000"
            host = StandaloneHost(script, environ={**site.environ, **limits})
            host.start()
            stack.callback(host.stop)
            made[kind, name] = Bench(site, host, script)
            for case in _cases(kind, name):
                site.put(case.name, case.body, *case.said)
        for (kind, name), bench in made.items():
            bench.host.wait_ready()
            wanted = len(_cases(kind, name))
            until(has_documents, bench.site, wanted)
        yield made


@pytest.mark.parametrize(
    ("kind", "case"),
    [pytest.param(k, c, id=f"{k} {c.script} {c.name}") for c in CASES for k in c.kinds],
)
def test_outcomes(benches: dict[tuple[str, str], Bench], kind: str, case: Case):
    """Each input has one document, with the bytes that HTTP answers, after so many runs."""
    bench = benches[kind, case.script]
    found = {each for each in bench.site.documents() if each.rpartition(".")[0] == case.name}
    assert found == {f"{case.name}.{case.ending}"}
    body = bench.site.document(found.pop())
    if case.result is not None:
        assert body == case.result
    if case.http:
        assert body == answer(bench.host, case)
    assert b"details" not in body
    assert bench.runs(case.name) == case.runs


def answer(host: StandaloneHost, case: Case) -> bytes:
    """What HTTP answers to the same input."""
    content_type = case.said[0] or (OCTETS if case.name.endswith(".bin") else "application/json")
    headers = {"content-type": content_type, "content-encoding": case.said[1]}
    given = {name: value for name, value in headers.items() if value}
    answered = httpx.post(f"{host.url}/score", content=case.body, headers=given, timeout=PATIENCE)
    assert answered.status_code == case.status
    return answered.content


@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda case: f"{case.script} {case.name}",
)
def test_a_documents_metadata_says_what_it_was_made_from(
    benches: dict[tuple[str, str], Bench], case: Case
):
    """`sourceetag` is the input's ETag, `status` what HTTP answers; the content type is kept."""
    site = benches["container", case.script].site
    properties = site.output.get_blob_client(f"{case.name}.{case.ending}").get_blob_properties()
    etag = site.input.get_blob_client(case.name).get_blob_properties().etag.strip('"')
    assert properties.content_settings.content_type == case.kept
    assert set(properties.metadata) == {"sourceetag", "status", "requestid"}
    assert properties.metadata["sourceetag"] == etag
    assert properties.metadata["status"] == str(case.status)
    assert len(properties.metadata["requestid"]) == 36


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SEEN, ids=lambda case: case.name[:20])
def test_names_reach_the_script_and_the_documents(
    benches: dict[tuple[str, str], Bench], kind: str, case: Case
):
    """run() sees a POST to /score with the quoted name in x-blob-name, whatever the name."""
    site = benches[kind, "raw"].site
    container = site.environ["BLOB_INPUT_PATH"].partition("/")[0].encode()
    assert case.result is not None
    assert site.document(f"{case.name}.out") == case.result.replace(b"INPUT", container, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_there_are_no_other_documents(
    benches: dict[tuple[str, str], Bench], kind: str, script: str
):
    bench = benches[kind, script]
    documents = {f"{case.name}.{case.ending}" for case in _cases(kind, script)}
    # Later tests add inputs below later/.
    assert {each for each in bench.site.documents() if not each.startswith("later/")} == documents
    assert bench.site.held() == []


# --- the user's story -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example's model."""
    folder = DIABETES / "model"
    if (folder / "sklearn_regression_model.pkl").exists():
        return folder
    folder = tmp_path_factory.mktemp("diabetes")
    command = [sys.executable, str(DIABETES / "train.py"), "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_users_story(
    diabetes: Path, service: BlobServiceClient, azurite: Azurite, tmp_path: Path
):
    """`sample_input.json` dropped into input is found as `sample_input_out.json` in output."""
    sample = b'{"data": [[1,2,3,4,5,6,7,8,9,10],[10,9,8,7,6,5,4,3,2,1]]}'
    model = ("--model-dir", str(diabetes))
    watch = ("--watch", str(tmp_path / "input"), "--output", str(tmp_path / "output"))
    environ = {"TriggerConnectionString": azurite.connection_string}
    service.create_container("input")
    script = DIABETES / "score.py"
    hosts = [
        StandaloneHost(script, *model, environ=environ, cwd=tmp_path),
        StandaloneHost(script, *model, *watch, cwd=tmp_path),
    ]
    with ExitStack() as stack:
        for host in hosts:
            host.start()
            stack.callback(host.stop)
        for host in hosts:
            host.wait_ready()
        service.get_blob_client("input", "sample_input.json").upload_blob(sample)
        until((tmp_path / "input").is_dir)
        (tmp_path / "input" / "sample_input.json").write_bytes(sample)
        written = tmp_path / "output" / "sample_input_out.json"
        until(written.exists)
        found = service.get_blob_client("output", "sample_input_out.json")
        until(found.exists)
        documents = [written.read_bytes(), found.download_blob().readall()]
        for host in hosts:
            documents.append(
                httpx.post(f"{host.url}/score", content=sample, timeout=PATIENCE).content
            )
            assert "Watching " in host.log
    assert len(set(documents)) == 1
    regression = joblib.load(diabetes / "sklearn_regression_model.pkl")
    rows = np.array(json.loads(sample)["data"])
    assert json.loads(documents[0]) == regression.predict(rows).tolist()


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_overwritten_input_is_scored_again_and_has_the_document_of_its_last_version(
    benches: dict[tuple[str, str], Bench], kind: str
):
    """From success to success, to an error, to another error and back: no stale document stays."""
    bench = benches[kind, "text"]
    out, error = "later/versions.json.out", "later/versions.json.error"
    versions: list[tuple[bytes, str, bytes]] = [
        (b"one", out, b'{"got":"one"}'),
        (b"two", out, b'{"got":"two"}'),
        (b"refuse", error, REFUSED),
        (b"status 404", error, CHOSEN),
        (b"three", out, b'{"got":"three"}'),
        (b"four", out, b'{"got":"four"}'),
    ]
    for body, document, content in versions:
        until(lambda: "versions.json" not in "".join(bench.site.held()))
        bench.site.put("later/versions.json", body)
        until(holds, bench.site, document, content)
        until(holds, bench.site, error if document == out else out, None)
    until(lambda: bench.runs("later/versions.json") == len(versions))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "document"), [(b"again", "later/again.json.out"), (b"refuse", "later/no.json.error")]
)
def test_a_document_deleted_by_hand_is_made_again(
    benches: dict[tuple[str, str], Bench], kind: str, body: bytes, document: str
):
    bench = benches[kind, "text"]
    name = document.rpartition(".")[0]
    bench.site.put(name, body)
    first = until(lambda: bench.site.document(document))
    until(lambda: name not in "".join(bench.site.held()))
    bench.site.delete_document(document)
    assert until(lambda: bench.site.document(document)) == first
    assert bench.runs(name) == 2


def test_the_container_of_documents_deleted_by_hand_is_made_again_with_all_of_them(
    make_site: MakeSite, write_script: WriteScript
):
    site = make_site("container")
    with StandaloneHost(write_script(TEXT), environ=site.environ) as host:
        site.put("a.json", b"one")
        until(holds, site, "a.json.out", b'{"got":"one"}')
        site.output.delete_container()
        until(holds, site, "a.json.out", b'{"got":"one"}')
        until(lambda: is_ready(host)[0])


def is_ready(host: StandaloneHost) -> tuple[bool, str]:
    """Whether it is, and what troubles the blob trigger."""
    answered = httpx.get(f"{host.url}/health/ready", timeout=PATIENCE)
    assert httpx.get(f"{host.url}/health/live", timeout=PATIENCE).status_code == 200
    return answered.status_code == 200, answered.json().get("troubles", {}).get("blob", "")


def test_a_restart_scores_nothing_twice(site: Site, write_script: WriteScript):
    """Results and errors are receipts; what came meanwhile is scored."""
    script = write_script(TEXT)
    environ = {**site.environ, "BLOB_MAX_ATTEMPTS": "1"}
    bodies = [b"%d" % number for number in range(10)] + [b"refuse", b"fail"]
    for number, body in enumerate(bodies):
        site.put(f"{number}.json", body)
    with StandaloneHost(script, environ=environ):
        until(lambda: len(site.documents()) == len(bodies))
    site.put("new.json", b"new")
    with StandaloneHost(script, environ=environ):
        until(lambda: site.document("new.json.out"))
        time.sleep(0.5)
    assert sorted(data for _, data in calls(script)) == sorted(
        each.decode() for each in [*bodies, b"new"]
    )
    assert len(site.documents()) == len(bodies) + 1
    assert site.held() == []


def test_a_document_that_a_killed_host_did_not_come_to_remove_goes_away(
    make_site: MakeSite, write_script: WriteScript
):
    """It was killed between writing the document of the new version and removing the old one."""
    script = write_script(TEXT)
    folder, container = make_site("folder"), make_site("container")
    for site in (folder, container):
        site.put("a.json", b"new version")
    (folder.output / ".scoring").mkdir(parents=True)
    for name in ("a.json.out", "a.json.error"):
        (folder.output / name).write_bytes(b"{}")
    moment = (folder.input / "a.json").stat().st_mtime_ns
    os.utime(folder.output / "a.json.out", ns=(moment, moment))
    etag = container.input.get_blob_client("a.json").get_blob_properties().etag.strip('"')
    container.output.create_container()
    container.output.upload_blob("a.json.out", b"{}", metadata={"sourceetag": etag})
    container.output.upload_blob("a.json.error", b"{}", metadata={"sourceetag": "old"})
    with (
        StandaloneHost(script, environ=folder.environ),
        StandaloneHost(script, environ=container.environ),
    ):
        until(holds, folder, "a.json.error", None)
        until(holds, container, "a.json.error", None)
    assert folder.documents() == container.documents() == {"a.json.out"}
    assert calls(script) == []


# --- listings and leases --------------------------------------------------------------------------


class Relay:
    """Hands on what comes to its port, and keeps the request lines."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sent: list[bytearray] = []
        self._open: list[socket.socket] = [self._listener]
        self.lines: list[str] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, target, lines in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._copy, args=(source, target, lines), daemon=True
                ).start()

    def _copy(self, source: socket.socket, target: socket.socket, lines: bool) -> None:
        try:
            while data := source.recv(65536):
                if lines:
                    self.lines += [
                        line.decode() for line in data.split(b"\r\n") if line.endswith(b" HTTP/1.1")
                    ]
                target.sendall(data)
        except OSError:
            pass


def test_a_poll_with_nothing_new_costs_two_listings(
    make_site: MakeSite, write_script: WriteScript, azurite: Azurite
):
    """However many inputs and documents there are: no request for a blob."""
    site = make_site("container")
    for number in range(30):
        site.put(f"{number}.json", b"refuse" if number % 3 == 0 else b"x")
    port = httpx.URL(azurite.blob_url).port
    assert port is not None
    with Relay(port) as relay:
        text = azurite.connection_string.replace(f":{port}/", f":{relay.port}/")
        environ = {**site.environ, "TriggerConnectionString": text, "BLOB_POLL_SECONDS": "0.1"}
        with StandaloneHost(write_script(TEXT), environ=environ) as host:
            until(lambda: len(site.documents()) == 30)
            # The last inputs are let go after their documents are there.
            until(lambda: not any("comp=lease" in line for line in relay.lines[-24:]))
            before = len(relay.lines)
            until(lambda: len(relay.lines) >= before + 12)
            lines = relay.lines[before : before + 12]
            assert is_ready(host) == (True, "")
    listed = [line.partition("/devstoreaccount1/")[2].partition("?")[0] for line in lines]
    assert all(line.startswith("GET ") and "comp=list" in line for line in lines)
    assert collections.Counter(listed) == {site.names[0]: 6, site.names[1]: 6}
    assert listed[:-1:2] == listed[2::2] + listed[:1]


def test_a_blob_that_is_too_large_is_not_downloaded(
    make_site: MakeSite, write_script: WriteScript, azurite: Azurite
):
    site = make_site("container")
    site.put("large.json", b"x" * 5000)
    port = httpx.URL(azurite.blob_url).port
    assert port is not None
    with Relay(port) as relay:
        text = azurite.connection_string.replace(f":{port}/", f":{relay.port}/")
        more = {"TriggerConnectionString": text, "BLOB_MAX_BYTES": "4999"}
        with StandaloneHost(write_script(TEXT), environ={**site.environ, **more}):
            assert b"4999 bytes (BLOB_MAX_BYTES)" in until(
                lambda: site.document("large.json.error")
            )
    assert [line for line in relay.lines if line.startswith("GET") and "large.json" in line] == []


def test_a_blob_that_somebody_has_leased_is_left_alone_until_it_is_free(
    benches: dict[tuple[str, str], Bench],
):
    bench = benches["container", "text"]
    bench.site.put("later/leased.json", b"one")
    until(lambda: bench.site.document("later/leased.json.out") == b'{"got":"one"}')
    blob = bench.site.input.get_blob_client("later/leased.json")
    until(lambda: blob.get_blob_properties().lease.state == "available")
    lease: BlobLeaseClient = blob.acquire_lease()
    bench.site.put("later/leased.json", b"two", lease=lease)
    bench.site.put("later/other.json", b"other")
    until(lambda: bench.site.document("later/other.json.out"))
    time.sleep(0.6)
    assert bench.runs("later/leased.json") == 1
    assert is_ready(bench.host) == (True, "")
    lease.release()
    until(lambda: bench.site.document("later/leased.json.out") == b'{"got":"two"}')
    assert bench.runs("later/leased.json") == 2


def test_a_blob_cannot_be_overwritten_while_it_is_scored(benches: dict[tuple[str, str], Bench]):
    """And can at once when it has its document."""
    bench = benches["container", "text"]
    bench.site.put("later/busy.json", b"wait")
    until(lambda: bench.runs("later/busy.json"))
    with pytest.raises(HttpResponseError, match="LeaseIdMissing"):
        bench.site.put("later/busy.json", b"other")
    with pytest.raises(HttpResponseError, match="LeaseIdMissing"):
        bench.site.input.delete_blob("later/busy.json")
    bench.script.with_name("go").touch()
    until(lambda: bench.site.document("later/busy.json.out") == b'{"got":"wait"}')
    until(lambda: "later/busy.json" not in bench.site.held())
    bench.site.put("later/busy.json", b"other")
    until(lambda: bench.site.document("later/busy.json.out") == b'{"got":"other"}')


# --- the end of a host ----------------------------------------------------------------------------


def test_a_host_that_is_told_to_stop_finishes_what_it_scores_and_lets_go(
    site: Site, write_script: WriteScript
):
    """What waits behind it is left untouched for the next host."""
    script = write_script(TEXT)
    environ = {**site.environ, "BLOB_MAX_CONCURRENT": "1"}
    site.put("a.json", b"wait")
    with StandaloneHost(script, environ=environ) as host:
        until(lambda: calls(script))
        site.put("b.json", b"next")
        time.sleep(0.3)
        host.process.terminate()
        script.with_name("go").touch()
        assert host.process.wait(PATIENCE) == 0
    assert site.document("a.json.out") == b'{"got":"wait"}'
    assert site.documents() == {"a.json.out"}
    assert site.held() == []
    with StandaloneHost(script, environ=environ):
        until(lambda: site.document("b.json.out"))
    assert [data for _, data in calls(script)] == ["wait", "next"]


def test_a_run_that_outlasts_the_shutdown_is_left_for_the_next_host(
    site: Site, write_script: WriteScript
):
    """The host ends in time, lets go of the input, and counts no failed try."""
    script = write_script(TEXT)
    environ = {**site.environ, "SCORING_SHUTDOWN_SECONDS": "1", "BLOB_MAX_ATTEMPTS": "1"}
    site.put("a.json", b"slow at first")
    with StandaloneHost(script, environ=environ) as host:
        until(lambda: calls(script))
        host.process.send_signal(signal.SIGTERM)
        host.process.wait(15)  # run() takes longer
    assert site.documents() == set()
    site.put("b.json", b"ready")
    with StandaloneHost(script, environ=environ):
        until(lambda: site.document("a.json.out") or site.document("a.json.error"))
    assert site.documents() == {"a.json.out", "b.json.out"}


def test_several_workers_score_all_inputs(site: Site, write_script: WriteScript):
    script = write_script(TEXT)
    for number in range(40):
        site.put(f"{number}.json", b"%d" % number)
    with StandaloneHost(script, environ={**site.environ, "WORKER_COUNT": "2"}) as host:
        until(lambda: len(site.documents()) == 40)
        assert host.stop() == 0
    for number in range(40):
        assert site.document(f"{number}.json.out") == b'{"got":"%d"}' % number
    assert {data for _, data in calls(script)} == {str(number) for number in range(40)}
    assert site.held() == []


# --- health ---------------------------------------------------------------------------------------


def test_a_missing_input_container_is_said_by_readiness_until_it_is_there(
    make_site: MakeSite, write_script: WriteScript, service: BlobServiceClient
):
    site = make_site("container")
    service.delete_container(site.names[0])
    with StandaloneHost(write_script(TEXT), environ=site.environ) as host:
        until(lambda: not is_ready(host)[0] and "does not exist" in is_ready(host)[1])
        _, trouble = is_ready(host)
        assert f"{site.names[0]} (BLOB_INPUT_PATH)" in trouble
        assert httpx.get(f"{host.url}/", timeout=PATIENCE).status_code == 200
        service.create_container(site.names[0])
        site.put("a.json", b"x")
        until(lambda: site.document("a.json.out") == b'{"got":"x"}')
        until(lambda: is_ready(host) == (True, ""))
        assert host.log.count("does not exist") == 1
        assert "The blob trigger works again." in host.log


@pytest.mark.parametrize(
    "key", [f"{KEY[:20]}AAAA{KEY[24:]}", "is not base64!"], ids=["wrong", "no key"]
)
def test_a_wrong_key_is_said_by_readiness_and_never_shown(
    make_site: MakeSite, write_script: WriteScript, key: str
):
    site = make_site("container")
    text = site.environ["TriggerConnectionString"].replace(KEY, key)
    environ = {**site.environ, "TriggerConnectionString": text, "AZUREML_LOG_LEVEL": "DEBUG"}
    with StandaloneHost(write_script(TEXT), environ=environ) as host:
        until(lambda: "BLOB_CONNECTION" in is_ready(host)[1])
        ready, trouble = is_ready(host)
        assert not ready
        assert "TriggerConnectionString (BLOB_CONNECTION)" in trouble
        assert key not in trouble
        time.sleep(0.3)
        host.stop()
        assert key not in host.log
        assert "Traceback" not in host.log
        assert "sig=" not in host.log


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where connections are taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_a_storage_that_does_not_answer_is_unready_from_the_start_and_holds_up_no_stop(
    write_script: WriteScript, deaf: int
):
    address = f"http://127.0.0.1:{deaf}/devstoreaccount1"
    text = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={address};"
    with StandaloneHost(write_script(TEXT), environ={"TriggerConnectionString": text}) as host:
        assert not is_ready(host)[0]
        assert (
            httpx.post(f"{host.url}/score", content=b"x", timeout=PATIENCE).content
            == b'{"got":"x"}'
        )
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(PATIENCE) == 0


def test_a_storage_that_is_away_is_unready_from_the_start(write_script: WriteScript):
    address = f"http://127.0.0.1:{free_port()}/devstoreaccount1"
    text = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={address};"
    with StandaloneHost(write_script(TEXT), environ={"TriggerConnectionString": text}) as host:
        assert not is_ready(host)[0]
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(PATIENCE) == 0


def test_without_the_http_trigger_there_is_health_and_no_score(
    make_site: MakeSite, write_script: WriteScript
):
    site = make_site("container")
    environ = {**site.environ, "SCORING_TRIGGERS": "blob"}
    with StandaloneHost(write_script(TEXT), environ=environ) as host:
        site.put("a.json", b"x")
        until(lambda: site.document("a.json.out"))
        assert httpx.post(f"{host.url}/score", content=b"x", timeout=PATIENCE).status_code == 404
        until(lambda: is_ready(host) == (True, ""))
        assert httpx.get(f"{host.url}/", timeout=PATIENCE).status_code == 200


def test_without_the_blob_trigger_nothing_is_watched(
    make_site: MakeSite, write_script: WriteScript
):
    site = make_site("folder")
    environ = {**site.environ, "SCORING_TRIGGERS": "http"}
    with StandaloneHost(write_script(TEXT), environ=environ) as host:
        site.put("a.json", b"x")
        assert httpx.post(f"{host.url}/score", content=b"x", timeout=PATIENCE).status_code == 200
        time.sleep(0.5)
        assert site.documents() == set()
        assert "Watching" not in host.log


def test_a_host_with_much_to_do_is_ready(site: Site, write_script: WriteScript):
    """Its first pass takes as long as that; nothing is wrong."""
    for number in range(40):
        site.put(f"{number:02}.json", b"sleep 0.7")
    environ = {**site.environ, "BLOB_MAX_CONCURRENT": "1"}
    with StandaloneHost(write_script(TEXT), environ=environ) as host:
        until(has_documents, site, 1)
        assert is_ready(host) == (True, "")
        assert len(site.documents()) < 40


# --- settings that stop the start -----------------------------------------------------------------

SECRET = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
STORAGE = f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={SECRET}"
BUS = f"Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=a;SharedAccessKey={SECRET}"
BAD_SETTINGS: list[tuple[dict[str, str], list[str]]] = [
    ({"SCORING_TRIGGERS": "blob"}, ["TriggerConnectionString is not set", "BLOB_CONNECTION"]),
    ({"TriggerConnectionString": SECRET}, ["TriggerConnectionString", "BLOB_CONNECTION"]),
    (
        {"TriggerConnectionString": BUS, "SCORING_TRIGGERS": "blob"},
        ["TriggerConnectionString", "BLOB_CONNECTION", "DefaultEndpointsProtocol="],
    ),
    ({"BLOB_OUTPUT_PATH": "input/{blobname}.json"}, ["BLOB_OUTPUT_PATH", "an input again"]),
    (
        {"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in/out"},
        ["BLOB_OUTPUT_FOLDER", "BLOB_INPUT_PATH", "inputs again"],
    ),
]


@pytest.mark.parametrize(("environ", "parts"), BAD_SETTINGS)
def test_a_bad_setting_stops_the_start_with_its_name_and_without_the_key(
    environ: dict[str, str],
    parts: list[str],
    write_script: WriteScript,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Exit code 3; the last line says it."""
    if not any("Connection" in name or name == "SCORING_TRIGGERS" for name in environ):
        monkeypatch.setenv("TriggerConnectionString", STORAGE)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    script = write_script("raise SystemExit('it is not even imported')")
    monkeypatch.chdir(script.parent)
    assert main(["serve", "--entry-script", str(script), "--port", str(free_port())]) == 3
    shown = capfd.readouterr()
    last = shown.err.strip().splitlines()[-1]
    assert [part for part in parts if part not in last] == []
    assert SECRET not in shown.out + shown.err
