"""Several models in one service: paths, defaults, blobs and messages, threads, and the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from scoring_runtime.errors import ModelUnusable, NotStarted
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.scoring.runtime import _all_of
from tests.conftest import WriteScript
from tests.hosts.azurite import Azurite
from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.hosts.waiting import until
from tests.hosts.ways import Ways
from tests.models_for_tests import (
    ROOT,
    ModelHost,
    answers,
    functions_model_host,
    matmul_onnx,
    registered,
    replies,
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


@pytest.fixture(scope="module")
def ways(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    registry = registry_in(tmp_path_factory.mktemp("ways"))
    paths = ("{model}/{blobname}.json", "{model}/{blobname}_out.json")
    with Ways(
        azurite,
        lambda environ: ModelHost(registry, environ=environ),
        lambda environ: functions_model_host(registry, **environ),
        paths,
    ) as made:
        yield made


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
        ("/score/other", "other:1"),
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
        ("/score/iris/3", NO_VERSION),
    ],
    ids=["no-default", "name", "version"],
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
    "path-version": ("iris/2/a", {}, "out", result("iris:2")),
    "metadata-wins": ("iris/b", {"model": "other"}, "out", result("other:1")),
    "metadata-version": ("iris/c", {"Model": "iris:1"}, "out", result("iris:1")),
    "unknown": ("none/a", {}, "error", {"message": NO_MODEL}),
}


@pytest.mark.parametrize("case", list(BLOBS))
def test_a_blobs_path_and_metadata_choose_the_model(case: str, kind: str, ways: Ways):
    name, metadata, document, content = BLOBS[case]
    scored = ways.blob if kind == "standalone" else ways.functions_blob
    found, said = scored(name, BODY, metadata)
    told = json.loads(said)
    if kind != "standalone" and found == "error":  # where a document has no metadata
        assert told.pop("request_id")
    assert (found, told) == (document, content)


MESSAGES: Mapping[str, tuple[dict[str, str], int, Any]] = {
    "highest": ({"model": "iris"}, 200, result("iris:10")),
    "version": ({"Model": "iris:1"}, 200, result("iris:1")),
    "other": ({"model": "other/1", "x-mine": "1"}, 200, result("other:1")),
    "none": ({}, 404, {"message": WHICH}),
    "unknown": ({"model": "none"}, 404, {"message": NO_MODEL}),
}


@pytest.mark.parametrize("case", list(MESSAGES))
def test_a_messages_property_chooses_the_model(case: str, kind: str, ways: Ways):
    """One that names no model here is answered with the list of those there are and buried."""
    properties, status, content = MESSAGES[case]
    ask = ways.message if kind == "standalone" else ways.functions_message
    reply, letters = ask(BODY, properties)
    assert json.loads(reply.body) == content
    assert reply.application_properties["status"] == status
    said = [each.application_properties for each in letters]
    if status == 200:
        assert said == []
    else:
        [letter] = said
        assert letter["DeadLetterReason"] == "UnknownModel"
        assert letter["DeadLetterErrorDescription"] == f"{content['message']} [m]"


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
    answered = documents()
    assert answered.pop("none/a_error.json")["message"] == NO_MODEL
    assert answered == {
        "iris/a_out.json": result("iris:10"),
        "other/a_out.json": result("other:1"),
        "iris/2/a_out.json": result("iris:2"),
    }


# --- the default ----------------------------------------------------------------------------------


def test_the_default_is_named_by_a_setting(tmp_path: Path):
    """It is for /score alone: the others keep their paths."""
    paths, environ = ("/score", "/score/iris/2"), {"SCORING_DEFAULT_MODEL": "iris:1"}
    found = replies(registry_in(tmp_path), "POST", *paths, body=BODY, **environ)
    assert found == [(200, result("iris:1")), (200, result("iris:2"))]


def test_one_version_alone_has_its_name_and_version(tmp_path: Path):
    """As AZUREML_MODEL_DIR is set in an image of one model."""
    paths = ("/score", "/score/iris/2", "/score/iris", "/score/x")
    found = replies(registry_in(tmp_path) / "iris" / "2", "POST", *paths, body=BODY)
    assert found[:3] == [(200, result("iris:2"))] * 3
    assert found[3] == (404, {"message": "There is no model 'x' here. Served: iris."})


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


@pytest.mark.parametrize("name", ["aaa", "zzz"], ids=["first", "last"])
def test_one_broken_model_is_named_by_the_error(name: str, tmp_path: Path):
    """Whether it is loaded before or after the good ones."""
    root = registry_in(tmp_path)
    saved(root / name / "7", matmul_onnx()[:-40])
    with pytest.raises(ModelUnusable, match=f"/azureml-models/{name}/7"):
        replies(root, "POST", "/score")


def test_one_broken_model_ends_the_host_with_3_and_a_diagnosis(tmp_path: Path):
    root = registry_in(tmp_path)
    saved(root / "jagged" / "7", matmul_onnx()[:-40])
    code, log = ended(root)
    assert code == 3
    last = log.rstrip().splitlines()[-1]
    assert last.startswith("Cause: ")
    assert "jagged/7" in last


def test_the_first_of_several_failures_is_the_one_that_is_told(tmp_path: Path):
    """Those after it are not tried; that they were not is no cause."""
    root = registry_in(tmp_path)
    for number in range(5):
        saved(root / f"bad{number}" / "1", matmul_onnx()[:-40])
    for _ in range(5):
        with pytest.raises(ModelUnusable, match="bad0/1"):
            replies(root, "POST", "/score")


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


def place(url: str, model: str) -> list[int]:
    answer = post(f"{url}/score/{model}", b"[[1.0]]")
    assert answer.status_code == 200, answer.text
    [found] = answer.json()
    return [int(each) for each in found]


def test_each_model_has_a_thread_of_its_own(where: tuple[Path, Path]):
    """It is loaded there, all its calls are made there, and no other model's are."""
    models = ["quick/1", "quick/2", "slow/1"]
    with ModelHost(where[0]) as host, ThreadPoolExecutor(6) as pool:
        found = {model: list(pool.map(place, [host.url] * 10, [model] * 10)) for model in models}
    threads = {}
    for model, places in found.items():
        [threads[model]] = {(thread, loading) for thread, loading, _ in places}
        assert threads[model][0] == threads[model][1]
        numbers = sorted(number for *_, number in places)
        # Those before were the model's example.
        assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert len(set(threads.values())) == 3


def test_a_model_that_is_slow_does_not_hold_up_the_others(where: tuple[Path, Path]):
    registry, gate = where
    with ModelHost(registry) as host, ThreadPoolExecutor(1) as pool:
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


def test_a_model_past_its_deadline_is_not_ready_the_others_are(where: tuple[Path, Path]):
    registry, gate = where
    with ModelHost(registry, environ={"SCORING_TIMEOUT_MS": "2000"}) as host:
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


@pytest.mark.parametrize(
    ("below", "default", "name", "version"),
    [("iris/2", "", "iris", "2"), ("", "both:4", "both", "4")],
    ids=["one", "several"],
)
def test_an_entry_script_scores_for_all_models(
    below: str, default: str, name: str, version: str, tmp_path: Path, write_script: WriteScript
):
    """Also for a blob whose metadata call something else so."""
    script = write_script("def init(): ...\ndef run(data): return data")
    environ = {"AZUREML_ENTRY_SCRIPT": str(script), "SCORING_DEFAULT_MODEL": default}
    folder = registry_in(tmp_path / "registry") / below
    paths = ("/score", f"/score/{name}", f"/score/{name}/{version}", "/score/none")
    *found, unknown = replies(folder, "POST", *paths, body=b"text", **environ)
    assert found == [(200, "text")] * 3
    assert unknown == (404, {"message": f"There is no model 'none' here. Served: {name}."})
    [response] = answers(folder, [ScoringRequest(b"text", model="iPhone 12")], **environ)
    assert response.body == b'"text"'


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


# --- the cache ------------------------------------------------------------------------------------


def test_the_cache_keeps_models_and_orders_of_columns_apart(tmp_path: Path):
    """A model without names takes columns in their order, so another order is another input."""
    with ModelHost(registry_in(tmp_path), environ={"CACHE_URL": "memory://"}) as host:

        def seen(path: str, body: bytes) -> tuple[str, Any]:
            answer = post(host.url + path, body)
            return answer.headers["x-cache"], answer.json()

        tensor = {"name": "X", "datatype": "FP64", "shape": [1, 2], "data": [1.5, 2]}
        infer = json.dumps({"inputs": [tensor]}).encode()
        for state in ("miss", "hit"):
            for identity in FACTORS:
                place = identity.replace(":", "/")
                assert seen(f"/score/{place}", BODY) == (state, result(identity))
                path = f"/v2/models/{place.replace('/', '/versions/')}/infer"
                found, answer = seen(path, infer)
                assert found == state
                assert answer["outputs"][0]["data"] == result(identity, [[1.5, 2]])
            for body, row in ((b'{"a": 1, "b": 2}', [1, 2]), (b'{"b": 2, "a": 1}', [2, 1])):
                answered = seen("/score/iris/1", b'{"data": [%b]}' % body)
                assert answered == (state, result("iris:1", [row]))
        assert seen("/score/iris", BODY) == ("hit", result("iris:10"))
