"""The blob trigger from a user's side: the story, overwriting, settings, health; Azurite and files.

What happens to each kind of input is in test_trigger_parity, what kills survive in
test_nothing_lost_blobs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContentSettings

from scoring_runtime.blob_paths import Template, blob_paths, error_path, refuse_shared_documents
from scoring_runtime.connections import AZURITE, blob, service_bus, triggers
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.settings import Settings
from tests.azurite import KEY, Azurite
from tests.conftest import WriteScript
from tests.standalone_host import StandaloneHost, clean_environ

ROOT = Path(__file__).parent.parent
STORY = b'{"data": [[1,2,3,4,5,6,7,8,9,10],[10,9,8,7,6,5,4,3,2,1]]}'
COUNTING = """
    import json, pathlib

    def init():
        pass

    def run(data):
        with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
            calls.write("x")
        value = json.loads(data)
        if value == "fail":
            raise ValueError("as asked")
        return {"got": value}
"""


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What the condition gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


class Place(Protocol):
    """Where inputs are dropped and documents are found."""

    environ: dict[str, str]

    def drop(self, name: str, body: bytes) -> None: ...

    def document(self, name: str) -> bytes | None: ...

    def remove(self, name: str) -> None: ...


class Files:
    def __init__(self, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self.input),
            "BLOB_OUTPUT_FOLDER": str(self.output),
            "BLOB_POLL_SECONDS": "0.1-0.2",
        }

    def drop(self, name: str, body: bytes) -> None:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def document(self, name: str) -> bytes | None:
        path = self.output / name
        return path.read_bytes() if path.exists() else None

    def remove(self, name: str) -> None:
        (self.output / name).unlink()


class Blobs:
    def __init__(self, azurite: Azurite, number: int) -> None:
        self.service = BlobServiceClient.from_connection_string(azurite.connection_string)
        self.input, self.output = f"input{number}", f"output{number}"
        self.service.create_container(self.input)
        self.environ = {
            "TriggerConnectionString": azurite.connection_string,
            "BLOB_INPUT_PATH": f"{self.input}/{{blobname}}.json",
            "BLOB_OUTPUT_PATH": f"{self.output}/{{blobname}}_out.json",
            "BLOB_POLL_SECONDS": "0.1-0.2",
        }

    def drop(self, name: str, body: bytes) -> None:
        self.service.get_blob_client(self.input, name).upload_blob(body, overwrite=True)

    def document(self, name: str) -> bytes | None:
        try:
            return self.service.get_blob_client(self.output, name).download_blob().readall()
        except ResourceNotFoundError:
            return None

    def remove(self, name: str) -> None:
        self.service.get_blob_client(self.output, name).delete_blob()


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(params=["files", "blobs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, azurite: Azurite) -> Iterator[Place]:
    if request.param == "files":
        yield Files(tmp_path)
        return
    blobs = Blobs(azurite, next(_NUMBERS))
    yield blobs
    blobs.service.close()


_NUMBERS = iter(range(1000))


def calls(script: Path) -> int:
    path = script.with_name("calls")
    return len(path.read_text()) if path.exists() else 0


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("diabetes") / "model"
    command = [sys.executable, "examples/diabetes/train.py", "--output", str(model)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=clean_environ())
    return model


def test_the_sample_input_becomes_predictions(place: Place, diabetes: Path) -> None:
    """The story of the old product, with the bytes that HTTP answers."""
    script = ROOT / "examples" / "diabetes" / "score.py"
    options = ("--model-dir", str(diabetes))
    with StandaloneHost(script, *options, environ=place.environ, cwd=ROOT) as host:
        place.drop("sample_input.json", STORY)
        found = until(lambda: place.document("sample_input_out.json"))
        assert found == httpx.post(f"{host.url}/score", content=STORY).content
    assert json.loads(found) == pytest.approx([5215.180312699001, 3727.025267737834])


def test_an_input_that_changes_is_scored_again_and_nothing_else_is(
    place: Place, write_script: WriteScript
) -> None:
    """From success to success, error and back; a restart scores nothing twice."""
    script = write_script(COUNTING)
    environ = {**place.environ, "BLOB_MAX_ATTEMPTS": "1"}
    with StandaloneHost(script, environ=environ):
        place.drop("a.json", b"1")
        place.drop("sub folder/ü%20#.json", b'"deep"')
        place.drop("other.txt", b"is no input")
        until(lambda: place.document("a_out.json") == b'{"got":1}')
        until(lambda: place.document("sub folder/ü%20#_out.json") == b'{"got":"deep"}')
        time.sleep(0.6)
        assert calls(script) == 2
        place.drop("a.json", b"22")
        until(lambda: place.document("a_out.json") == b'{"got":22}')
        place.drop("a.json", b'"fail"')
        until(lambda: place.document("a_error.json"))
        until(lambda: place.document("a_out.json") is None)
        place.drop("a.json", b"333")
        until(lambda: place.document("a_out.json") == b'{"got":333}')
        until(lambda: place.document("a_error.json") is None)
        assert calls(script) == 5
        place.remove("a_out.json")
        until(lambda: place.document("a_out.json") == b'{"got":333}')
    with StandaloneHost(script, environ=environ):
        place.drop("new.json", b"4")
        until(lambda: place.document("new_out.json"))
    assert calls(script) == 7


def test_a_failing_input_is_tried_as_often_as_it_may_be_over_restarts_too(
    place: Place, write_script: WriteScript
) -> None:
    """The count is kept with the input; then the error document says what HTTP would."""
    script = write_script(COUNTING)
    environ = {**place.environ, "BLOB_MAX_ATTEMPTS": "3"}
    place.drop("bad.json", b'"fail"')
    with StandaloneHost(script, environ=environ) as host:
        until(lambda: calls(script) == 2)
        until(lambda: "at try 2 of 3" in host.log)
    with StandaloneHost(script, environ=environ):
        error = until(lambda: place.document("bad_error.json"))
        time.sleep(0.5)
    assert calls(script) == 3
    assert json.loads(error) == {
        "message": "An unexpected error occurred in scoring script. Check the logs for more info."
    }
    assert place.document("bad_out.json") is None


def test_a_large_input_gets_an_error_document(place: Place, write_script: WriteScript) -> None:
    """Named with its limit and the setting; run() never sees it."""
    script = write_script(COUNTING)
    with StandaloneHost(script, environ={**place.environ, "BLOB_MAX_BYTES": "10"}):
        place.drop("large.json", b"12345678901")
        place.drop("fits.json", b"1234567890")
        error = until(lambda: place.document("large_error.json"))
        until(lambda: place.document("fits_out.json"))
    assert json.loads(error) == {"message": "The blob is larger than 10 bytes (BLOB_MAX_BYTES)."}
    assert calls(script) == 1


def test_a_document_says_what_it_was_made_from(azurite: Azurite, write_script: WriteScript) -> None:
    """ETag of the input, status, request id and content type; the leases are let go."""
    place = Blobs(azurite, next(_NUMBERS))
    with place.service, StandaloneHost(write_script(COUNTING), environ=place.environ) as host:
        place.drop("a.json", b"1")
        until(lambda: place.document("a_out.json"))
        source = place.service.get_blob_client(place.input, "a.json")
        written = place.service.get_blob_client(place.output, "a_out.json").get_blob_properties()
        assert written.metadata["sourceetag"] == source.get_blob_properties().etag.strip('"')
        assert written.metadata["status"] == "200"
        assert re.fullmatch(r"[0-9a-f-]{36}", written.metadata["requestid"])
        assert written.content_settings.content_type == "application/json"
        until(lambda: source.get_blob_properties().lease.state == "available")
        assert f"blob {place.input}/a.json 200 " in host.log or until(
            lambda: f"blob {place.input}/a.json 200 " in host.log
        )


def test_a_blob_that_somebody_holds_waits_until_it_is_free(
    azurite: Azurite, write_script: WriteScript
) -> None:
    """A lease of another program is respected."""
    place, script = Blobs(azurite, next(_NUMBERS)), write_script(COUNTING)
    with place.service:
        place.drop("held.json", b"1")
        lease = place.service.get_blob_client(place.input, "held.json").acquire_lease(60)
        with StandaloneHost(script, environ=place.environ):
            place.drop("free.json", b"2")
            until(lambda: place.document("free_out.json"))
            assert calls(script) == 1
            lease.release()
            until(lambda: place.document("held_out.json"))


def test_a_schema_script_takes_blobs_of_any_type_by_their_name(
    azurite: Azurite, write_script: WriteScript
) -> None:
    """SDKs store blobs as application/octet-stream; gzip is decoded where the blob says so."""
    import gzip

    script = write_script(
        """
        from inference_schema.schema_decorators import input_schema
        from inference_schema.parameter_types.standard_py_parameter_type import (
            StandardPythonParameterType,
        )

        def init():
            pass

        @input_schema("data", StandardPythonParameterType([1]))
        def run(data):
            return sum(data)
        """
    )
    place = Blobs(azurite, next(_NUMBERS))
    with place.service, StandaloneHost(script, environ=place.environ):
        place.drop("plain.json", b'{"data": [1, 2]}')
        packed = place.service.get_blob_client(place.input, "packed.json")
        said = ContentSettings(content_type="application/json", content_encoding="gzip")
        packed.upload_blob(gzip.compress(b'{"data": [3, 4]}'), content_settings=said)
        assert until(lambda: place.document("plain_out.json")) == b"3"
        assert until(lambda: place.document("packed_out.json")) == b"7"


def test_a_missing_container_is_said_by_readiness_and_heals(
    azurite: Azurite, write_script: WriteScript
) -> None:
    """The process lives; the message names the setting."""
    place = Blobs(azurite, next(_NUMBERS))
    place.service.delete_container(place.input)
    with place.service, StandaloneHost(write_script(COUNTING), environ=place.environ) as host:
        ready = until(lambda: _not_ready(host))
        assert ready["state"] == "Unhealthy"
        assert "BLOB_INPUT_PATH" in ready["troubles"]["blob"]
        assert place.input in ready["troubles"]["blob"]
        assert httpx.get(f"{host.url}/health/live").status_code == 200
        place.service.create_container(place.input)
        place.drop("a.json", b"1")
        until(lambda: place.document("a_out.json"))
        until(lambda: httpx.get(f"{host.url}/health/ready").status_code == 200)


def test_a_wrong_key_is_unhealthy_and_never_shown(
    azurite: Azurite, write_script: WriteScript
) -> None:
    wrong = "AAAA" + KEY[4:]
    environ = {"TriggerConnectionString": azurite.connection_string.replace(KEY, wrong)}
    with StandaloneHost(write_script(COUNTING), environ=environ) as host:
        ready = until(lambda: _not_ready(host))
        assert "BLOB_CONNECTION" in ready["troubles"]["blob"]
        assert "TriggerConnectionString" in ready["troubles"]["blob"]
        host.stop()
        assert wrong not in host.log
        assert "sig=" not in host.log


def _not_ready(host: StandaloneHost) -> Any:
    answer = httpx.get(f"{host.url}/health/ready")
    return answer.json() if answer.status_code == 503 and "troubles" in answer.json() else None


def test_without_the_http_trigger_only_health_answers(
    tmp_path: Path, write_script: WriteScript
) -> None:
    place = Files(tmp_path)
    environ = {**place.environ, "SCORING_TRIGGERS": "blob"}
    with StandaloneHost(write_script(COUNTING), environ=environ) as host:
        assert httpx.post(f"{host.url}/score", content=b"1").status_code == 404
        assert httpx.get(f"{host.url}/health/ready").status_code == 200
        place.drop("a.json", b"1")
        until(lambda: place.document("a_out.json"))


def test_a_file_that_is_still_written_ends_with_the_right_result(
    tmp_path: Path, write_script: WriteScript
) -> None:
    """What a slow writer leaves last counts."""
    place = Files(tmp_path)
    environ = {**place.environ, "BLOB_MAX_ATTEMPTS": "1"}
    with StandaloneHost(write_script(COUNTING), environ=environ):
        with (place.input / "slow.json").open("wb", buffering=0) as file:
            for part in (b"[1", b",2", b",3", b"]"):
                file.write(part)
                time.sleep(0.25)
        until(lambda: place.document("slow_out.json") == b'{"got":[1,2,3]}')
        until(lambda: place.document("slow_error.json") is None)


def test_two_hosts_on_one_folder_score_each_file_once(
    tmp_path: Path, write_script: WriteScript
) -> None:
    place, script = Files(tmp_path), write_script(COUNTING)
    for number in range(200):
        place.drop(f"{number}.json", str(number).encode())
    environ = place.environ
    with StandaloneHost(script, environ=environ), StandaloneHost(script, environ=environ):
        until(lambda: len(list(place.output.glob("*_out.json"))) == 200)
    assert calls(script) == 200
    assert list((place.output / ".scoring").iterdir()) == []


# --- settings -------------------------------------------------------------------------------------

STORAGE = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0LWtleQ=="
BUS = "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"SCORING_TRIGGERS": "blob"}, ["TriggerConnectionString", "BLOB_CONNECTION"]),
        ({"SCORING_TRIGGERS": "blob", "BLOB_CONNECTION": "Mine"}, ["Mine", "BLOB_CONNECTION"]),
        ({"TriggerConnectionString": "c2VjcmV0"}, ["TriggerConnectionString"]),
        ({"TriggerConnectionString": "AccountName=a;AccountKey"}, ["TriggerConnectionString"]),
        ({"SCORING_TRIGGERS": "service_bus"}, ["SERVICEBUS_CONNECTION"]),
        ({"ServiceBusConnectionString": "c2VjcmV0"}, ["ServiceBusConnectionString"]),
        ({"BLOB_INPUT_PATH": "input/all.json"}, ["BLOB_INPUT_PATH", "placeholder"]),
        ({"BLOB_INPUT_PATH": "input"}, ["BLOB_INPUT_PATH", "no name"]),
        ({"BLOB_INPUT_PATH": "In_put/{x}"}, ["BLOB_INPUT_PATH", "In_put"]),
        ({"BLOB_INPUT_PATH": "input/{x"}, ["BLOB_INPUT_PATH", "brace"]),
        ({"BLOB_INPUT_PATH": "input/{a b}"}, ["BLOB_INPUT_PATH", "{a b}"]),
        ({"BLOB_INPUT_PATH": "input/{x}/{x}"}, ["BLOB_INPUT_PATH", "twice"]),
        ({"BLOB_INPUT_PATH": "input/{Uri}"}, ["BLOB_INPUT_PATH", "{Uri}"]),
        ({"BLOB_OUTPUT_PATH": "output/{other}"}, ["BLOB_OUTPUT_PATH", "{other}", "{blobname}"]),
        ({"BLOB_OUTPUT_PATH": "output/same.json"}, ["BLOB_OUTPUT_PATH", "{blobname}"]),
        ({"BLOB_OUTPUT_PATH": "input/{blobname}_out.json"}, ["BLOB_OUTPUT_PATH", "again"]),
        ({"BLOB_ERROR_PATH": "output/{blobname}_out.json"}, ["BLOB_ERROR_PATH", "same name"]),
        ({"BLOB_POLL_SECONDS": "often"}, ["BLOB_POLL_SECONDS", "often"]),
        ({"BLOB_INPUT_FOLDER": "in", "BLOB_OUTPUT_FOLDER": "in"}, ["BLOB_OUTPUT_FOLDER"]),
        ({"BLOB_INPUT_FOLDER": "in", "BLOB_ERROR_PATH": "x-y/{blobname}"}, ["BLOB_ERROR_PATH"]),
    ],
)
def test_a_bad_setting_stops_the_start_and_is_named(
    environ: dict[str, str], named: list[str], write_script: WriteScript, tmp_path: Path
) -> None:
    """Exit code 3, the last line says why, and no secret is shown."""
    if not any("Connection" in name or name == "SCORING_TRIGGERS" for name in environ):
        environ = {"TriggerConnectionString": STORAGE, **environ}
    script = write_script(COUNTING)
    command = [sys.executable, "-m", "scoring_runtime", "serve", "--entry-script", str(script)]
    done = subprocess.run(
        command,
        env=clean_environ(SCORING_HOST="127.0.0.1", **environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert [word for word in named if word not in last] == []
    assert "c2VjcmV0" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("http",)),
        ({"TriggerConnectionString": STORAGE}, ("http", "blob")),
        ({"TRIGGERCONNECTIONSTRING": STORAGE}, ("http", "blob")),
        ({"TriggerConnectionString": BUS}, ("http", "service_bus")),
        ({"AzureWebJobsTriggerConnectionString": STORAGE}, ("http", "blob")),
        ({"TriggerConnectionString__blobServiceUri": "https://a"}, ("http", "blob")),
        ({"TriggerConnectionString__fullyQualifiedNamespace": "n"}, ("http", "service_bus")),
        (
            {"TriggerConnectionString": STORAGE, "ServiceBusConnectionString": BUS},
            ("http", "blob", "service_bus"),
        ),
        ({"BLOB_CONNECTION": "Mine", "Mine": STORAGE}, ("http", "blob")),
        ({"BLOB_INPUT_FOLDER": "in"}, ("http", "blob")),
        (
            {"BLOB_INPUT_FOLDER": "in", "TriggerConnectionString": BUS},
            ("http", "blob", "service_bus"),
        ),
        ({"SCORING_TRIGGERS": "service_bus", "TriggerConnectionString": STORAGE}, ("service_bus",)),
    ],
)
def test_the_triggers_are_those_whose_connection_is_set(
    environ: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert triggers(Settings.from_environ(environ)) == expected


def test_connections_are_found_by_name_and_shown_without_their_secrets() -> None:
    """Connection strings, Azurite's short form, and identities."""
    found = blob(Settings.from_environ({"TriggerConnectionString": STORAGE}))
    assert (found.name, found.text) == ("TriggerConnectionString", STORAGE)
    assert "c2VjcmV0" not in repr(found)
    short = Settings.from_environ({"TriggerConnectionString": "UseDevelopmentStorage=true"})
    assert blob(short).text == AZURITE
    named = {"Bus__fullyQualifiedNamespace": "n.servicebus.windows.net", "Bus__clientId": "me"}
    identity = service_bus(Settings.from_environ({"SERVICEBUS_CONNECTION": "Bus", **named}))
    assert (identity.text, identity.address) == ("", "n.servicebus.windows.net")
    assert identity.client_id == "me"
    account = {"TriggerConnectionString__accountName": "mine"}
    found = blob(Settings.from_environ(account))
    assert found.address == "https://mine.blob.core.windows.net"


# --- templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("in1/{blobname}.json", "a.json", {"blobname": "a"}),
        ("in1/{blobname}.json", "f/a.json", {"blobname": "f/a"}),
        ("in1/{blobname}.json", "a.b.json", {"blobname": "a.b"}),
        ("in1/{blobname}.json", ".json", None),
        ("in1/{blobname}.json", "a.JSON", None),
        ("in1/{blobname}.json", "aXjson", None),
        ("in1/{name}", "x/y z\n.bin", {"name": "x/y z\n.bin"}),
        ("in1/{folder}/{name}.{ext}", "a/b/c.d.e", {"folder": "a/b", "name": "c.d", "ext": "e"}),
        ("in1/x-{name}", "y-1", None),
        ("in1/{{{name}}}.txt", "{a}.txt", {"name": "a"}),
        ("/in1/{name}", "a", {"name": "a"}),
    ],
)
def test_a_template_matches_as_functions_do(
    text: str, name: str, values: dict[str, str] | None
) -> None:
    """Slashes included; the first placeholder takes as much as it can."""
    template = Template("BLOB_INPUT_PATH", text).compile()
    assert template.match(name) == values
    if values is not None:
        assert template.fill(values) == name


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("output/{blobname}_out.json", "output/{blobname}_error.json"),
        ("results/{blobname}.json", "results/{blobname}_error.json"),
        ("results/{blobname}", "results/{blobname}_error.json"),
        ("r-1/{folder}/{name}_out.{ext}", "r-1/{folder}/{name}_out.{ext}_error.json"),
    ],
)
def test_the_error_path_follows_the_output_path(output: str, error: str) -> None:
    assert error_path(Settings(blob_output_path=output)) == error


def test_two_inputs_may_share_no_document_where_it_is_the_receipt() -> None:
    """They would be scored again for ever, each for the other's sake."""
    paths = blob_paths(
        Settings(blob_input_path="input/{name}.{ext}", blob_output_path="output/{name}.json")
    )
    with pytest.raises(ConfigurationError, match=r"\{ext\} of BLOB_INPUT_PATH is left out"):
        refuse_shared_documents(paths)


def test_a_poll_with_nothing_new_is_two_listings(tmp_path: Path, write_script: WriteScript) -> None:
    """No request for each blob finds out what is new, however many are done."""
    log = tmp_path / "azurite.log"
    with Azurite(debug_log=log) as azurite:
        place = Blobs(azurite, 0)
        with place.service, StandaloneHost(write_script(COUNTING), environ=place.environ):
            for number in range(20):
                place.drop(f"{number}.json", b"1")
            until(lambda: place.document("19_out.json") and place.document("9_out.json"))
            time.sleep(1)
            before = len(requests_in(log))
            time.sleep(2)
            seen = requests_in(log)[before:]
    kinds = {place.input: 0, place.output: 0}
    for method, url in seen:
        container = next(name for name in kinds if f"/{name}" in url)
        assert (method, "comp=list" in url) == ("GET", True)
        kinds[container] += 1
    assert kinds[place.input] >= 5
    assert abs(kinds[place.input] - kinds[place.output]) <= 1


def requests_in(log: Path) -> list[tuple[str, str]]:
    return re.findall(r"RequestMethod=(\w+) RequestURL=(\S+)", log.read_text())
