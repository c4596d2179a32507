"""Recording in whole hosts: every trigger, what is hidden, killed processes, containers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob import BlobServiceClient, ContainerClient

from scoring_runtime.connections.named import Connection, record
from scoring_runtime.errors import ConfigurationError, InputError, UnknownModel
from scoring_runtime.messages import ScoringRequest, ScoringResponse
from scoring_runtime.recording import container
from scoring_runtime.recording.build import check, recording
from scoring_runtime.recording.container import Container
from scoring_runtime.recording.records import Record, read
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import on_a_loop, until
from tests.hosts.ways import Ways

ROOT = Path(__file__).parents[2]
HUNTER = "hunter2hunter2"
JSON = {"content-type": "application/json"}
SUMS = """
    import json
    def init(): pass
    def run(data):
        return sum(json.loads(data)["data"])
"""
_NUMBERS = itertools.count()


def records(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.rglob("*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_every_trigger_of_both_hosts_is_recorded(
    azurite: Azurite, write_script: WriteScript, tmp_path: Path
) -> None:
    """With the same answer, and without a key; no answer is another for it."""
    script, one, two = write_script(SUMS), tmp_path / "one", tmp_path / "two"
    keyed = {"AZUREML_ENTRY_SCRIPT": str(script), "FUNCTIONS_HOST_CHECK_KEYS": "1"}
    ways = Ways(
        azurite,
        lambda environ: StandaloneHost(script, environ={**environ, "SCORING_RECORD": str(one)}),
        lambda environ: FunctionsHost(
            ROOT, clean_environ(**environ, SCORING_RECORD=str(two), **keyed)
        ),
    )
    body = json.dumps({"data": [1, 2.5], "password": HUNTER}).encode()
    with ways:
        for url, code in ((ways.standalone.url, HUNTER), (ways.functions.url, "test-key")):
            answer = httpx.post(
                f"{url}/score", params={"code": code}, content=body,
                headers={**JSON, "authorization": f"Bearer {HUNTER}", "x-functions-key": code},
            )  # fmt: skip
            assert answer.content == b"3.5"
            assert httpx.post(f"{url}/score?code={code}", content=b'"no"').status_code == 500
        assert ways.blob("a", body, {"accept": "application/json"}) == ("out", b"3.5")
        assert ways.message(body, {})[0].body == b"3.5"
        assert ways.functions_blob("b", body, {}) == ("out", b"3.5")
        assert ways.functions_message(body, {})[0].body == b"3.5"
        for folder in (one, two):
            until(lambda folder=folder: len(records(folder)) == 4)
    for folder in (one, two):
        found = {(each["trigger"], each["answer"]["status"]): each for each in records(folder)}
        assert set(found) == {("http", 200), ("http", 500), ("blob", 200), ("service_bus", 200)}
        for (_, status), each in found.items():
            assert each["redacted" if status == 200 else "id"]
            assert each["id"]
            assert each["model"] == "model:1"
            assert each["answer"]["body"] == "3.5" or status == 500
            assert each["ms"] >= each["run_ms"]
        everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert HUNTER.encode() not in everything
        assert b"test-key" not in everything


def test_answers_are_the_same_byte_for_byte(write_script: WriteScript, tmp_path: Path) -> None:
    """Errors, streams and odd methods too; only ids and times differ."""
    script = write_script(
        """
        from azureml.contrib.services.aml_request import AMLRequest, rawhttp
        from azureml.contrib.services.aml_response import AMLResponse
        def init(): pass
        @rawhttp
        def run(request):
            if request.args.get("stream"):
                return AMLResponse(iter([b"a", b"b"]), 200)
            if request.args.get("fail"):
                raise ValueError("as asked")
            return AMLResponse(request.get_data(), 418, {"x-own": "1"})
        """
    )
    answers: list[list[Any]] = []
    for environ in ({}, {"SCORING_RECORD": str(tmp_path / "records")}):
        with StandaloneHost(script, environ=environ) as host:
            got = [
                httpx.request(method, f"{host.url}/score{query}", content=body)
                for method, query, body in (
                    ("POST", "", bytes(range(256))), ("POST", "?stream=1", b""),
                    ("POST", "?fail=1", b""), ("GET", "", b""), ("PUT", "", b""),
                )
            ]  # fmt: skip
        changing = ("date", "x-request-id", "x-ms-request-id", "x-ms-run-fn-exec-ms")
        answers.append(
            [
                (r.status_code, r.content, [h for h in r.headers.items() if h[0] not in changing])
                for r in got
            ]
        )
    assert answers[0] == answers[1]
    kept = records(tmp_path / "records")
    assert [each["answer"]["status"] for each in kept] == [418, 200, 500, 418]
    assert "streamed" in kept[1]["answer"]["left_out"]


def test_a_killed_host_leaves_records_that_can_be_read(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """All that were answered a moment before."""
    script, folder = write_script(SUMS), tmp_path / "records"
    with StandaloneHost(script, environ={"SCORING_RECORD": str(folder)}) as host:
        worker = host.worker
        with httpx.Client() as client:
            for number in range(300):
                client.post(f"{host.url}/score", content=b'{"data": [%d]}' % number)
                if number == 250:
                    time.sleep(0.5)
        os.kill(worker, signal.SIGKILL)
        found = [each for each in read(folder) if isinstance(each, Record)]
    assert len(found) >= 251
    assert [each.answer for each in found] == [b"%d" % number for number in range(len(found))]


def test_a_folder_that_is_lost_harms_no_request(write_script: WriteScript, tmp_path: Path) -> None:
    """Nor does one that is a file now; the metric counts what was not kept."""
    folder = tmp_path / "records"
    environ = {"SCORING_RECORD": str(folder)}
    with StandaloneHost(write_script(SUMS), environ=environ) as host:
        folder.rmdir()
        folder.write_text("a file")
        for _ in range(20):
            assert httpx.post(f"{host.url}/score", content=b'{"data": [1]}').content == b"1"
        shown = "\nscoring_records_dropped_total 20.0"
        until(lambda: shown in httpx.get(f"{host.url}/metrics").text)
        assert "records were not kept" in host.log
        assert host.log.count("records were not kept") <= 2


def settings_of(script: Path, **environ: str) -> Settings:
    return Settings.from_environ({"AZUREML_ENTRY_SCRIPT": str(script), **environ})


def test_without_the_setting_nothing_is_wrapped(write_script: WriteScript) -> None:
    """Score is the same object."""
    runtime = build(settings_of(write_script(SUMS)))
    found = recording(runtime)
    assert found.around(runtime.score, "http") == runtime.score
    found.close()


def test_without_the_setting_nothing_of_it_is_imported() -> None:
    """Neither redaction nor the SDK of storage accounts."""
    code = (
        "import sys, scoring_runtime.standalone.worker, scoring_runtime.functions.app\n"
        "import scoring_runtime.cli.main\n"
        "starts = 'scoring_runtime.recording', 'azure.storage'\n"
        "print([name for name in sys.modules if name.startswith(starts)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environ(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "['scoring_runtime.recording', 'scoring_runtime.recording.build']"


def test_data_collection_without_a_place_is_said(
    write_script: WriteScript, caplog: pytest.LogCaptureFixture
) -> None:
    recording(build(settings_of(write_script(SUMS), AML_MODEL_DC_STORAGE_ENABLED="true")))
    assert "SCORING_RECORD names the folder" in caplog.text


@on_a_loop
async def _scored(around: Any, requests: list[ScoringRequest], raised: list[Exception]) -> None:
    async def score(request: ScoringRequest) -> ScoringResponse:
        if request.body == b"fail":
            raise raised[0]
        return ScoringResponse(200, request.body, (), 1.0)

    wrapped = around(score, "http")
    for request in requests:
        try:
            await wrapped(request)
        except Exception as error:
            assert error is raised[0]


@pytest.mark.parametrize(
    ("rate", "least", "most"), [("0", 0, 0), ("0.5", 380, 620), ("1", 1000, 1000)]
)
def test_a_share_of_the_requests_is_kept(
    rate: str, least: int, most: int, write_script: WriteScript, tmp_path: Path
) -> None:
    environ = {"SCORING_RECORD": str(tmp_path / "r"), "SCORING_RECORD_RATE": rate}
    found = recording(build(settings_of(write_script(SUMS), **environ)))
    _scored(found.around, [ScoringRequest(b"%d" % n) for n in range(1000)], [])
    found.close()
    assert least <= len(records(tmp_path / "r")) <= most


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("not so"), 400, "not so"),
        (UnknownModel("no such"), 404, "no such"),
        (ConfigurationError("/a/folder"), 500, "An unexpected internal error occurred"),
        (KeyError("x"), 500, "An unexpected internal error occurred"),
    ],
)
def test_an_error_is_kept_as_a_client_reads_it(
    error: Exception, status: int, text: str, write_script: WriteScript, tmp_path: Path
) -> None:
    """And raised as it was, its cause not forgotten."""
    error.__cause__ = ValueError("why")
    found = recording(build(settings_of(write_script(SUMS), SCORING_RECORD=str(tmp_path / "r"))))
    _scored(found.around, [ScoringRequest(b"fail")], [error])
    found.close()
    [kept] = records(tmp_path / "r")
    assert kept["answer"]["status"] == status
    assert text in kept["answer"]["body"]
    assert str(error.__cause__) == "why"


def test_the_model_that_has_answered_is_named_as_the_answer_says(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """By its headers where it has them."""

    async def score(request: ScoringRequest) -> ScoringResponse:
        said = ((b"x-model-name", b"iris"), (b"x-model-version", b"7"))
        return ScoringResponse(200, b"1", said, 1.0)

    found = recording(build(settings_of(write_script(SUMS), SCORING_RECORD=str(tmp_path / "r"))))
    _scored(lambda _, trigger: found.around(score, trigger), [ScoringRequest(b"1")], [])
    found.close()
    assert records(tmp_path / "r")[0]["model"] == "iris:7"


# --- settings -------------------------------------------------------------------------------------

AZURITE_LIKE = "https://acc.blob.core.windows.net"


def test_a_folder_that_cannot_be_written_to_stops_the_start(
    write_script: WriteScript, tmp_path: Path
) -> None:
    """Before anything listens, with the setting's name."""
    (tmp_path / "file").write_text("")
    environ = {"SCORING_RECORD": str(tmp_path / "file")}
    host = StandaloneHost(write_script(SUMS), environ=environ)
    with pytest.raises(RuntimeError, match=r"SCORING_RECORD is .*file.* nothing can be written"):
        host.__enter__()
    assert host.process.returncode == 3


@pytest.mark.parametrize(
    ("place", "connection", "says"),
    [
        ("ftp://a/b", "", "Allowed: a folder, or an address such as https://"),
        (AZURITE_LIKE, "", "names no container. Allowed: https://acc.blob.core.windows.net/<c"),
        ("https://other.blob.core.windows.net/c", "Conn", "the account of Conn "),
        (f"{AZURITE_LIKE}/c", "Missing", "Missing is not set, which SCORING_RECORD_CONNECTION"),
        (f"{AZURITE_LIKE}/c", "Torn", "Torn (the connection that SCORING_RECORD_CONNECTION names)"),
        (f"{AZURITE_LIKE}/c", "Bad", "Bad (the connection that SCORING_RECORD_CONNECTION names)"),
    ],
)
def test_a_container_that_is_none_stops_the_start(place: str, connection: str, says: str) -> None:
    """No message has the key."""
    key = "A" * 86 + "=="
    account = "DefaultEndpointsProtocol=https;EndpointSuffix=core.windows.net;AccountName=acc"
    environ = {
        "SCORING_RECORD": place, "SCORING_RECORD_CONNECTION": connection,
        "Conn": f"{account};AccountKey={key}",
        "Bad": f"nothing {key}", "Torn": f"AccountName=acc;AccountKey={key};nothing",
    }  # fmt: skip
    with pytest.raises(ConfigurationError) as caught:
        check(Settings.from_environ(environ))
    assert says in str(caught.value)
    assert key not in str(caught.value)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; nothing is imported where the setting names a folder."""
    monkeypatch.delitem(sys.modules, "scoring_runtime.recording.container")
    monkeypatch.delattr("scoring_runtime.recording.container")
    monkeypatch.setitem(sys.modules, "azure.storage.blob", None)
    settings = Settings.from_environ({"SCORING_RECORD": f"{AZURITE_LIKE}/c"})
    with pytest.raises(ConfigurationError, match=r"needs azure.storage.*'scoring-runtime\[blob\]'"):
        check(settings)


def test_a_token_in_the_address_is_refused() -> None:
    url = f"{AZURITE_LIKE}/c?sv=2020&sig=abcdefghijklmnop"
    with pytest.raises(ConfigurationError, match="without a SAS token") as caught:
        Settings.from_environ({"SCORING_RECORD": url})
    assert "abcdefghijklmnop" not in str(caught.value)


def test_files_of_another_user_are_not_trusted(
    azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the machine's temporary folder could have made ours before."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    environ = {
        "SCORING_RECORD": f"{azurite.blob_url}/c", "SCORING_RECORD_CONNECTION": "Records",
        "Records": azurite.connection_string,
    }  # fmt: skip
    folder = check(Settings.from_environ(environ))
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="it belongs to another user"):
        check(Settings.from_environ(environ))


def test_without_a_connection_the_identity_of_the_machine_signs_in() -> None:
    """At the address of the setting."""
    client, folder = container.client(f"{AZURITE_LIKE}/c/a/b", Connection("R", "", AZURITE_LIKE))
    assert (client.url, folder) == (f"{AZURITE_LIKE}/c", "a/b/")


# --- containers -----------------------------------------------------------------------------------


@pytest.fixture
def place(azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A container of its own: its client, and the settings for it; it is looked at often."""
    monkeypatch.setattr("scoring_runtime.recording.container._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    name = f"records{os.getpid()}-{next(_NUMBERS)}"
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        environ = {
            "SCORING_RECORD": f"{azurite.blob_url}/{name}/kept",
            "SCORING_RECORD_CONNECTION": "Records",
            "Records": azurite.connection_string,
        }
        yield service.get_container_client(name), environ


def blobs(client: Any) -> dict[str, bytes]:
    if not client.exists():
        return {}
    return {each.name: client.download_blob(each.name).readall() for each in client.list_blobs()}


def test_files_are_uploaded_to_a_container(
    place: Any, write_script: WriteScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are no longer here then; the container is made if it is missing."""
    client, environ = place
    found = recording(build(settings_of(write_script(SUMS), **environ)))
    _scored(found.around, [ScoringRequest(b"%d" % number) for number in range(50)], [])
    found.close()
    [(name, body)] = blobs(client).items()
    assert name.startswith("kept/requests/20")
    assert [json.loads(line)["body"] for line in body.splitlines()] == [str(n) for n in range(50)]
    assert [path for path in (tmp_path / "temp").rglob("*") if path.is_file()] == []


def test_files_wait_while_the_account_is_away(
    place: Any, write_script: WriteScript, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Those that a killed process has left too; the log says so once."""
    client, environ = place
    monkeypatch.setitem(container._OPTIONS, "retry_total", 0)
    folder = check(Settings.from_environ(environ))
    left = folder / "requests/2026/01/01/000000-killed-1-1.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text('{"left": 1}\n{"torn')
    os.utime(left, (1e9, 1e9))
    fresh = left.with_name("000000-living-2-1.jsonl")
    fresh.write_text("{}\n")
    monkeypatch.setattr(ContainerClient, "upload_blob", _refuse)
    found = recording(build(settings_of(write_script(SUMS), **environ)))
    _scored(found.around, [ScoringRequest(b"1")], [])
    until(lambda: "takes no records" in caplog.text)
    assert left.exists()
    monkeypatch.undo()
    found.close()
    assert {name.rpartition("/")[2].partition("-")[0] for name in blobs(client)} >= {"000000"}
    assert (
        blobs(client)["kept/requests/2026/01/01/000000-killed-1-1.jsonl"] == b'{"left": 1}\n{"torn'
    )
    assert len(blobs(client)) == 2
    assert not left.exists()
    assert fresh.exists()  # its process may be at work
    assert caplog.text.count("takes no records") == 1


def _refuse(*_: object, **__: object) -> None:
    raise ServiceRequestError("away")


def test_collected_rows_are_appended_to_one_blob(place: Any, tmp_path: Path) -> None:
    """Of several processes; its first line once; other columns beside it."""
    client, environ = place
    settings = Settings.from_environ(environ)
    whole: list[Path] = []

    def send(name: str, text: str) -> Path:
        path = tmp_path / "temp" / "m/data.csv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        whole.append(path)
        return path

    uploads = Container(
        settings.record,
        record(settings),
        tmp_path / "temp",
        lambda: [p for p in whole if p.exists()],
    )
    paths = [send("1-a-1.csv", "a,b\n1,2\n"), send("2-b-1.csv", "a,b\n3,4\n5,6\n")]
    until(lambda: not any(path.exists() for path in paths))
    other = send("3-a-2.csv", "c\n7\n")
    uploads.close()
    assert not other.exists()
    found = blobs(client)
    assert found.pop("kept/m/data.csv") == b"a,b\n1,2\n3,4\n5,6\n"
    [(name, body)] = found.items()
    assert name.startswith("kept/m/data-")
    assert body == b"c\n7\n"
