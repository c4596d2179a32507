"""The blob trigger of the standalone host as a process: on Azurite, and on local folders."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobLeaseClient, BlobServiceClient

from tests.conftest import WriteScript
from tests.hosts.azurite import KEY, Azurite
from tests.hosts.sites import Containers, Folders, Site, calls, message, trouble
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

PATIENCE = 120.0
KINDS = ("folder", "container")
FOLDER_PATHS = {
    "BLOB_INPUT_PATH": "input/{name}",
    "BLOB_OUTPUT_PATH": "output/{name}.out",
    "BLOB_ERROR_PATH": "output/{name}.error",
}

# run() notes each call in a file beside the script: the name of the blob, and what it held.
SCRIPT = """
import json, pathlib, time
from scoring_runtime import AMLResponse, InputError

CALLS = pathlib.Path(__file__).with_name("calls")

def init():
    pass

def run(data, request_headers):
    with CALLS.open("a") as calls:
        calls.write(json.dumps([request_headers["X-Blob-Name"], data]) + "\\n")
    while data == "wait" and not CALLS.with_name("go").exists():
        time.sleep(0.01)
    if data.startswith("sleep "):
        time.sleep(float(data[6:]))
    if data == "slow at first" and len(CALLS.read_text().splitlines()) == 1:
        time.sleep(20)
    if data.startswith("status "):
        return AMLResponse("chosen: \\u00fc", int(data[7:]))
    if data == "refuse":
        raise InputError("not this one")
    if data == "fail":
        raise ValueError("the details are for the log")
    if data == "see":
        return [request_headers[each] for each in ("X-Blob-Name", "Content-Type")]
    return {"got": data}
"""


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
            return Folders(tmp_path_factory.mktemp("site"), **FOLDER_PATHS)
        return Containers(service, azurite.connection_string)

    return make


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, make_site: MakeSite) -> Any:
    """For a host of its own."""
    return make_site(request.param)


@pytest.fixture
def script(write_script: WriteScript) -> Path:
    return write_script(SCRIPT)


def said(site: Site, document: str) -> bytes | None:
    """A document; of an error in a folder, which says more, what HTTP answers."""
    body = site.document(document)
    told = isinstance(site, Folders) and body is not None and b'"request_id"' in body
    return json.dumps({"message": message(body)}).encode() if told else body


def holds(site: Site, document: str, content: bytes | None) -> bool:
    return said(site, document) == content


def has_documents(site: Site, count: int) -> bool:
    return len(site.documents()) >= count


# --- outcomes that tests/triggers/test_parity.py has not ------------------------------------------


@dataclass(frozen=True)
class Case:
    """One input; what its only document is, and how often run() is called for it."""

    name: str
    body: bytes
    result: bytes
    ending: str = "out"
    runs: int = 1
    status: int = 200
    encoding: str = ""
    kept: str = "application/json"
    """The content type of the document, where it keeps one."""


CHOSEN = "chosen: ü".encode()
HTML = "text/html; charset=utf-8"
REFUSED = b'{"message": "not this one"}'
FAILED = b"An unexpected error occurred in scoring script. Check the logs for more info."
LARGE = b'{"message": "The blob is larger than 1000 bytes (BLOB_MAX_BYTES)."}'
CASES = [
    Case("largest.json", b"x" * 1000, b'{"got":"%s"}' % (b"x" * 1000)),
    Case("large.json", b"x" * 1001, LARGE, "error", 0, 413),
    Case("refused.json", b"refuse", REFUSED, "error", 1, 400),
    Case("fails.json", b"fail", b'{"message": "%b"}' % FAILED, "error", 2, 500),
    Case("503.json", b"status 503", CHOSEN, "error", 2, 503, kept=HTML),
    Case("gzip.json", gzip.compress(b"plain"), b'{"got":"plain"}', encoding="gzip"),
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


class Bench(NamedTuple):
    """A running host and its inputs; at most two tries, at most 1,000 bytes."""

    site: Any
    host: StandaloneHost
    script: Path

    def runs(self, name: str) -> int:
        """How often run() has been called for this input."""
        return [called for called, _ in calls(self.script)].count(self.header(name))

    def header(self, name: str) -> str:
        container = self.site.environ["BLOB_INPUT_PATH"].partition("/")[0]
        return quote(f"{container}/{name}")


def cases_of(kind: str) -> list[Case]:
    """A folder keeps no encoding."""
    return [case for case in CASES if kind == "container" or not case.encoding]


@pytest.fixture(scope="module")
def benches(
    make_site: MakeSite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Bench]]:
    """A host for each kind of place, which has got all inputs of the table."""
    made: dict[str, Bench] = {}
    with ExitStack() as stack:
        for kind in KINDS:
            script = tmp_path_factory.mktemp("bench") / "score.py"
            script.write_text(SCRIPT, encoding="utf-8")
            site: Site = make_site(kind)
            host = site.host(script, BLOB_MAX_ATTEMPTS="2", BLOB_MAX_BYTES="1000")
            host.start()
            stack.callback(host.stop)
            made[kind] = Bench(site, host, script)
            for case in cases_of(kind):
                site.put(case.name, case.body, "application/json", case.encoding)
            for name in NAMES:
                site.put(name, b"see")
        for kind, bench in made.items():
            bench.host.wait_ready()
            until(has_documents, bench.site, len(cases_of(kind)) + len(NAMES))
        yield made


@pytest.mark.parametrize(
    ("kind", "case"),
    [pytest.param(kind, c, id=f"{kind} {c.name}") for kind in KINDS for c in cases_of(kind)],
)
def test_outcomes(benches: dict[str, Bench], kind: str, case: Case):
    """Each input has one document, after so many runs, and a blob says what it was made from."""
    bench = benches[kind]
    document = f"{case.name}.{case.ending}"
    found = {each for each in bench.site.documents() if each.rpartition(".")[0] == case.name}
    assert found == {document}
    assert said(bench.site, document) == case.result
    assert bench.runs(case.name) == case.runs
    if kind == "container":
        properties = bench.site.output.get_blob_client(document).get_blob_properties()
        etag = bench.site.input.get_blob_client(case.name).get_blob_properties().etag.strip('"')
        assert properties.content_settings.content_type == case.kept
        metadata = properties.metadata
        assert len(metadata.pop("requestid")) == 36
        model = metadata.pop("x_model_name", ""), metadata.pop("x_model_version", "")
        assert model in [("model", "1")] + [("", "")] * (not case.runs)
        assert metadata == {"sourceetag": etag, "status": str(case.status)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_names_reach_the_script_and_the_documents(benches: dict[str, Bench], kind: str, name: str):
    """run() sees the quoted name in x-blob-name, whatever the name."""
    bench = benches[kind]
    body = bench.site.document(f"{name}.out")
    assert body is not None
    assert json.loads(body) == [bench.header(name), "application/json"]


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_overwritten_input_is_scored_again_and_has_the_document_of_its_last_version(
    benches: dict[str, Bench], kind: str
):
    """From success to success, to an error, to another error and back: no stale document stays."""
    bench = benches[kind]
    out, error = "later/versions.json.out", "later/versions.json.error"
    versions: list[tuple[bytes, str, bytes]] = [
        (b"one", out, b'{"got":"one"}'),
        (b"two", out, b'{"got":"two"}'),
        (b"refuse", error, REFUSED),
        (b"status 404", error, CHOSEN),
        (b"three", out, b'{"got":"three"}'),
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
    benches: dict[str, Bench], kind: str, body: bytes, document: str
):
    bench = benches[kind]
    name = document.rpartition(".")[0]
    bench.site.put(name, body)
    first = until(said, bench.site, document)
    until(lambda: name not in "".join(bench.site.held()))
    bench.site.delete_document(document)
    assert until(said, bench.site, document) == first
    assert bench.runs(name) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_whose_error_document_is_deleted_has_all_its_tries_again(
    benches: dict[str, Bench], kind: str
):
    """Two, as at first."""
    bench = benches[kind]
    bench.site.put("again.json", b"fail")
    for runs in (2, 4):
        until(lambda: bench.site.document("again.json.error"))
        assert bench.runs("again.json") == runs
        bench.site.delete_document("again.json.error")
    until(lambda: bench.site.document("again.json.error"))


def test_the_container_of_documents_deleted_by_hand_is_made_again_with_all_of_them(
    make_site: MakeSite, script: Path
):
    site = make_site("container")
    with site.host(script) as host:
        site.put("a.json", b"one")
        until(holds, site, "a.json.out", b'{"got":"one"}')
        site.output.delete_container()
        until(holds, site, "a.json.out", b'{"got":"one"}')
        until(lambda: not trouble(host))


def test_a_restart_scores_nothing_twice(site: Site, script: Path):
    """Results and errors are receipts; what came meanwhile is scored."""
    bodies = [b"%d" % number for number in range(10)] + [b"refuse", b"fail"]
    for number, body in enumerate(bodies):
        site.put(f"{number}.json", body)
    with site.host(script, BLOB_MAX_ATTEMPTS="1"):
        until(lambda: len(site.documents()) == len(bodies))
    site.put("new.json", b"new")
    with site.host(script, BLOB_MAX_ATTEMPTS="1"):
        until(lambda: site.document("new.json.out"))
        time.sleep(0.5)
    assert sorted(data for _, data in calls(script)) == sorted(
        each.decode() for each in [*bodies, b"new"]
    )
    assert len(site.documents()) == len(bodies) + 1
    assert site.held() == []


def test_a_document_that_a_killed_host_did_not_come_to_remove_goes_away(
    make_site: MakeSite, script: Path
):
    """It was killed between writing the document of the new version and removing the old one."""
    folder, container = make_site("folder"), make_site("container")
    for site in (folder, container):
        site.put("a.json", b"new version")
    folder.claims.mkdir(parents=True)
    for name in ("a.json.out", "a.json.error"):
        (folder.output / name).write_bytes(b"{}")
    moment = (folder.input / "a.json").stat().st_mtime_ns
    os.utime(folder.output / "a.json.out", ns=(moment, moment))
    etag = container.input.get_blob_client("a.json").get_blob_properties().etag.strip('"')
    container.output.create_container()
    container.output.upload_blob("a.json.out", b"{}", metadata={"sourceetag": etag})
    container.output.upload_blob("a.json.error", b"{}", metadata={"sourceetag": "old"})
    with folder.host(script), container.host(script):
        until(holds, folder, "a.json.error", None)
        until(holds, container, "a.json.error", None)
    assert folder.documents() == container.documents() == {"a.json.out"}
    assert calls(script) == []


# --- leases ---------------------------------------------------------------------------------------


def test_a_blob_that_somebody_has_leased_is_left_alone_until_it_is_free(benches: dict[str, Bench]):
    bench = benches["container"]
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
    assert trouble(bench.host) == ""
    lease.release()
    until(lambda: bench.site.document("later/leased.json.out") == b'{"got":"two"}')
    assert bench.runs("later/leased.json") == 2


def test_a_blob_cannot_be_overwritten_while_it_is_scored(benches: dict[str, Bench]):
    """And can at once when it has its document."""
    bench = benches["container"]
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


def test_a_host_that_is_told_to_stop_finishes_what_it_scores_and_lets_go(site: Site, script: Path):
    """What waits behind it is left untouched for the next host."""
    site.put("a.json", b"wait")
    with site.host(script, BLOB_MAX_CONCURRENT="1") as host:
        until(lambda: calls(script))
        site.put("b.json", b"next")
        time.sleep(0.3)
        host.process.terminate()
        script.with_name("go").touch()
        assert host.process.wait(PATIENCE) == 0
    assert site.document("a.json.out") == b'{"got":"wait"}'
    assert site.documents() == {"a.json.out"}
    assert site.held() == []
    with site.host(script):
        until(lambda: site.document("b.json.out"))
    assert [data for _, data in calls(script)] == ["wait", "next"]


def test_a_run_that_outlasts_the_shutdown_is_left_for_the_next_host(site: Site, script: Path):
    """The host ends in time, lets go of the input, and counts no failed try."""
    site.put("a.json", b"slow at first")
    with site.host(script, SCORING_SHUTDOWN_SECONDS="1", BLOB_MAX_ATTEMPTS="1") as host:
        until(lambda: calls(script))
        host.process.send_signal(signal.SIGTERM)
        host.process.wait(15)  # run() takes longer
    assert site.documents() == set()
    site.put("b.json", b"ready")
    with site.host(script, BLOB_MAX_ATTEMPTS="1"):
        until(lambda: site.document("a.json.out") or site.document("a.json.error"))
    assert site.documents() == {"a.json.out", "b.json.out"}


def test_several_workers_score_all_inputs(site: Site, script: Path):
    for number in range(40):
        site.put(f"{number}.json", b"%d" % number)
    with site.host(script, WORKER_COUNT="2") as host:
        until(lambda: len(site.documents()) == 40)
        assert host.stop() == 0
    for number in range(40):
        assert site.document(f"{number}.json.out") == b'{"got":"%d"}' % number
    assert {data for _, data in calls(script)} == {str(number) for number in range(40)}
    assert site.held() == []


# --- health ---------------------------------------------------------------------------------------


def test_a_missing_input_container_is_said_by_readiness_until_it_is_there(
    make_site: MakeSite, script: Path, service: BlobServiceClient
):
    """With the blob trigger alone there is health too, and no /score."""
    site = make_site("container")
    service.delete_container(site.names[0])
    with site.host(script, SCORING_TRIGGERS="blob") as host:
        until(lambda: "does not exist" in trouble(host))
        assert f"{site.names[0]} (BLOB_INPUT_PATH)" in trouble(host)
        assert httpx.get(f"{host.url}/", timeout=PATIENCE).status_code == 200
        assert httpx.post(f"{host.url}/score", content=b"x", timeout=PATIENCE).status_code == 404
        service.create_container(site.names[0])
        site.put("a.json", b"x")
        until(lambda: site.document("a.json.out") == b'{"got":"x"}')
        until(lambda: not trouble(host))
        assert host.log.count("does not exist") == 1
        assert "The blob trigger works again." in host.log


@pytest.mark.parametrize(
    "key", [f"{KEY[:20]}AAAA{KEY[24:]}", "is not base64!"], ids=["wrong", "no key"]
)
def test_a_wrong_key_is_said_by_readiness_and_never_shown(
    make_site: MakeSite, script: Path, key: str
):
    site = make_site("container")
    text = site.environ["TriggerConnectionString"].replace(KEY, key)
    with site.host(script, TriggerConnectionString=text, AZUREML_LOG_LEVEL="DEBUG") as host:
        until(lambda: "TriggerConnectionString (BLOB_CONNECTION)" in trouble(host))
        assert key not in trouble(host)
        time.sleep(0.3)
        host.stop()
        assert key not in host.log
        assert "Traceback" not in host.log
        assert "sig=" not in host.log


@pytest.mark.parametrize("way", ["takes connections and answers nothing", "is away"])
def test_a_storage_that_does_not_answer_is_unready_from_the_start_and_holds_up_no_stop(
    script: Path, way: str
):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        deaf = int(listener.getsockname()[1])
        port = free_port() if way == "is away" else deaf
        address = f"http://127.0.0.1:{port}/devstoreaccount1"
        text = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={address};"
        with StandaloneHost(script, environ={"TriggerConnectionString": text}) as host:
            assert trouble(host)
            host.process.send_signal(signal.SIGTERM)
            assert host.process.wait(PATIENCE) == 0


def test_a_host_with_much_to_do_is_ready(site: Site, script: Path):
    """Its first pass takes as long as that; nothing is wrong."""
    for number in range(40):
        site.put(f"{number:02}.json", b"sleep 0.7")
    with site.host(script, BLOB_MAX_CONCURRENT="1") as host:
        until(has_documents, site, 1)
        assert trouble(host) == ""
        assert len(site.documents()) < 40
