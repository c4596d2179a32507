"""Several models in one service: paths, defaults, blobs and messages, threads, and the cache."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusClient
from azure.storage.blob import BlobServiceClient

from scoring_runtime.errors import ModelUnusable, NotStarted
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import HttpRequest, Reply
from scoring_runtime.messages import ScoringRequest, ScoringResponse
from scoring_runtime.scoring.runtime import _all_of, build
from scoring_runtime.settings.settings import Settings
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.functions import FunctionsHost, blob_event, message_event
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until
from tests.models_for_tests import (
    IRIS_ROWS,
    ROOT,
    ModelHost,
    functions_model_host,
    iris_estimator,
    matmul_onnx,
    registered,
    saved,
    sum_estimator,
)

PATIENCE = 180.0
FACTORS = {"iris:1": 1.0, "iris:2": 2.0, "iris:10": 10.0, "other:1": 100.0}
"""The models of the registry: each gives another multiple of the weighted sum of two numbers."""
BODY = b'{"data": [[1, 2], [3.5, -1]]}'
NOT_FOUND = "The requested URL was not found on the server."
WHICH = (
    "Several models are served and none is the default (SCORING_DEFAULT_MODEL). Name one: "
    "/score/iris, /score/other; for a blob or message by its metadata or property 'model'."
)
NO_MODEL = "There is no model 'none' here. Served: iris, other."
NO_VERSION = "The model iris has no version '3'. It has: 1, 2, 10."


def result(identity: str, rows: Any = ((1, 2), (3.5, -1))) -> Any:
    """What the model gives for the body."""
    return sum_estimator(FACTORS[identity]).predict(np.array(rows)).tolist()


def registry_in(folder: Path) -> Path:
    made = {identity.replace(":", "/"): sum_estimator(each) for identity, each in FACTORS.items()}
    return registered(folder / "azureml-models", made)


def post(url: str, body: bytes = BODY, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("content-type", "application/json")
    return httpx.post(url, content=body, headers=named, timeout=120)


# --- both hosts with every trigger ----------------------------------------------------------------


class Ways:
    """Standalone and Functions hosts of one registry, with storage and a broker."""

    def __init__(self, registry: Path, azurite: Azurite, stack: ExitStack) -> None:
        self.storage = stack.enter_context(
            BlobServiceClient.from_connection_string(azurite.connection_string)
        )
        self.input, self.output = "models-in", "models-out"
        self.storage.create_container(self.input)
        self.broker = stack.enter_context(ServiceBusBroker())
        for name in ("input", "output", "input-functions", "output-functions"):
            self.broker.add_queue(name)
        environ = {
            "TriggerConnectionString": azurite.connection_string,
            "ServiceBusConnectionString": self.broker.connection_string,
            "BLOB_INPUT_PATH": f"{self.input}/{{model}}/{{blobname}}.json",
            "BLOB_OUTPUT_PATH": f"{self.output}/{{model}}/{{blobname}}_out.json",
            "BLOB_POLL_SECONDS": "0.1-0.2",
        }
        self.standalone = ModelHost(registry, environ=environ)
        self.standalone.start()
        stack.callback(self.standalone.stop)
        queues = {
            "SERVICEBUS_INPUT_QUEUE": "input-functions",
            "SERVICEBUS_OUTPUT_QUEUE": "output-functions",
        }
        self.functions = stack.enter_context(functions_model_host(registry, **environ, **queues))
        client = ServiceBusClient.from_connection_string(self.broker.connection_string)
        self.receiver = stack.enter_context(
            stack.enter_context(client).get_queue_receiver("input-functions")
        )
        self.standalone.wait_ready()

    def blob(self, name: str, metadata: Mapping[str, str]) -> tuple[str, Any]:
        """The document that the standalone host makes of a blob: ``out`` or ``error``, JSON."""
        blob = self.storage.get_blob_client(self.input, f"{name}.json")
        blob.upload_blob(BODY, metadata=dict(metadata))
        found: tuple[str, Any] = until(lambda: self._document(name))
        return found

    def _document(self, name: str) -> tuple[str, Any] | None:
        for kind in ("out", "error"):
            blob = self.storage.get_blob_client(self.output, f"{name}_{kind}.json")
            try:
                return kind, json.loads(blob.download_blob().readall())
            except ResourceNotFoundError:
                continue
        return None

    def functions_blob(self, name: str, metadata: Mapping[str, str]) -> tuple[str, Any]:
        """The same on the Functions host."""
        event = blob_event(f"{self.input}/{name}.json", BODY)
        event["metadata"]["Metadata"] = {"type": "json", "value": json.dumps(metadata)}
        done = self.functions.deliver("score_blob", event)
        assert done.failure == ""
        [(binding, content)] = done.outputs.items()
        return {"output": "out", "error": "error"}[binding], json.loads(content)

    def message(self, properties: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """The reply to a message on the standalone host, and the dead letters."""
        self.broker.send("input", BODY, message_id="m", properties=properties)
        return self._replied("input", "output")

    def functions_message(self, properties: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """The same on the Functions host."""
        self.broker.send("input-functions", BODY, message_id="m", properties=properties)
        [message] = self.receiver.receive_messages(1, max_wait_time=60)
        done = self.functions.deliver("score_message", message_event(message))
        assert done.failure == ""
        if self.broker.counts("input-functions").locked:
            self.receiver.complete_message(message)
        return self._replied("input-functions", "output-functions")

    def _replied(self, queue: str, answers: str) -> tuple[Any, list[Any]]:
        self.broker.wait_for(lambda: self.broker.counts(queue)[:2] == (0, 0), PATIENCE)
        [reply] = self.broker.take_all(answers)
        return reply, self.broker.take_all(f"{queue}/$deadletterqueue")


@pytest.fixture(scope="module")
def ways(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    with ExitStack() as stack:
        yield Ways(registry_in(tmp_path_factory.mktemp("ways")), azurite, stack)


@pytest.fixture(params=["standalone", "functions"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two hosts."""
    return str(request.param)


@pytest.fixture
def url(kind: str, ways: Ways) -> str:
    found: StandaloneHost | FunctionsHost = getattr(ways, kind)
    return found.url


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("/score/iris", "iris:10"),
        ("/score/iris/1", "iris:1"),
        ("/score/iris/2", "iris:2"),
        ("/score/iris/10", "iris:10"),
        ("/score/other", "other:1"),
        ("/score/other/1", "other:1"),
        ("/score/%69ris/2", "iris:2"),
    ],
)
def test_the_path_chooses_the_model(path: str, identity: str, url: str):
    """Without a version the highest, by number: 10 comes after 2."""
    answer = post(url + path)
    assert (answer.status_code, answer.json()) == (200, result(identity))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/score", WHICH),
        ("/score/none", NO_MODEL),
        ("/score/none/1", NO_MODEL),
        ("/score/iris/3", NO_VERSION),
        ("/score/iris/01", NO_VERSION.replace("3", "01")),
        ("/score/IRIS", NO_MODEL.replace("none", "IRIS")),
    ],
    ids=["no-default", "name", "name-version", "version", "zero", "case"],
)
def test_a_model_that_is_not_there_is_404_with_those_that_are(path: str, message: str, url: str):
    answer = post(url + path)
    assert (answer.status_code, answer.json()) == (404, {"message": message})


@pytest.mark.parametrize("path", ["/score/", "/score//1", "/score/iris/", "/score/iris/1/more"])
def test_other_paths_below_score_are_404(path: str, url: str):
    answer = post(url + path)
    assert answer.status_code == 404
    # What has no route at all is answered by the Functions host itself, without a body.
    assert answer.content == b"" or answer.json()["message"].startswith(NOT_FOUND)


def test_one_of_several_takes_the_methods_of_score(url: str):
    got = httpx.get(f"{url}/score/iris?a=1")
    assert (got.status_code, got.json()) == (405, {"message": "Send the input with POST."})
    assert httpx.options(f"{url}/score/iris").status_code == 200
    assert httpx.put(f"{url}/score/iris", content=BODY).status_code == 405


BLOBS: Mapping[str, tuple[str, dict[str, str], str, Any]] = {
    "path": ("iris/a", {}, "out", result("iris:10")),
    "path-other": ("other/a", {}, "out", result("other:1")),
    "path-version": ("iris/2/a", {}, "out", result("iris:2")),
    "path-identity": ("iris:2/a", {}, "out", result("iris:2")),
    "metadata-wins": ("iris/b", {"model": "other"}, "out", result("other:1")),
    "metadata-version": ("iris/c", {"Model": "iris:1"}, "out", result("iris:1")),
    "unknown": ("none/a", {}, "error", {"message": NO_MODEL}),
    "unknown-version": ("iris/d", {"model": "iris:3"}, "error", {"message": NO_VERSION}),
}


@pytest.mark.parametrize("case", list(BLOBS))
def test_a_blobs_path_and_metadata_choose_the_model(case: str, kind: str, ways: Ways):
    name, metadata, document, content = BLOBS[case]
    scored = ways.blob if kind == "standalone" else ways.functions_blob
    assert scored(name, metadata) == (document, content)


MESSAGES: Mapping[str, tuple[dict[str, str], int, Any]] = {
    "highest": ({"model": "iris"}, 200, result("iris:10")),
    "version": ({"Model": "iris:1"}, 200, result("iris:1")),
    "other": ({"model": "other/1", "x-mine": "1"}, 200, result("other:1")),
    "none": ({}, 404, {"message": WHICH}),
    "unknown": ({"model": "none"}, 404, {"message": NO_MODEL}),
    "unknown-version": ({"model": "iris:3"}, 404, {"message": NO_VERSION}),
}


@pytest.mark.parametrize("case", list(MESSAGES))
def test_a_messages_property_chooses_the_model(case: str, kind: str, ways: Ways):
    """One that names no model here is answered with the list of those there are and buried."""
    properties, status, content = MESSAGES[case]
    ask = ways.message if kind == "standalone" else ways.functions_message
    reply, letters = ask(properties)
    assert json.loads(reply.body) == content
    assert reply.application_properties["status"] == status
    said = [each.application_properties for each in letters]
    if status == 200:
        assert said == []
    else:
        [letter] = said
        assert letter["DeadLetterReason"] == "UnknownModel"
        assert letter["DeadLetterErrorDescription"] == content["message"]


def test_a_watched_folders_path_chooses_the_model(tmp_path: Path):
    registry, watched = registry_in(tmp_path), tmp_path / "in"
    for name in ("iris/a.json", "other/a.json", "iris/2/a.json", "none/a.json", "iris/a.txt"):
        (watched / name).parent.mkdir(parents=True, exist_ok=True)
        (watched / name).write_bytes(BODY)
    environ = {
        "BLOB_INPUT_PATH": "input/{model}/{blobname}.json",
        "BLOB_OUTPUT_PATH": "output/{model}/{blobname}_out.json",
        "BLOB_POLL_SECONDS": "0.1",
    }
    made = tmp_path / "output"

    def documents() -> dict[str, Any]:
        found = [each for each in made.rglob("*.json") if ".scoring" not in each.parts]
        return {each.relative_to(made).as_posix(): json.loads(each.read_bytes()) for each in found}

    with ModelHost(registry, "--watch", str(watched), environ=environ):
        until(lambda: len(documents()) == 4)
    assert documents() == {
        "iris/a_out.json": result("iris:10"),
        "other/a_out.json": result("other:1"),
        "iris/2/a_out.json": result("iris:2"),
        "none/a_error.json": {"message": NO_MODEL},
    }


# --- the default ----------------------------------------------------------------------------------


async def answers(settings: Settings, *paths: str) -> list[Reply]:
    """What the endpoint of a runtime in this process answers."""
    runtime = build(settings)
    runtime.start()
    await runtime.started()
    endpoint, _ = create(runtime)
    found = [await endpoint(HttpRequest("POST", path, b"", [], BODY)) for path in paths]
    await runtime.stop()
    return found


def answered(folder: Path, *paths: str, **environ: str) -> list[tuple[int, Any]]:
    settings = Settings.from_environ({"AZUREML_MODEL_DIR": str(folder), **environ})
    replies = asyncio.run(answers(settings, *paths))
    return [(each.status, json.loads(bytes(each.body))) for each in replies]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("default", "identity"),
    [
        ("iris", "iris:10"),
        ("iris:10", "iris:10"),
        ("iris:2", "iris:2"),
        ("iris/1", "iris:1"),
        ("other", "other:1"),
        ("other:1", "other:1"),
    ],
)
def test_the_default_is_named_by_a_setting(default: str, identity: str, tmp_path: Path):
    """It is for /score alone: the others keep their paths."""
    found = answered(
        registry_in(tmp_path), "/score", "/score/iris/2", SCORING_DEFAULT_MODEL=default
    )
    assert found == [(200, result(identity)), (200, result("iris:2"))]


def test_one_version_alone_has_its_name_and_version(tmp_path: Path):
    """As AZUREML_MODEL_DIR is set in an image of one model."""
    found = answered(
        registry_in(tmp_path) / "iris" / "2", "/score", "/score/iris/2", "/score/iris", "/score/x"
    )
    assert found[:3] == [(200, result("iris:2"))] * 3
    assert found[3] == (404, {"message": "There is no model 'x' here. Served: iris."})


@pytest.mark.parametrize(
    ("default", "path"),
    [("", "/score/plain/1"), ("mine", "/score/mine"), ("mine:3", "/score/mine/3")],
    ids=["folder", "name", "name-version"],
)
def test_a_folder_that_is_no_registry_is_one_model(default: str, path: str, tmp_path: Path):
    """Named as the folder, or as the setting says."""
    folder = saved(tmp_path / "plain", sum_estimator(2.0))
    environ = {"SCORING_DEFAULT_MODEL": default} if default else {}
    assert answered(folder, "/score", path, **environ) == [(200, result("iris:2"))] * 2


# --- what keeps them from starting ----------------------------------------------------------------


def ended(folder: Path, **environ: str) -> tuple[int, str]:
    """Exit code and output of a host that ends by itself."""
    host = ModelHost(folder, environ=environ)
    host.start()
    try:
        host.process.wait(PATIENCE)
        return host.process.returncode, host.log
    finally:
        host.stop()


def test_a_wrong_default_ends_the_host_with_3(tmp_path: Path):
    code, log = ended(registry_in(tmp_path), SCORING_DEFAULT_MODEL="none")
    assert code == 3
    assert f"SCORING_DEFAULT_MODEL is 'none'. {NO_MODEL}" in log
    assert "Traceback" not in log


def test_a_wrong_default_keeps_the_functions_host_from_starting(tmp_path: Path):
    with (
        pytest.raises(RuntimeError, match="SCORING_DEFAULT_MODEL is 'none'") as caught,
        functions_model_host(registry_in(tmp_path), SCORING_DEFAULT_MODEL="none"),
    ):
        pass
    assert NO_MODEL in str(caught.value)


BROKEN: Mapping[str, Callable[[Path], object]] = {
    "cut-pickle": lambda folder: (folder / "model.joblib").write_bytes(
        (saved(folder.parent / "whole", sum_estimator()) / "model.joblib").read_bytes()[:-40]
    ),
    "cut-onnx": lambda folder: (folder / "model.onnx").write_bytes(matmul_onnx()[:-40]),
    "empty": lambda folder: None,
    "no-predict": lambda folder: saved(folder, {"not": "an estimator"}),
    "two": lambda folder: [
        (saved(folder, matmul_onnx()) / "again.onnx").write_bytes(matmul_onnx())
    ],
}


@pytest.mark.parametrize("name", ["aaa", "zzz"], ids=["first", "last"])
@pytest.mark.parametrize("kind_of_damage", list(BROKEN))
def test_one_broken_model_is_named_by_the_error(kind_of_damage: str, name: str, tmp_path: Path):
    """Whether it is loaded before or after the good ones."""
    folder = registry_in(tmp_path) / name / "7"
    folder.mkdir(parents=True)
    BROKEN[kind_of_damage](folder)
    with pytest.raises(ModelUnusable) as caught:
        answered(tmp_path / "azureml-models", "/score")
    assert f"/azureml-models/{name}/7" in str(caught.value)


def test_one_broken_model_ends_the_host_with_3_and_a_diagnosis(tmp_path: Path):
    folder = registry_in(tmp_path) / "jagged" / "7"
    folder.mkdir(parents=True)
    BROKEN["cut-pickle"](folder)
    code, log = ended(tmp_path / "azureml-models")
    assert code == 3
    last = log.rstrip().splitlines()[-1]
    assert last.startswith("Cause: ")
    assert "jagged/7" in last


def test_the_first_of_several_failures_is_the_one_that_is_told(tmp_path: Path):
    """Those after it are not tried; that they were not is no cause."""
    root = registry_in(tmp_path)
    for number in range(5):
        folder = root / f"bad{number}" / "1"
        folder.mkdir(parents=True)
        BROKEN["cut-onnx"](folder)
    for _ in range(5):
        with pytest.raises(ModelUnusable, match="bad0/1"):
            answered(root, "/score")


def test_a_failure_is_told_before_those_that_follow_from_it(monkeypatch: pytest.MonkeyPatch):
    """Also when the thread of the model after it is the first to get on."""
    first, second = Future[Any](), Future[Any]()
    whole = _all_of([first, second])
    monkeypatch.setattr(first, "_invoke_callbacks", lambda: None)  # its thread is not on yet
    first.set_exception(ModelUnusable("the cause"))
    second.set_exception(NotStarted("a model before it could not be loaded"))
    assert str(whole.exception(0)) == "the cause"


# --- threads --------------------------------------------------------------------------------------

MODULE = '''
"""A model that tells where it runs."""

import pathlib
import threading
import time

import numpy as np

local = threading.local()
loaded = []


class Where:
    def __init__(self, gate=""):
        self.gate = gate

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.loaded_in = threading.get_ident()

    def predict(self, values):
        """Thread, thread of loading, calls in this thread; waits while the gate is shut."""
        local.calls = getattr(local, "calls", 0) + 1
        if self.gate and values[0][0] < 0:
            pathlib.Path(self.gate + ".reached").touch()
            while not pathlib.Path(self.gate).exists():
                time.sleep(0.01)
        return np.array([[threading.get_ident(), self.loaded_in, local.calls]])
'''


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A registry of three models of the module's class, and the gate that holds up `slow`."""
    (tmp_path / "where_it_runs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import where_it_runs  # type: ignore[import-not-found]

    gate = tmp_path / "gate"
    made = {"quick/1": "", "quick/2": "", "slow/1": str(gate)}
    models = {place: where_it_runs.Where(each) for place, each in made.items()}
    yield registered(tmp_path / "azureml-models", models), gate
    del sys.modules["where_it_runs"]


def serving(kind: str, registry: Path, **settings: str) -> ModelHost | FunctionsHost:
    if kind == "functions":
        return functions_model_host(registry, **settings)
    return ModelHost(registry, environ=settings)


def place(url: str, model: str) -> list[int]:
    answer = post(f"{url}/score/{model}", b"[[1.0]]")
    assert answer.status_code == 200, answer.text
    [found] = answer.json()
    return [int(each) for each in found]


def test_each_model_has_a_thread_of_its_own(kind: str, where: tuple[Path, Path]):
    """It is loaded there, all its calls are made there, and no other model's are."""
    models = ["quick/1", "quick/2", "slow/1"]
    with serving(kind, where[0]) as host, ThreadPoolExecutor(6) as pool:
        found = {model: list(pool.map(place, [host.url] * 10, [model] * 10)) for model in models}
    threads = {}
    for model, places in found.items():
        [threads[model]] = {(thread, loading) for thread, loading, _ in places}
        assert threads[model][0] == threads[model][1]
        numbers = sorted(number for *_, number in places)
        # Those before were the model's example.
        assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert len(set(threads.values())) == 3


def test_a_model_that_is_slow_does_not_hold_up_the_others(kind: str, where: tuple[Path, Path]):
    registry, gate = where
    with serving(kind, registry) as host, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(post, f"{host.url}/score/slow", b"[[-1.0]]")
        try:
            until(Path(f"{gate}.reached").exists)
            before = place(host.url, "quick")
            assert place(host.url, "quick")[0] == before[0]
            assert httpx.get(f"{host.url}/v2/models/slow/ready").status_code == 200
            assert not slow.done()
        finally:
            gate.touch()
        [[thread, *_]] = slow.result(PATIENCE).json()
    assert thread != before[0]


def test_a_model_past_its_deadline_is_not_ready_the_others_are(kind: str, where: tuple[Path, Path]):
    registry, gate = where
    with serving(kind, registry, SCORING_TIMEOUT_MS="2000") as host:
        try:
            late = post(f"{host.url}/score/slow", b"[[-1.0]]")
            ready = {
                model: httpx.get(f"{host.url}/v2/models/{model}/ready").status_code
                for model in ("slow", "quick")
            }
            scored = place(host.url, "quick")
            whole = httpx.get(f"{host.url}/health/live").status_code
        finally:
            gate.touch()
        assert (late.status_code, late.json()) == (
            500,
            {"message": "Scoring timeout after 2000 ms"},
        )
        assert ready == {"slow": 503, "quick": 200}
        assert len(scored) == 3
        assert whole == 503
        until(lambda: httpx.get(f"{host.url}/v2/models/slow/ready").status_code == 200)
        assert httpx.get(f"{host.url}/health/live").status_code == 200


# --- an entry script ------------------------------------------------------------------------------

SCRIPT = """
import os

def init():
    pass

def run(data):
    return sorted(os.listdir(os.environ["AZUREML_MODEL_DIR"]))
"""


@pytest.mark.parametrize(
    ("below", "default", "name", "version"),
    [
        ("iris/2", "", "iris", "2"),
        ("", "", "model", "1"),
        ("", "both", "both", "1"),
        ("", "both:4", "both", "4"),
    ],
    ids=["one", "several", "named", "named-version"],
)
def test_an_entry_script_scores_for_all_models(
    below: str,
    default: str,
    name: str,
    version: str,
    tmp_path: Path,
    write_script: WriteScript,
    monkeypatch: pytest.MonkeyPatch,
):
    folder = registry_in(tmp_path / "registry") / below
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))  # as the command line does
    environ = {"AZUREML_ENTRY_SCRIPT": str(write_script(SCRIPT)), "AZUREML_MODEL_DIR": str(folder)}
    if default:
        environ["SCORING_DEFAULT_MODEL"] = default
    seen = sorted(each.name for each in folder.iterdir())
    paths = ("/score", f"/score/{name}", f"/score/{name}/{version}", "/score/none")
    *found, unknown = answered(folder, *paths, **environ)
    assert found == [(200, seen)] * 3
    assert unknown == (404, {"message": f"There is no model 'none' here. Served: {name}."})


def test_a_script_scores_a_blob_whose_metadata_call_something_else_model(
    tmp_path: Path, write_script: WriteScript, monkeypatch: pytest.MonkeyPatch
):
    """What scored before there were models by name goes on doing so."""
    folder = registry_in(tmp_path / "registry")
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(folder))
    settings = Settings.from_environ(
        {
            "AZUREML_ENTRY_SCRIPT": str(
                write_script("def init(): ...\ndef run(data): return data")
            ),
            "AZUREML_MODEL_DIR": str(folder),
        }
    )

    async def main() -> ScoringResponse:
        runtime = build(settings)
        runtime.start()
        response = await runtime.score(ScoringRequest(b"text", model="iPhone 12"))
        await runtime.stop()
        return response

    assert asyncio.run(main()).body == b'"text"'


# --- the command line -----------------------------------------------------------------------------


def score(registry: Path, *options: str) -> tuple[int, bytes, str]:
    command = [sys.executable, "-m", "scoring_runtime", "score", "--model-dir", str(registry)]
    done = subprocess.run(
        [*command, *options],
        input=BODY,
        capture_output=True,
        env=clean_environ(PYTHONPATH=str(ROOT)),
        cwd=registry,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_the_command_line_names_the_model(tmp_path: Path):
    registry = registry_in(tmp_path)
    code, answer, _ = score(registry, "--model", "iris:2")
    assert (code, json.loads(answer)) == (0, result("iris:2"))
    code, answer, said = score(registry, "--model", "none")
    assert (code, answer) == (2, b"")
    assert NO_MODEL in said
    code, answer, said = score(registry)
    assert (code, answer) == (2, b"")
    assert WHICH in said


def test_the_log_of_the_start_lists_the_paths(ways: Ways):
    for identity in FACTORS:
        place = identity.replace(":", "/")
        assert f"POST  {ways.standalone.url}/score/{place}\n" in ways.standalone.log


def test_several_workers_each_serve_all_models(tmp_path: Path):
    """There is no init() to run before the processes are forked, which is no reason to fail."""
    environ = {"WORKER_COUNT": "2", "WORKER_PRELOAD": "true"}
    with ModelHost(registry_in(tmp_path), environ=environ) as host:
        for _ in range(10):  # on a new connection each
            assert post(f"{host.url}/score/iris/2").json() == result("iris:2")
            assert post(f"{host.url}/score/other").json() == result("other:1")


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Both hosts of the same models with a cache; the URL by the host's kind."""
    folder = tmp_path_factory.mktemp("cached")
    registry = registered(registry_in(folder), {"classes/1": iris_estimator()})
    with (
        ModelHost(registry, environ={"CACHE_URL": "memory://"}) as standalone,
        functions_model_host(registry, CACHE_URL="memory://") as functions,
    ):
        yield {"standalone": standalone.url, "functions": functions.url}


@pytest.fixture
def cached_url(kind: str, cached: Mapping[str, str]) -> str:
    return cached[kind]


_numbers = iter(range(1, 1000))


def rows_of_its_own() -> list[list[float]]:
    """Rows that no other test has sent."""
    return [[1.5, float(next(_numbers))]]


def seen(answer: httpx.Response) -> tuple[int, str, Any]:
    return answer.status_code, answer.headers.get("x-cache", ""), answer.json()


def test_the_cache_keeps_models_apart(cached_url: str):
    rows = rows_of_its_own()
    body = json.dumps({"data": rows}).encode()
    for identity in FACTORS:
        path = f"{cached_url}/score/{identity.replace(':', '/')}"
        assert seen(post(path, body)) == (200, "miss", result(identity, rows))
    for identity in FACTORS:
        path = f"{cached_url}/score/{identity.replace(':', '/')}"
        assert seen(post(path, body)) == (200, "hit", result(identity, rows))
    assert seen(post(f"{cached_url}/score/iris", body)) == (200, "hit", result("iris:10", rows))


def test_the_cache_knows_v2_requests_by_model_and_id(cached_url: str):
    rows = rows_of_its_own()
    tensor = {"name": "X", "datatype": "FP64", "shape": [1, 2], "data": rows[0]}

    def ask(model: str, identifier: str) -> tuple[str, str, str, Any]:
        body = json.dumps({"inputs": [tensor], "id": identifier}).encode()
        answer = post(f"{cached_url}/v2/models/{model}/infer", body)
        found = answer.json()
        [output] = found["outputs"]
        said = f"{found['model_name']}:{found['model_version']}"
        return answer.headers["x-cache"], said, found["id"], output["data"]

    for state in ("miss", "hit"):
        for identity in ("iris:1", "other:1"):
            place = identity.replace(":", "/versions/")
            for number in ("a", "b"):
                wanted = (state, identity, number, result(identity, rows))
                assert ask(place, number) == wanted


def test_the_cache_knows_binary_requests_by_the_length_of_their_head(cached_url: str):
    values = np.array(rows_of_its_own())
    tensor = {"name": "X", "datatype": "FP64", "shape": [1, 2]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}]}).encode()
    body, path = head + values.tobytes(), f"{cached_url}/v2/models/iris/infer"
    states = [
        seen(post(path, body, inference_header_content_length=str(len(head))))[:2] for _ in range(2)
    ]
    assert states == [(200, "miss"), (200, "hit")]
    cut = post(path, body, inference_header_content_length=str(len(head) - 1))
    assert cut.status_code == 400


def test_the_order_of_columns_is_no_matter_of_form_without_names(cached_url: str):
    """The model takes columns in their order, so another order is another input."""
    a, b = 1.5, float(next(_numbers))
    path = f"{cached_url}/score/iris/1"
    first = json.dumps({"data": [{"a": a, "b": b}]}).encode()
    other = json.dumps({"data": [{"b": b, "a": a}]}).encode()
    assert seen(post(path, first)) == (200, "miss", result("iris:1", [[a, b]]))
    assert seen(post(path, other)) == (200, "miss", result("iris:1", [[b, a]]))
    assert seen(post(path, first)) == (200, "hit", result("iris:1", [[a, b]]))


def test_the_cache_keeps_methods_and_formats_apart(cached_url: str):
    rows = [[*IRIS_ROWS[0][:3], float(next(_numbers)) / 100]]
    body, path = json.dumps({"data": rows}).encode(), f"{cached_url}/score/classes"
    estimator = iris_estimator()
    for state in ("miss", "hit"):
        assert seen(post(path, body)) == (200, state, estimator.predict(rows).tolist())
        found = seen(post(f"{path}?method=predict_proba", body))
        assert found == (200, state, estimator.predict_proba(rows).tolist())
        table = post(path, body, accept="text/csv")
        assert (table.status_code, table.headers["x-cache"]) == (200, state)
        assert table.text.split() == ["predict", str(estimator.predict(rows)[0])]
