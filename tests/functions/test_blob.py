"""The blob trigger on Azure Functions, in Microsoft's worker library."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.functions import Delivery, FunctionsHost, blob_event
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
EVERY_BYTE = bytes(range(256))
STORAGE = {"TriggerConnectionString": "UseDevelopmentStorage=true"}
BUS = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=s3cr3t"
HTTP = {"score", "score_model", "swagger", "v2_server", "v2_models", "v2_health", "health", "web"}
PLAIN = "def init(): ...\ndef run(data): return data"
RAW = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): ...
@rawhttp
def run(request):
    if request.get_data() == b"see":
        names = ("Content-Type", "X-Blob-Name")
        return [request.method, request.path, *(request.headers.get(name) for name in names)]
    return AMLResponse(request.get_data(), 200)
"""


def host_of(script: Path, **settings: str) -> FunctionsHost:
    return FunctionsHost(ROOT, clean_environ(AZUREML_ENTRY_SCRIPT=str(script), **settings))


@pytest.fixture(scope="module")
def host() -> Iterator[FunctionsHost]:
    """Text in; see the script for what it does."""
    settings = {**STORAGE, "BLOB_MAX_BYTES": "1000"}
    with host_of(SCRIPTS / "trigger_text.py", **settings) as started:
        yield started


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionsHost]:
    """The bytes back."""
    script = tmp_path_factory.mktemp("raw") / "score.py"
    script.write_text(RAW)
    with host_of(script, **STORAGE) as started:
        yield started


def deliver(
    host: FunctionsHost, body: bytes, path: str = "input/a.json", **properties: str
) -> Delivery:
    return host.deliver("score_blob", blob_event(path, body, **properties))


def calls(host: FunctionsHost) -> int:
    """How often run() has been called, this call included."""
    return int(deliver(host, b"calls").outputs["output"])


@pytest.mark.parametrize(("value", "runs"), [("true", 0), ("True", 0), ("false", 1)])
def test_a_folder_of_a_hierarchical_namespace_is_no_input(
    host: FunctionsHost, value: str, runs: int
):
    """Such accounts show folders as empty blobs with the metadata hdi_isfolder."""
    before = calls(host)
    event = blob_event("input/folder", b"x")
    said = {"type": "json", "value": json.dumps({"hdi_isfolder": value})}
    delivery = host.deliver(
        "score_blob", {**event, "metadata": {**event["metadata"], "Metadata": said}}
    )
    assert delivery.failure == ""
    assert [name for name, body in delivery.outputs.items() if body] == ["output"] * runs
    assert calls(host) == before + 1 + runs


# --- bindings -------------------------------------------------------------------------------------


def bindings_of(host: FunctionsHost) -> dict[str, dict[str, Any]]:
    [function] = [each for each in host.functions if each["name"] == "score_blob"]
    return {each.pop("name"): each for each in map(dict, function["bindings"])}


def test_the_bindings_are_a_binary_trigger_and_two_binary_outputs(host: FunctionsHost):
    """Without `binary` the host sends text, in which bytes that are not UTF-8 are lost."""
    common = {"dataType": "BINARY", "connection": "TriggerConnectionString"}
    assert bindings_of(host) == {
        "blob": {
            **common,
            "type": "blobTrigger",
            "direction": "IN",
            "path": "input/{blobname}.json",
        },
        "output": {
            **common,
            "type": "blob",
            "direction": "OUT",
            "path": "output/{blobname}_out.json",
        },
        "error": {
            **common,
            "type": "blob",
            "direction": "OUT",
            "path": "output/{blobname}_error.json",
        },
    }


def test_paths_connection_and_source_are_those_of_the_settings(write_script: WriteScript):
    settings = {
        "BLOB_CONNECTION": "Own",
        "Own__blobServiceUri": "https://account.blob.core.windows.net",
        "BLOB_INPUT_PATH": "in-box/{folder}/{name}.{ext}",
        "BLOB_OUTPUT_PATH": "out-box/{folder}/{name}.json",
        "BLOB_ERROR_PATH": "errors/{name}.{ext}.txt",
        "BLOB_SOURCE": "EventGrid",
    }
    with host_of(write_script(PLAIN), **settings) as started:
        found = bindings_of(started)
    assert {name: each["path"] for name, each in found.items()} == {
        "blob": "in-box/{folder}/{name}.{ext}",
        "output": "out-box/{folder}/{name}.json",
        "error": "errors/{name}.{ext}.txt",
    }
    assert {each["connection"] for each in found.values()} == {"Own"}
    assert found["blob"]["source"] == "EventGrid"
    assert not any("source" in found[name] for name in ("output", "error"))


@pytest.mark.parametrize(
    ("settings", "functions"),
    [
        (STORAGE, {*HTTP, "score_blob"}),
        ({"AzureWebJobsTriggerConnectionString": "UseDevelopmentStorage=true"}, {"score_blob"}),
        ({"TriggerConnectionString__blobServiceUri": "https://a.blob.local"}, {"score_blob"}),
        ({"TriggerConnectionString": BUS}, {*HTTP, "score_message"}),
        ({"ServiceBusConnectionString": BUS}, {*HTTP, "score_message"}),
        ({**STORAGE, "ServiceBusConnectionString": BUS}, {*HTTP, "score_blob", "score_message"}),
        ({**STORAGE, "SCORING_TRIGGERS": "blob"}, {"score_blob"}),
        ({**STORAGE, "SCORING_TRIGGERS": "http"}, HTTP),
        ({**STORAGE, "SCORING_TRIGGERS": "http,blob"}, {*HTTP, "score_blob"}),
        ({"TriggerConnectionString": BUS, "SCORING_TRIGGERS": "service_bus"}, {"score_message"}),
        (
            {"TriggerConnectionString": BUS, "SCORING_TRIGGERS": "http,service_bus"},
            {*HTTP, "score_message"},
        ),
        (
            {
                **STORAGE,
                "ServiceBusConnectionString": BUS,
                "SCORING_TRIGGERS": "service_bus, blob",
            },
            {"score_blob", "score_message"},
        ),
        (
            {
                **STORAGE,
                "ServiceBusConnectionString": BUS,
                "SCORING_TRIGGERS": "http,blob,service_bus",
            },
            {*HTTP, "score_blob", "score_message"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "-".join(sorted(value)),
)
def test_only_the_triggers_that_are_wanted_are_functions(
    settings: dict[str, str], functions: set[str], write_script: WriteScript
):
    """Those of SCORING_TRIGGERS; by default HTTP and each whose connection is set."""
    if "SCORING_TRIGGERS" not in settings:
        functions = {*HTTP, *functions}
    with host_of(write_script(PLAIN), **settings) as started:
        assert {each["name"] for each in started.functions} == functions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SCORING_TRIGGERS": "blob"}, "TriggerConnectionString"),
        ({"SCORING_TRIGGERS": "blobs"}, "SCORING_TRIGGERS has the value 'blobs'"),
        ({"TriggerConnectionString": "nonsense", "SCORING_TRIGGERS": "blob"}, "BLOB_CONNECTION"),
        ({**STORAGE, "BLOB_CONNECTION": "Own", "SCORING_TRIGGERS": "blob"}, "Own"),
        ({**STORAGE, "BLOB_INPUT_PATH": "input"}, "BLOB_INPUT_PATH has the value 'input'"),
        ({**STORAGE, "BLOB_INPUT_PATH": "input/{a"}, "BLOB_INPUT_PATH has the value 'input/{a'"),
        ({**STORAGE, "BLOB_OUTPUT_PATH": "output/{other}.json"}, "BLOB_OUTPUT_PATH has the value"),
        (
            {**STORAGE, "BLOB_OUTPUT_PATH": "input/{blobname}.json"},
            "what is written there would be an input again",
        ),
        (
            {**STORAGE, "BLOB_ERROR_PATH": "output/{blobname}_out.json"},
            "output and error documents would have the same name",
        ),
        ({**STORAGE, "BLOB_SOURCE": "Grid"}, "BLOB_SOURCE has the value 'Grid'"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_bad_setting_leaves_no_function_and_is_named(
    settings: dict[str, str], message: str, write_script: WriteScript
):
    with pytest.raises(RuntimeError) as failed, host_of(write_script(PLAIN), **settings):
        pass
    assert "exit code 1" in str(failed.value)
    assert "ConfigurationError" in str(failed.value)
    assert message in str(failed.value)
    assert '"functions":' not in str(failed.value)


# --- results --------------------------------------------------------------------------------------


def test_the_sample_input_of_the_example_gives_the_bytes_that_http_gives(tmp_path: Path):
    """The user story: sample_input.json becomes sample_input_out.json."""
    folder = ROOT / "examples" / "diabetes"
    train = [sys.executable, str(folder / "train.py"), "--output", str(tmp_path)]
    subprocess.run(train, check=True, capture_output=True)
    body = (folder / "sample_input.json").read_bytes()
    assert json.loads(body)["data"] == [[*range(1, 11)], [*range(10, 0, -1)]]
    with host_of(folder / "score.py", AZUREML_MODEL_DIR=str(tmp_path), **STORAGE) as started:
        answer = httpx.post(f"{started.url}/score", content=body)
        scored = deliver(started, body, "input/sample_input.json", ContentType="application/json")
    assert answer.status_code == 200
    assert len(answer.json()) == 2
    assert (scored.failure, scored.outputs) == ("", {"output": answer.content})


@pytest.mark.parametrize(
    "body",
    [EVERY_BYTE, b"", b"\xff\xfe\x00", b"\r\n", bytes(1_000_000)],
    ids=["all", "none", "bad", "lines", "large"],
)
def test_bytes_survive_both_ways(body: bytes, raw: FunctionsHost):
    """An empty result is written too: without a document nobody would know that it is done."""
    assert deliver(raw, body).outputs == {"output": body}


def test_an_empty_result_of_a_text_script_is_written(host: FunctionsHost):
    assert deliver(host, b"empty").outputs == {"output": b""}


@pytest.mark.parametrize(
    ("path", "properties", "content_type"),
    [
        ("input/a.json", {"ContentType": "text/csv"}, "text/csv"),
        ("input/a.json", {}, "application/json"),
        ("input/a.csv", {}, "text/csv"),
        ("input/a.unknown", {}, "application/octet-stream"),
        ("input/f/ä b.json", {"ContentType": "text/plain"}, "application/json"),
    ],
)
def test_run_sees_the_blob_as_a_request(
    path: str, properties: dict[str, str], content_type: str, raw: FunctionsHost
):
    """With the name as x-blob-name; what tools write as content type says less than the name."""
    name = path.replace("ä b", "%C3%A4%20b")
    seen = deliver(raw, b"see", path, **properties)
    assert json.loads(seen.outputs["output"]) == ["POST", "/score", content_type, name]


def test_a_compressed_blob_is_read_as_what_it_holds(host: FunctionsHost):
    zipped = deliver(host, gzip.compress(b"small"), ContentEncoding="gzip")
    assert zipped.outputs == {"output": b'{"got":"small"}'}


@pytest.mark.parametrize(
    "body", ["grüße €".encode(), b"{}", b""], ids=["non-ASCII", "JSON", "none"]
)
def test_text_gives_the_bytes_that_http_gives(body: bytes, host: FunctionsHost):
    answer = httpx.post(f"{host.url}/score", content=body)
    assert answer.status_code == 200
    assert deliver(host, body).outputs == {"output": answer.content}


def test_status_201_and_302_are_results(host: FunctionsHost):
    for status in (201, 302):
        scored = deliver(host, f"status {status}".encode())
        assert scored.outputs == {"output": f"answer {status}".encode()}


def test_16_blobs_at_once_each_get_their_own_result(host: FunctionsHost):
    bodies = [f"blob {number}" for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda body: deliver(host, body.encode()).outputs["output"], bodies)
    assert [json.loads(each) for each in found] == [{"got": body} for body in bodies]


def test_lines_that_a_script_logs_belong_to_its_invocation(host: FunctionsHost):
    found = [deliver(host, b"invocation") for _ in range(3)]
    for each in found:
        assert json.loads(each.outputs["output"]) == each.invocation_id
    assert len({each.invocation_id for each in found}) == 3


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"refuse", b'{"message": "not this one"}'),
        (b"status 404", b"answer 404"),
        (b"status 422", b"answer 422"),
    ],
    ids=["InputError", "404", "422"],
)
def test_the_clients_fault_is_written_as_an_error_and_the_function_succeeds(
    body: bytes, error: bytes, host: FunctionsHost
):
    """So that the host does not try again what can never be scored; the bytes are HTTP's."""
    refused = deliver(host, body)
    assert (refused.failure, refused.outputs) == ("", {"error": error})
    assert httpx.post(f"{host.url}/score", content=body).content == error


def test_what_cannot_be_decoded_is_written_as_an_error(host: FunctionsHost):
    """Not text, and not what the content encoding says: run() is not called."""
    before = calls(host)
    for refused in (deliver(host, b"\xff\xfe"), deliver(host, b"plain", ContentEncoding="gzip")):
        assert refused.failure == ""
        assert list(refused.outputs) == ["error"]
        assert list(json.loads(refused.outputs["error"])) == ["message"]
    assert calls(host) == before + 1


def test_a_blob_that_is_too_large_gets_an_error_that_names_the_limit(host: FunctionsHost):
    before = calls(host)
    assert list(deliver(host, bytes(1000)).outputs) == ["output"]
    refused = deliver(host, bytes(1001))
    text = "The blob is larger than 1000 bytes (BLOB_MAX_BYTES)."
    assert (refused.failure, list(refused.outputs)) == ("", ["error"])
    assert json.loads(refused.outputs["error"]) == {"message": text}
    assert calls(host) == before + 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"fail", "TryAgain: RunFailed: "),
        (b"status 500", "TryAgain: Status500: answer 500"),
        (b"status 503", "TryAgain: Status503: answer 503"),
    ],
    ids=["raises", "500", "503"],
)
def test_a_failed_run_fails_the_function_and_writes_nothing(
    body: bytes, message: str, host: FunctionsHost
):
    """So that the host tries again, and in the end puts the blob on its poison queue."""
    failed = deliver(host, body)
    assert message in failed.failure
    assert failed.outputs == {}


def test_a_run_past_its_deadline_fails_the_function_and_writes_nothing():
    """Each has a deadline of its own, however many wait: none fails for a full queue."""
    settings = {**STORAGE, "SCORING_TIMEOUT_MS": "500", "SCORING_QUEUE_SIZE": "1"}
    with host_of(SCRIPTS / "trigger_text.py", **settings) as started, ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda _: deliver(started, b"sleep"), range(4)))
    failures = {each.failure.partition("\n")[0] for each in ended}
    assert failures == {"TryAgain: RunTimeout: Scoring timeout after 500 ms"}
    assert [each.outputs for each in ended] == [{}] * 4


def test_a_blob_waits_for_an_init_that_takes_long(write_script: WriteScript):
    """The host's listeners start when the app is indexed, and init() may go on behind it."""
    script = write_script("import time\ndef init(): time.sleep(1.5)\ndef run(data): return data")
    with host_of(script, SCORING_INIT_GRACE_SECONDS="0.1", **STORAGE) as started:
        assert httpx.get(f"{started.url}/health/ready").status_code == 503
        assert deliver(started, b"a") == Delivery("", {"output": b'"a"'}, ANY)


def test_the_failure_of_a_run_is_in_the_log_with_file_and_line(host: FunctionsHost):
    assert deliver(host, b"fail").failure
    assert 'trigger_text.py", line ' in host.log
    assert "ValueError: the details are for the log" in host.log


# --- the host's settings --------------------------------------------------------------------------


def test_host_json_has_the_settings_of_blobs_where_the_host_reads_them():
    """https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-blob"""
    settings = json.loads((ROOT / "host.json").read_text())
    assert "blobs" not in settings
    blobs = settings["extensions"]["blobs"]
    assert set(blobs) == {"maxDegreeOfParallelism", "poisonBlobThreshold"}
    assert blobs["poisonBlobThreshold"] == Settings().blob_max_attempts == 5
    assert blobs["maxDegreeOfParallelism"] == 8
