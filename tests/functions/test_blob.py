"""The blob trigger on Azure Functions, in Microsoft's worker library."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.functions import Delivery, FunctionsHost, blob_event, host_of

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
STORAGE = {"TriggerConnectionString": "UseDevelopmentStorage=true"}
BUS = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=a;SharedAccessKey=s3cr3t"
HTTP = {"score", "score_model", "swagger", "v2_server", "v2_models", "v2_health", "health", "web",
        "metrics", "docs", "status", "results"}  # fmt: skip
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
    output = {**common, "type": "blob", "direction": "OUT"}
    path = "input/{blobname}.json"
    assert bindings_of(host) == {
        "blob": {**common, "type": "blobTrigger", "direction": "IN", "path": path},
        "output": {**output, "path": "output/{blobname}_out.json"},
        "error": {**output, "path": "output/{blobname}_error.json"},
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
    ("triggers", "functions"),
    [("", {*HTTP, "score_blob", "score_message"}), ("blob", {"score_blob"})],
)
def test_only_the_triggers_that_are_wanted_are_functions(
    triggers: str, functions: set[str], write_script: WriteScript
):
    """Those of SCORING_TRIGGERS; by default HTTP and each whose connection is set."""
    settings = {**STORAGE, "ServiceBusConnectionString": BUS, "SCORING_TRIGGERS": triggers}
    with host_of(write_script(PLAIN), **settings) as started:
        assert {each["name"] for each in started.functions} == functions


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "properties", "content_type"),
    [
        ("input/a.json", {}, "application/json"),
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


def test_a_blob_that_is_too_large_gets_an_error_that_names_the_limit(host: FunctionsHost):
    before = calls(host)
    assert list(deliver(host, bytes(1000)).outputs) == ["output"]
    refused = deliver(host, bytes(1001))
    text = "The blob is larger than 1000 bytes (BLOB_MAX_BYTES)."
    assert (refused.failure, list(refused.outputs)) == ("", ["error"])
    document = json.loads(refused.outputs["error"])
    assert (document["message"], len(document["request_id"])) == (text, 36)
    assert calls(host) == before + 2


def test_a_blob_waits_for_an_init_that_takes_long(write_script: WriteScript):
    """The host's listeners start when the app is indexed, and init() may go on behind it."""
    script = write_script("import time\ndef init(): time.sleep(1.5)\ndef run(data): return data")
    with host_of(script, SCORING_INIT_GRACE_SECONDS="0.1", **STORAGE) as started:
        assert httpx.get(f"{started.url}/health/ready").status_code == 503
        assert deliver(started, b"a") == Delivery("", {"output": b'"a"'}, ANY)


# --- the host's settings --------------------------------------------------------------------------


def test_host_json_has_the_settings_of_blobs_where_the_host_reads_them():
    """https://learn.microsoft.com/azure/azure-functions/functions-bindings-storage-blob"""
    settings = json.loads((ROOT / "host.json").read_text())
    assert "blobs" not in settings
    blobs = settings["extensions"]["blobs"]
    assert set(blobs) == {"maxDegreeOfParallelism", "poisonBlobThreshold"}
    assert blobs["poisonBlobThreshold"] == Settings().blob_max_attempts == 5
    assert blobs["maxDegreeOfParallelism"] == 8
