"""One table of formats through every trigger of both hosts: the same bytes, the same content type.

A script with a schema, and two scikit-learn models without one. Blob metadata and application
properties say what query and headers say over HTTP. About 25 s.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import orjson
import pytest
from azure.storage.blob import BlobServiceClient
from sklearn.linear_model import LogisticRegression

from tests.hosts.azurite import Azurite
from tests.hosts.broker import BrokerMessage, ServiceBusBroker
from tests.hosts.functions import FunctionsHost, blob_event
from tests.hosts.sites import Containers, Folders
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.triggers.test_parity import (
    PATHS,
    ROOT,
    Case,
    Ending,
    Endings,
    Parts,
    Queues,
    endings_of,
    reason_in,
    through_queue_of_functions,
    with_its_message,
)

JSON, CSV, LINES, NPY = "application/json", "text/csv", "application/jsonl", "application/x-npy"
OCTETS = "application/octet-stream"
EXTENSIONS = {
    JSON: "json", CSV: "csv", LINES: "jsonl", NPY: "npy", OCTETS: "bin",
    "image/png": "png",
}  # fmt: skip
INFER_LENGTH = "inference_header_content_length"


@dataclass(frozen=True)
class Scored(Case):
    """One input with what is said of it, the content type of its answer, and the answer.

    ``script`` is ``schema``, or ``models`` for the models without one.
    """

    said: dict[str, str] = field(default_factory=dict)
    answer_type: str = JSON
    encoding: str = ""

    @property
    def file(self) -> str:
        return f"{self.name.replace(' ', '-')}.{EXTENSIONS[self.content_type.partition(';')[0]]}"

    @property
    def bare(self) -> bool:
        """Whether nothing is said but the content type, which a file's name says too."""
        return not self.said and not self.encoding and ";" not in self.content_type


# --- bodies ---------------------------------------------------------------------------------------

X = np.array([[0.1, 2.0], [-3.5, 4.25], [1e-9, 0.0]])
SUMS = (X.sum(axis=1) * 2).tolist()


def npy(array: Any, *, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def packed(value: Any) -> bytes:
    return orjson.dumps(value)


def infer(name: str, **more: Any) -> bytes:
    data = X.reshape(-1).tolist()
    tensor = {"name": name, "datatype": "FP64", "shape": list(X.shape), "data": data}
    return packed({"id": "7", "inputs": [tensor], **more})


def infer_binary(name: str, **more: Any) -> tuple[bytes, str]:
    tensor: dict[str, Any] = {"name": name, "datatype": "FP64", "shape": list(X.shape)}
    tensor["parameters"] = {"binary_data_size": X.nbytes}
    head = packed({"inputs": [tensor], **more})
    return head + X.tobytes(), str(len(head))


CSV_BODY = "".join(f"{a!r},{b!r}\n" for a, b in X.tolist()).encode()
LINES_BODY = b"\n".join(map(packed, X.tolist()))
BINARY, LENGTH = infer_binary("data", parameters={"binary_data_output": True})
MODEL_BINARY, MODEL_LENGTH = infer_binary("X", parameters={"binary_data_output": True})

# --- the table ------------------------------------------------------------------------------------


def typed(name: str, kind: str, body: bytes, **more: Any) -> Scored:
    return Scored(name, "schema", body, content_type=kind, **more)


def plain(name: str, kind: str, body: bytes, **more: Any) -> Scored:
    return Scored(name, "models", body, content_type=kind, **more)


def as_result(columns: str) -> bytes:
    return f"{columns}\r\n".encode() + b"".join(f"{s!r}\r\n".encode() for s in SUMS)


SUMS_JSON = packed(SUMS)
SCHEMA_CASES = [
    typed("by name", JSON, packed({"data": X.tolist()}), result=SUMS_JSON),
    typed("instances", JSON, packed({"instances": X.tolist()}), result=SUMS_JSON),
    typed("csv", CSV, CSV_BODY, result=SUMS_JSON),
    typed("csv with a header", f"{CSV}; header=present", b"a,b\n" + CSV_BODY, result=SUMS_JSON),
    typed("npy", NPY, npy(X), result=SUMS_JSON),
    typed("v2", JSON, infer("data")),
    typed("gzip", CSV, gzip.compress(CSV_BODY), encoding="gzip", result=SUMS_JSON),
    typed(
        "to csv", NPY, npy(X), said={"accept": CSV}, answer_type=CSV, result=as_result("output")
    ),
    typed("csv to npy", CSV, CSV_BODY, said={"accept": NPY}, answer_type=NPY,
          result=npy(np.array(SUMS))),
    typed("by name to lines", JSON, packed({"data": X.tolist()}), said={"accept": LINES},
          answer_type=LINES, result=b"".join(b'{"output":%s}\n' % packed(s) for s in SUMS)),
    typed("an alias", CSV, CSV_BODY, said={"accept": "application/x-ndjson;q=0.5, image/png"},
          answer_type="application/x-ndjson"),
    typed("v2 binary", OCTETS, BINARY, said={INFER_LENGTH: LENGTH}, answer_type=OCTETS),
    typed("no such format", CSV, CSV_BODY, said={"accept": "image/png"}, status=406,
          reason="NotAcceptable"),
    typed("no such type", "image/png", CSV_BODY, status=415, reason="UnsupportedContentType"),
    typed("wide", CSV, b"1,2,3\n", status=400, reason="SchemaMismatch"),
    typed("pickled", NPY, npy(np.array([None]), allow_pickle=True), status=400,
          reason="SchemaMismatch"),
]  # fmt: skip
PROBA = {"method": "predict_proba"}
MODEL_CASES = [
    plain("model rows", JSON, packed({"input_data": X.tolist()})),
    plain("model instances", JSON, packed({"instances": X.tolist()})),
    plain("model csv", CSV, CSV_BODY),
    plain("model lines", LINES, LINES_BODY),
    plain("model npy", NPY, npy(X)),
    plain("model v2", JSON, infer("X")),
    plain("model to csv", NPY, npy(X), said={"accept": CSV, **PROBA}, answer_type=CSV),
    plain("model to npy", CSV, CSV_BODY, said={"accept": NPY, **PROBA}, answer_type=NPY),
    plain("model to lines", JSON, packed({"inputs": X.tolist()}), said={"accept": LINES},
          answer_type=LINES),
    plain("other model", NPY, npy(X), said={"model": "second"}),
    plain("other model of a version", NPY, npy(X), said={"model": "second:1", **PROBA}),
    plain("model v2 binary", OCTETS, MODEL_BINARY, said={INFER_LENGTH: MODEL_LENGTH},
          answer_type=OCTETS),
    plain("other model v2 binary", OCTETS, MODEL_BINARY,
          said={INFER_LENGTH: MODEL_LENGTH, "model": "second", **PROBA}, answer_type=OCTETS),
    plain("no such model", NPY, npy(X), said={"model": "third"}, status=404,
          reason="UnknownModel"),
]  # fmt: skip
CASES = [*SCHEMA_CASES, *MODEL_CASES]
SCRIPT = """
import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema

def init():
    pass

@input_schema("data", NumpyParameterType(np.array([[0.5, 1.5]])))
def run(data):
    return data.sum(axis=1) * 2
"""


# --- places and ways ------------------------------------------------------------------------------


class DirectedQueues(Queues):
    """What is said of an input is in application properties."""

    def send(self, cases: list[Any]) -> None:
        for case in cases:
            self._broker.send(
                self.input,
                case.body,
                message_id=case.name,
                content_type=case.content_type,
                properties=case.said,
            )

    def _ending(self, reply: BrokerMessage, letters: dict[str, BrokerMessage]) -> Ending:
        return with_length(super()._ending(reply, letters), reply.application_properties)


def with_length(ending: Ending, said: Mapping[str, Any]) -> Ending:
    """Where the tensors of a binary answer begin, which HTTP says in a header."""
    length = str(said.get(INFER_LENGTH) or "")
    return ending._replace(description=f"{INFER_LENGTH}: {length}") if length else ending


class Hosted(StandaloneHost):
    """The standalone host with a script, or with models alone."""

    def __init__(self, source: dict[str, str], environ: dict[str, str], folder: Path) -> None:
        super().__init__(folder / "none.py", environ={**environ, **source})
        command = list(self._command)
        at = command.index("--entry-script")
        self._command = command[:at] + command[at + 2 :]


def through_http(url: str, cases: list[Scored]) -> Endings:
    endings = {}
    with httpx.Client(timeout=30) as client:
        for case in cases:
            endings[case.name] = posted(client, f"{url}/score{model_path(case)}", case)
    return endings


def model_path(case: Scored) -> str:
    name, _, version = case.said.get("model", "").partition(":")
    return "".join(f"/{each}" for each in (name, version) if each)


def posted(client: httpx.Client, url: str, case: Scored) -> Ending:
    headers = {
        name.replace("_", "-"): value
        for name, value in case.said.items()
        if name not in ("model", "method")
    }
    headers["content-type"] = case.content_type
    if case.encoding:
        headers["content-encoding"] = case.encoding
    query = {"method": case.said["method"]} if "method" in case.said else {}
    answer = client.post(url, content=case.body, headers=headers, params=query)
    kind = answer.headers.get("content-type", "")
    length = answer.headers.get(INFER_LENGTH.replace("_", "-"), "")
    ending = Ending("answer", answer.content, answer.status_code, kind)
    return with_length(ending, {INFER_LENGTH: length})


def through_blobs_of_functions(host: FunctionsHost, cases: list[Scored]) -> Endings:
    """As the host's blob listener: the outputs that are given are written."""
    endings = {}
    for case in cases:
        said = {"ContentType": case.content_type, "ContentEncoding": case.encoding}
        event = blob_event(f"input/{case.file}", case.body, **said)
        event["metadata"]["Metadata"] = {"type": "json", "value": json.dumps(case.said)}
        done = host.deliver("score_blob", event)
        if done.failure:
            endings[case.name] = Ending("failed", reason=reason_in(done.failure))
        else:
            [(place, body)] = done.outputs.items()
            endings[case.name] = with_its_message(Ending(place, body))
    return endings


def through_standalone(
    parts: Parts, name: str, source: dict[str, str], cases: list[Scored]
) -> dict[str, Endings]:
    queues = DirectedQueues(parts.broker, f"{name}-standalone")
    containers = Containers(parts.service, parts.azurite.connection_string, BLOB_MAX_ATTEMPTS="1")
    sent = [case for case in cases if not case.encoding]
    environ = {**containers.environ, **queues.environ}
    with Hosted(source, environ, parts.folder) as host:
        for each in cases:
            containers.put(
                each.file, each.body, each.content_type, each.encoding, metadata=each.said
            )
        queues.send(list(sent))
        http = through_http(host.url, cases)
        queues.wait_for(len(sent))
        blobs, messages = endings_of(containers, list(cases)), queues.endings()
    names = {case.file: case.name for case in cases}
    for blob in containers.output.list_blobs(include=["metadata"]):
        case_name = names[blob.name.rpartition(".")[0]]
        blobs[case_name] = with_length(blobs[case_name], blob.metadata)
    return {
        "standalone http": http,
        "standalone blob": blobs,
        "standalone queue": messages,
    }


def through_folders(
    parts: Parts, name: str, source: dict[str, str], cases: list[Scored]
) -> dict[str, Endings]:
    bare: list[Case] = [case for case in cases if case.bare]
    folders = Folders(parts.folder / name, BLOB_MAX_ATTEMPTS="1", **PATHS)
    for case in bare:
        folders.put(case.file, case.body)
    with Hosted(source, folders.environ, parts.folder):
        return {"standalone folder": endings_of(folders, bare)}


def through_functions(
    parts: Parts, name: str, source: dict[str, str], cases: list[Scored]
) -> dict[str, Endings]:
    queues = DirectedQueues(parts.broker, f"{name}-functions")
    environ = clean_environ(
        TriggerConnectionString=parts.azurite.connection_string, **queues.environ, **source
    )
    sent: list[Case] = [case for case in cases if not case.encoding]
    with FunctionsHost(ROOT, environ) as host:
        return {
            "functions http": through_http(host.url, cases),
            "functions blob": through_blobs_of_functions(host, cases),
            "functions queue": through_queue_of_functions(host, parts.broker, queues, sent),
        }


def registry(folder: Path) -> dict[str, LogisticRegression]:
    """Two models, the first with a higher version number."""
    models = {
        "first": LogisticRegression().fit(X, ["no", "yes", "no"]),
        "second": LogisticRegression(C=0.1).fit(-X, ["no", "yes", "no"]),
    }
    for name, model in models.items():
        place = folder / name / ("2" if name == "first" else "1")
        place.mkdir(parents=True)
        joblib.dump(model, place / "model.pkl")
    return models


Found = dict[str, dict[str, Endings]]


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Every input of the table through every way: source, way, case."""
    folder = tmp_path_factory.mktemp("formats")
    script = folder / "score.py"
    script.write_text(SCRIPT, encoding="utf-8")
    registry(folder / "azureml-models")
    sources = {
        "schema": {"AZUREML_ENTRY_SCRIPT": str(script)},
        "models": {
            "AZUREML_MODEL_DIR": str(folder / "azureml-models"),
            "SCORING_DEFAULT_MODEL": "first",
        },
    }
    found: Found = {name: {} for name in sources}
    with ExitStack() as stack:
        azurite, broker = Azurite(), ServiceBusBroker(max_message_size=1_000_000)
        for each in (azurite, broker):
            stack.enter_context(each)
        service = BlobServiceClient.from_connection_string(azurite.connection_string)
        parts = Parts(azurite, stack.enter_context(service), broker, folder)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        running = [
            (name, pool.submit(way, parts, name, source, [c for c in CASES if c.script == name]))
            for way in (through_standalone, through_functions, through_folders)
            for name, source in sources.items()
        ]
        for name, answered in running:
            found[name].update(answered.result())
    return found


# --- promises -------------------------------------------------------------------------------------


def expected(case: Scored, answer: Ending, way: str) -> Ending | None:
    """What becomes of an input where HTTP gives this answer; None: it cannot come this way.

    Messages have no content encoding, and files nothing but a name. Folders and the output
    bindings of Functions keep the bytes only.
    """
    refused = case.status >= 400
    place = "error" if refused else "output"
    if way.endswith("http"):
        return answer
    if way.endswith("queue"):
        if case.encoding:
            return None
        if refused:
            text = json.loads(answer.body)["message"]
            return answer._replace(
                place="reply and dead letter", reason=case.reason, description=text
            )
        return answer._replace(place="reply")
    if way == "standalone blob":
        return answer._replace(place=place)
    if way == "standalone folder" and not case.bare:
        return None
    if way in ("standalone folder", "functions blob") and refused:
        return Ending(place, description=str(json.loads(answer.body)["message"]))
    return Ending(place, answer.body)


WAYS = (
    "standalone http", "standalone blob", "standalone folder", "standalone queue",
    "functions http", "functions blob", "functions queue",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_every_way_gives_the_same_bytes_and_content_type(case: Scored, endings: Found):
    found = {way: endings[case.script][way].get(case.name) for way in WAYS}
    answer = found["functions http"]
    assert answer is not None
    assert (INFER_LENGTH in answer.description) is (case.answer_type == OCTETS)
    assert (answer.status, answer.content_type) == (case.status, case.answer_type), answer.body
    assert case.result is None or answer.body == case.result
    assert found == {way: expected(case, answer, way) for way in WAYS}


def body(endings: Found, name: str) -> bytes:
    [case] = [case for case in CASES if case.name == name]
    return endings[case.script]["functions http"][name].body


def test_the_formats_of_the_script_hold_the_same_values(endings: Found):
    assert body(endings, "an alias") == body(endings, "by name to lines")
    answer = json.loads(body(endings, "v2"))
    output = {"name": "output", "datatype": "FP64", "shape": [3], "data": SUMS}
    assert (answer["id"], answer["outputs"]) == ("7", [output])
    assert np.array_equal(tensor(body(endings, "v2 binary")), SUMS)


def tensor(answer: bytes) -> Any:
    """The one float64 tensor that stands behind the JSON of a V2 answer."""
    end = answer.index(b"}}]}") + 4
    [output] = json.loads(answer[:end])["outputs"]
    return np.frombuffer(answer[end:]).reshape(output["shape"])


def test_the_models_answer_as_scikit_learn_does_in_every_format(endings: Found, tmp_path: Path):
    models = registry(tmp_path)
    labels = models["first"].predict(X).tolist()
    for name in ("model rows", "model csv", "model lines", "model npy"):
        assert json.loads(body(endings, name)) == labels
    assert json.loads(body(endings, "model instances")) == {"predictions": labels}
    assert json.loads(body(endings, "other model")) == models["second"].predict(X).tolist()
    chances, others = (models[name].predict_proba(X) for name in ("first", "second"))
    assert np.array_equal(np.load(io.BytesIO(body(endings, "model to npy"))), chances)
    assert np.array_equal(json.loads(body(endings, "other model of a version")), others)
    assert np.array_equal(tensor(body(endings, "other model v2 binary")), others)
