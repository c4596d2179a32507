"""The Open Inference Protocol V2 over HTTP, spoken by NVIDIA's own client."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.conftest import WriteScript
from tests.models_for_tests import (
    ELEMENT_TYPES,
    EVERY_MODEL,
    IRIS_NAMES,
    IRIS_ROWS,
    ModelHost,
    functions_model_host,
    identity_onnx,
    iris_estimator,
    matmul_onnx,
    named_iris_estimator,
    registered,
    replies,
    sum_estimator,
)

# Two columns a datatype: the ends of its range, and what is special in it.
EXTREMES: Mapping[str, list[list[Any]]] = {
    "BOOL": [[True, False], [False, True]],
    **{
        f"{sign}INT{bits}": [
            [np.iinfo(f"{sign.lower()}int{bits}").min, np.iinfo(f"{sign.lower()}int{bits}").max],
            [0, 1],
        ]
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    "FP16": [[-65504.0, 6e-08], [0.1, -0.0]],
    "FP32": [[-3.4028235e38, 1e-45], [0.1, -0.0]],
    "FP64": [[-1.7976931348623157e308, 5e-324], [0.1, -0.0]],
    "BYTES": [["", "grüße 漢 🚲"], ["a,b\n", "\x00"]],
}


def tensor(datatype: str, values: Any) -> NDArray[Any]:
    """Values as the client wants them."""
    kind = {"BYTES": "object", "BOOL": "bool"}.get(datatype)
    return np.array(values, dtype=kind or datatype.lower().replace("fp", "float"))


def given(name: str, values: NDArray[Any], datatype: str, binary: bool = True) -> triton.InferInput:
    """One input with its data."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def asked(names: Sequence[str], binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def texts(values: NDArray[Any]) -> list[Any]:
    """As text, whichever way they came: binary tensors hold bytes."""
    return [each.decode() if isinstance(each, bytes) else each for each in values.reshape(-1)]


def assert_same(got: NDArray[Any], wanted: NDArray[Any]) -> None:
    """The same shape and, to the bit, the same values."""
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "OUS":
        assert texts(got) == texts(wanted)
    else:
        assert got.dtype == wanted.dtype
        assert got.tobytes() == wanted.tobytes()


def onnx_result(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What onnxruntime itself gives."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


class Served:
    """A host and clients that talk to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4)

    def post(self, path: str, content: Any, **headers: str) -> httpx.Response:
        """A request with exactly this body; `_` in names of headers stands for `-`."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.url}{path}", content=body, headers=named, timeout=60)

    def refusal(self, model: str, inputs: Any, **options: Any) -> tuple[str, str]:
        """Status and message of the client's exception; then the server still answers."""
        with pytest.raises(InferenceServerException) as caught:
            self.client.infer(model, inputs, **options)
        x = np.ones((1, 3), np.float32)
        again = self.client.infer("matmul", [given("x", x, "FP32")])
        assert_same(again.as_numpy("y"), onnx_result(matmul_onnx(), {"x": x})["y"])
        return caught.value.status(), caught.value.message()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hosts") / "azureml-models"
    return registered(root, {place: make() for place, make in EVERY_MODEL.items()})


@pytest.fixture(scope="module")
def served(registry: Path) -> Iterator[Served]:
    with ModelHost(registry) as host:
        served = Served(host.url)
        yield served
        served.client.close()


# --- health and metadata --------------------------------------------------------------------------


def test_the_server_is_live_and_ready(served: Served):
    assert served.client.is_server_live() is True
    assert served.client.is_server_ready() is True


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("iris", "", True),
        ("iris", "1", True),
        ("iris", "3", False),
        ("none", "", False),
    ],
)
def test_a_model_is_ready_if_it_is_there(model: str, version: str, ready: bool, served: Served):
    assert served.client.is_model_ready(model, version) is ready


def test_the_server_says_what_it_is(served: Served):
    found = served.client.get_server_metadata()
    assert sorted(found) == ["extensions", "name", "version"]
    assert found["name"] == "scoring-runtime"
    assert found["extensions"] == ["binary_tensor_data"]


def test_metadata_of_an_onnx_model_are_its_own_inputs_and_outputs(served: Served):
    def listed(prefix: str) -> list[dict[str, Any]]:
        return [
            {"name": f"{prefix}_{each}", "datatype": each, "shape": [-1, 2]}
            for each in ELEMENT_TYPES
        ]

    assert served.client.get_model_metadata("every") == {
        "name": "every",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": listed("in"),
        "outputs": listed("out"),
    }


@pytest.mark.parametrize("version", ["", "1", "2"], ids=["none", "1", "2"])
def test_metadata_list_all_versions_and_describe_the_one_asked_for(version: str, served: Served):
    found = served.client.get_model_metadata("iris", version)
    assert found["versions"] == ["1", "2"]
    assert found["platform"] == "sklearn"
    assert found["inputs"] == [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}]
    outputs = {
        "1": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
        "2": [
            {"name": "predict", "datatype": "INT64", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 3]},
            {"name": "decision_function", "datatype": "FP64", "shape": [-1, 3]},
        ],
    }
    assert found["outputs"] == outputs[version or "2"]


# --- infer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_server", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("to_client", [True, False], ids=["binary-out", "json-out"])
def test_several_inputs_and_outputs_of_every_datatype(
    to_server: bool, to_client: bool, served: Served
):
    """The extremes of all 13 datatypes in one request, equal to onnxruntime's own to the bit."""
    values = {name: tensor(name, each) for name, each in EXTREMES.items()}
    inputs = [given(f"in_{name}", each, name, to_server) for name, each in values.items()]
    outputs = asked([f"out_{name}" for name in values], to_client)
    found = served.client.infer("every", inputs, outputs=outputs)
    wanted = onnx_result(identity_onnx(), {f"in_{name}": each for name, each in values.items()})
    for name in ELEMENT_TYPES:
        described = found.get_output(f"out_{name}")
        assert described["datatype"] == name
        assert described["shape"] == [2, 2]
        assert ("data" in described) is not to_client
        assert_same(found.as_numpy(f"out_{name}"), wanted[f"out_{name}"])


def test_the_answer_names_the_model_its_version_and_the_request(served: Served):
    x = given("x", np.ones((1, 3), np.float32), "FP32")
    found = served.client.infer("matmul", [x], request_id="req-7 ü").get_response()
    assert (found["model_name"], found["model_version"], found["id"]) == ("matmul", "1", "req-7 ü")
    assert "id" not in served.client.infer("matmul", [x]).get_response()


@pytest.mark.parametrize(("version", "highest"), [("1", False), ("2", True), ("", True)])
def test_a_version_is_chosen(version: str, highest: bool, served: Served):
    rows = np.array(IRIS_ROWS)
    found = served.client.infer("iris", [given("X", rows, "FP64")], model_version=version)
    estimator = iris_estimator() if highest else sum_estimator(width=4)
    assert found.get_response()["model_version"] == ("2" if highest else "1")
    assert_same(found.as_numpy("predict"), estimator.predict(rows))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_methods_of_scikit_learn_are_outputs(binary: bool, served: Served):
    rows = np.array(IRIS_ROWS)
    names = ["decision_function", "predict", "predict_proba"]
    inputs = [given("X", rows, "FP64", binary)]
    found = served.client.infer("iris", inputs, outputs=asked(names, binary))
    assert [each["name"] for each in found.get_response()["outputs"]] == names
    for name in names:
        assert_same(found.as_numpy(name), getattr(iris_estimator(), name)(rows))


def test_a_query_chooses_the_method_and_what_else_it_says_does_not_matter(served: Served):
    """Function keys come in the query, for example."""
    rows = np.array(IRIS_ROWS)
    inputs, wanted = [given("X", rows, "FP64")], iris_estimator().predict_proba(rows)
    found = served.client.infer("iris", inputs, query_params={"method": "predict_proba"})
    assert_same(found.as_numpy("predict_proba"), wanted)
    outputs = asked(["predict_proba"], True)
    found = served.client.infer("iris", inputs, outputs=outputs, query_params={"code": "key"})
    assert_same(found.as_numpy("predict_proba"), wanted)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_columns_are_inputs_in_any_order(binary: bool, served: Served):
    rows = np.array(IRIS_ROWS)
    frame = pd.DataFrame(rows, columns=list(IRIS_NAMES))
    inputs = [
        given(name, np.ascontiguousarray(rows[:, at]), "FP64", binary)
        for at, name in reversed(list(enumerate(IRIS_NAMES)))
    ]
    names = ["predict", "predict_proba"]
    found = served.client.infer("named", inputs, outputs=asked(names, binary))
    assert found.get_output("predict")["datatype"] == "BYTES"
    assert_same(found.as_numpy("predict"), named_iris_estimator().predict(frame))
    assert_same(found.as_numpy("predict_proba"), named_iris_estimator().predict_proba(frame))


KNOWN_TEXTS = {"city": "Ulm", "job": "cook"}


@pytest.mark.parametrize("place", [place for place in EVERY_MODEL if place != "columns/1"])
def test_answers_are_what_the_metadata_say(place: str, served: Served):
    """Inputs made from the metadata alone score; outputs have the datatypes and shapes they say."""
    model, version = place.split("/")
    metadata = served.client.get_model_metadata(model, version)
    inputs = []
    for each in metadata["inputs"]:
        shape = [2 if at == 0 else abs(length) for at, length in enumerate(each["shape"])]
        filler = KNOWN_TEXTS.get(each["name"], "text") if each["datatype"] == "BYTES" else 1
        values = np.broadcast_to(tensor(each["datatype"], filler), shape).copy()
        inputs.append(given(each["name"], values, each["datatype"]))
    names = [each["name"] for each in metadata["outputs"]]
    outputs = asked(names, True)
    found = served.client.infer(model, inputs, model_version=version, outputs=outputs)
    for described, said in zip(found.get_response()["outputs"], metadata["outputs"], strict=True):
        assert described["name"] == said["name"]
        assert described["datatype"] == said["datatype"]
        assert len(described["shape"]) == len(said["shape"])
        assert all(
            wanted in (-1, length)
            for wanted, length in zip(said["shape"], described["shape"], strict=True)
        )


# --- errors that the client shows -----------------------------------------------------------------

ONE = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("model", "version", "cause"),
    [
        ("none", "", "There is no model 'none' here. Served: addsub, columns, every,"),
        ("iris", "9", "The model iris has no version '9'. It has: 1, 2."),
    ],
)
def test_a_model_that_is_not_there_is_refused_with_those_that_are(
    model: str, version: str, cause: str, served: Served
):
    status, message = served.refusal(
        model, [given("X", np.ones((1, 4)), "FP64")], model_version=version
    )
    assert status == "404"
    assert message.startswith(cause)
    with pytest.raises(InferenceServerException) as caught:
        served.client.get_model_metadata(model, version)
    assert (caught.value.status(), caught.value.message()) == ("404", message)


def test_an_output_that_scikit_learn_does_not_have_is_refused(served: Served):
    inputs = [given("X", np.array(IRIS_ROWS), "FP64")]
    status, message = served.refusal("iris", inputs, outputs=asked(["transform"], True))
    assert status == "400"
    there = "predict, predict_proba, decision_function"
    assert message == f"The model has no output 'transform'. It has: {there}."


def test_extensions_that_are_not_there_say_so(served: Served):
    """A message that the client can read, not a failure to decode it."""
    with pytest.raises(InferenceServerException) as caught:
        served.client.get_model_config("iris")
    assert caught.value.status() == "404"
    assert caught.value.message().startswith("There is no such path here.")
    assert served.client.is_server_live()


# --- corners of the protocol ----------------------------------------------------------------------

X = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
IN_JSON = {"inputs": [{**X, "data": [1, 2, 3]}]}
HEAD = json.dumps({"inputs": [{**X, "parameters": {"binary_data_size": 12}}]}).encode()
BINARY = HEAD + np.array([1, 2, 3], np.float32).tobytes()
INFER = "/v2/models/matmul/infer"


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/iris/ready"]
)
def test_head_is_get_without_the_body(path: str, served: Served):
    got, head = httpx.get(served.url + path), httpx.head(served.url + path)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", INFER, "POST"),
        ("POST", "/v2/models/iris", "GET, HEAD"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_an_error(method: str, path: str, allowed: str, served: Served):
    answer = httpx.request(method, served.url + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert list(answer.json()) == ["error"]


def test_options_say_the_methods(served: Served):
    """As browsers ask before they send JSON to another origin."""
    answer = httpx.options(f"{served.url}{INFER}")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (200, b"", "POST")
    answer = httpx.options(f"{served.url}/v2/models/iris")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (200, b"", "GET, HEAD")
    assert httpx.options(f"{served.url}/v2/other").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v2/health",
        "/v2/models",
        "/v2/models/iris/other",
        "/v2/models/iris/versions",
        "/v2/models/iris/versions/1/other",
        "/v2/models/iris/versions//ready",
        "/v2/models/iris/infer/more",
        "/v2/models/iris/",
        "/v2//health/live",
        "/v2/other",
    ],
)
def test_an_unknown_path_is_404_with_an_error(path: str, served: Served):
    for method in ("GET", "POST"):
        answer = httpx.request(method, served.url + path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]


def test_a_request_id_that_is_too_long_is_refused_with_an_error(served: Served):
    answer = served.post(INFER, IN_JSON, x_request_id="r" * 101)
    assert answer.status_code == 431
    assert list(answer.json()) == ["error"]


# --- keys of the Functions host -------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyed(registry: Path) -> Iterator[Served]:
    """The Functions host that checks keys."""
    with functions_model_host(registry, FUNCTIONS_HOST_CHECK_KEYS="1") as host:
        served = Served(host.url)
        yield served
        served.client.close()


def test_only_health_is_open_without_a_key(keyed: Served):
    key = {"x-functions-key": "test-key"}
    inputs = [given("x", ONE, "FP32")]
    assert keyed.client.is_server_live()
    assert keyed.client.is_server_ready()
    assert not keyed.client.is_model_ready("matmul")
    assert keyed.client.is_model_ready("matmul", headers=key)
    kinds: list[Callable[..., Any]] = [
        partial(keyed.client.infer, "matmul", inputs),
        partial(keyed.client.get_model_metadata, "matmul"),
        keyed.client.get_server_metadata,
    ]
    for ask in kinds:
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "401"
        ask(headers=key)
        ask(query_params={"code": "test-key"})


@pytest.mark.parametrize(
    "path",
    [
        "/v2//models/matmul/infer",
        "//v2/models/matmul/infer",
        "/v2/./models/matmul/infer",
        "/v2/%2fmodels/matmul/infer",
        "/v2%252fmodels/matmul/infer",
        "/%2576%2532/models/matmul/infer",
        "/v2/%256dodels/matmul/infer",
        "/V2/models/matmul/infer",
        "/score//matmul",
        "/%2573core/matmul",
        "/score%252fmatmul",
    ],
)
def test_no_spelling_of_a_path_scores_without_a_key(path: str, keyed: Served):
    """Raw, as a client that does not tidy paths sends it."""
    url = httpx.URL(keyed.url)
    body = json.dumps(IN_JSON).encode()
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\n"
        connection.sendall(
            f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"401", b"404")
    assert b"outputs" not in answer


# --- both hosts alike -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "length"),
    [
        (INFER, json.dumps(IN_JSON).encode(), None),
        (INFER, BINARY, len(HEAD)),
        (INFER, json.dumps({"inputs": [{**X, "data": [1, 2]}]}).encode(), None),
        (INFER, BINARY[:-1], len(HEAD)),
        ("/v2/models/none/infer", b"{}", None),
        ("/score/matmul", json.dumps(IN_JSON).encode(), None),
        ("/score/matmul/1", BINARY, len(HEAD)),
    ],
    ids=["json", "binary", "short", "cut", "model", "score", "score-binary"],
)
def test_both_hosts_answer_with_the_same_bytes(
    path: str, body: bytes, length: int | None, served: Served, keyed: Served
):
    headers = {} if length is None else {"inference_header_content_length": str(length)}
    key = {"x_functions_key": "test-key"}
    first, second = served.post(path, body, **headers), keyed.post(path, body, **headers, **key)
    assert first.status_code == second.status_code
    assert first.content == second.content
    name = "inference-header-content-length"
    assert first.headers.get(name) == second.headers.get(name)
    assert first.headers["content-type"] == second.headers["content-type"]


# --- entry scripts --------------------------------------------------------------------------------

DOUBLING = """
import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema

def init(): ...

@input_schema("data", NumpyParameterType(np.array([[0.5, 1.5]])))
def run(data):
    return data * 2
"""
TENSOR = {"name": "data", "datatype": "FP64", "shape": [2, 2], "data": [0.1, -2.5, 3, 4]}


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        (DOUBLING, 200, [0.2, -5, 6, 8]),
        ("def init(): ...\ndef run(data): return data\n", 400, "POST it to /score"),
    ],
    ids=["schema", "text"],
)
def test_the_array_of_a_script_is_an_input(
    source: str, status: int, said: Any, write_script: WriteScript, tmp_path: Path
):
    """A run() that takes the body as it is would get JSON text."""
    environ = {"AZUREML_ENTRY_SCRIPT": str(write_script(source))}
    body = json.dumps({"inputs": [TENSOR]}).encode()
    [(code, answer)] = replies(tmp_path, "POST", "/v2/models/model/infer", body=body, **environ)
    assert code == status
    if status == 200:
        assert answer["outputs"] == [{**TENSOR, "name": "output", "data": said}]
        [(_, described)] = replies(tmp_path, "GET", "/v2/models/model", body=b"", **environ)
        assert described["inputs"] == [{"name": "data", "datatype": "FP64", "shape": [-1, 2]}]
    else:
        assert said in answer["error"]
