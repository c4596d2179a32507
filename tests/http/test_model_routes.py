"""The Open Inference Protocol V2 over HTTP, spoken by NVIDIA's own client, on both hosts."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
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

from tests.hosts.standalone import StandaloneHost
from tests.models_for_tests import (
    ELEMENT_TYPES,
    IRIS_NAMES,
    IRIS_ROWS,
    PEOPLE,
    PEOPLE_COLUMNS,
    ModelHost,
    add_sub_onnx,
    functions_model_host,
    identity_onnx,
    iris_estimator,
    iris_onnx,
    matmul_onnx,
    named_iris_estimator,
    people_estimator,
    people_onnx,
    registered,
    sum_estimator,
)

MOST_BYTES = 200_000
MODELS: Mapping[str, Callable[[], Any]] = {
    "addsub/1": add_sub_onnx,
    "columns/1": lambda: identity_onnx(shape=("n",)),
    "every/3": identity_onnx,
    "iris/1": lambda: sum_estimator(width=4),
    "iris/2": iris_estimator,
    "matmul/1": matmul_onnx,
    "named/1": named_iris_estimator,
    "nozip/1": lambda: iris_onnx(zipmap=False),
    "people/1": people_estimator,
    "people-onnx/1": people_onnx,
    "zip/1": iris_onnx,
}

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
    return registered(root, {place: make() for place, make in MODELS.items()})


@pytest.fixture(scope="module")
def standalone(registry: Path) -> Iterator[Served]:
    environ = {"SCORING_MAX_BODY_BYTES": str(MOST_BYTES), "SCORING_MAX_ROWS": "500"}
    with ModelHost(registry, environ=environ) as host:
        served = Served(host.url)
        yield served
        served.client.close()


@pytest.fixture(scope="module")
def functions(registry: Path) -> Iterator[Served]:
    with functions_model_host(registry) as host:
        served = Served(host.url)
        yield served
        served.client.close()


@pytest.fixture(params=["standalone", "functions"])
def served(request: pytest.FixtureRequest) -> Served:
    """Each of the two hosts."""
    found: Served = request.getfixturevalue(request.param)
    return found


# --- health and metadata --------------------------------------------------------------------------


def test_the_server_is_live_and_ready(served: Served):
    assert served.client.is_server_live() is True
    assert served.client.is_server_ready() is True


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("iris", "", True),
        ("iris", "1", True),
        ("iris", "2", True),
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


def test_columns_of_text_are_bytes_in_the_metadata(standalone: Served):
    found = standalone.client.get_model_metadata("people")["inputs"]
    kinds = {"age": "FP64", "city": "BYTES", "income": "FP64", "job": "BYTES"}
    assert found == [
        {"name": name, "datatype": kinds[name], "shape": [-1]} for name in PEOPLE_COLUMNS
    ]


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


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_columns_of_text_are_inputs(binary: bool, served: Served):
    frame = pd.DataFrame(PEOPLE, columns=list(PEOPLE_COLUMNS))
    inputs = [
        given(name, frame[name].to_numpy(object), "BYTES", binary)
        if name in ("city", "job")
        else given(name, frame[name].to_numpy(np.float64), "FP64", binary)
        for name in PEOPLE_COLUMNS
    ]
    found = served.client.infer("people", inputs)
    assert_same(found.as_numpy("predict"), people_estimator().predict(frame))


def test_columns_of_an_onnx_model_may_have_a_second_length_of_one(standalone: Served):
    frame = pd.DataFrame(PEOPLE, columns=list(PEOPLE_COLUMNS))
    values = {
        name: frame[[name]].to_numpy(object if name in ("city", "job") else np.float32)
        for name in PEOPLE_COLUMNS
    }
    inputs = [
        given(name, each, "BYTES" if each.dtype == object else "FP32")
        for name, each in values.items()
    ]
    found = standalone.client.infer("people-onnx", inputs)
    wanted = onnx_result(people_onnx(), values)
    assert_same(found.as_numpy("variable"), wanted["variable"])


INPUTS_OF = {
    "addsub": ["a", "b"],
    "every": [f"in_{each}" for each in ELEMENT_TYPES],
    "iris": ["X"],
    "matmul": ["x"],
    "named": list(IRIS_NAMES),
    "nozip": ["X"],
    "people": list(PEOPLE_COLUMNS),
    "people-onnx": list(PEOPLE_COLUMNS),
    "zip": ["X"],
}
KNOWN_TEXTS = {"city": "Ulm", "job": "cook"}


@pytest.mark.parametrize("model", list(INPUTS_OF))
def test_answers_are_what_the_metadata_say(model: str, standalone: Served):
    """Inputs made from the metadata alone score; outputs have the datatypes and shapes they say."""
    metadata = standalone.client.get_model_metadata(model)
    assert [each["name"] for each in metadata["inputs"]] == INPUTS_OF[model]
    inputs = []
    for each in metadata["inputs"]:
        shape = [2 if at == 0 else abs(length) for at, length in enumerate(each["shape"])]
        filler = KNOWN_TEXTS.get(each["name"], "text") if each["datatype"] == "BYTES" else 1
        values = np.broadcast_to(tensor(each["datatype"], filler), shape).copy()
        inputs.append(given(each["name"], values, each["datatype"]))
    names = [each["name"] for each in metadata["outputs"]]
    found = standalone.client.infer(model, inputs, outputs=asked(names, True))
    for described, said in zip(found.get_response()["outputs"], metadata["outputs"], strict=True):
        assert described["name"] == said["name"]
        assert described["datatype"] == said["datatype"]
        assert len(described["shape"]) == len(said["shape"])
        assert all(
            wanted in (-1, length)
            for wanted, length in zip(said["shape"], described["shape"], strict=True)
        )


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(algorithm: str, served: Served):
    x = np.random.default_rng(1).random((100, 3), np.float32)
    found = served.client.infer(
        "matmul",
        [given("x", x, "FP32")],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert_same(found.as_numpy("y"), onnx_result(matmul_onnx(), {"x": x})["y"])


def test_requests_in_flight_together_each_get_their_own_answer(served: Served):
    rows = [np.full((1, 3), number, np.float32) for number in range(20)]
    under_way = [
        served.client.async_infer("matmul", [given("x", x, "FP32")], request_id=str(number))
        for number, x in enumerate(rows)
    ]
    for number, each in enumerate(under_way):
        found = each.get_result()
        assert found.get_response()["id"] == str(number)
        assert_same(found.as_numpy("y"), onnx_result(matmul_onnx(), {"x": rows[number]})["y"])


# --- errors that the client shows -----------------------------------------------------------------

ONE = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("model", "version", "cause"),
    [
        ("none", "", "There is no model 'none' here. Served: addsub, columns, every, iris,"),
        ("iris", "9", "The model iris has no version '9'. It has: 1, 2."),
        ("iris", "x", "The model iris has no version 'x'. It has: 1, 2."),
        ("IRIS", "", "There is no model 'IRIS' here."),
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


def test_an_output_that_scikit_learn_does_not_have_is_refused(standalone: Served):
    inputs = [given("X", np.array(IRIS_ROWS), "FP64")]
    status, message = standalone.refusal("iris", inputs, outputs=asked(["transform"], True))
    assert status == "400"
    there = "predict, predict_proba, decision_function"
    assert message == f"The model has no output 'transform'. It has: {there}."


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_model_config("iris"),
        lambda client: client.get_model_repository_index(),
        lambda client: client.load_model("iris"),
        lambda client: client.get_inference_statistics("iris"),
        lambda client: client.get_system_shared_memory_status(),
    ],
    ids=["config", "repository", "load", "statistics", "shared-memory"],
)
def test_extensions_that_are_not_there_say_so(ask: Any, served: Served):
    """A message that the client can read, not a failure to decode it."""
    with pytest.raises(InferenceServerException) as caught:
        ask(served.client)
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
    ("method", "path"),
    [
        ("GET", INFER),
        ("PUT", INFER),
        ("DELETE", "/v2/models/iris"),
        ("POST", "/v2/models/iris"),
        ("POST", "/v2/health/live"),
        ("POST", "/v2"),
    ],
)
def test_a_wrong_method_is_405_with_an_error(method: str, path: str, served: Served):
    answer = httpx.request(method, served.url + path)
    assert answer.status_code == 405
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
        "/v2/health/other",
        "/v2/models",
        "/v2/models/iris/other",
        "/v2/models/iris/versions",
        "/v2/models/iris/versions/1/other",
        "/v2/models/iris/versions//ready",
        "/v2/models/iris/infer/more",
        "/v2/models/iris/",
        "/v2//models/iris",
        "/v2//health/live",
        "/v2//",
        "/v2/other",
    ],
)
def test_an_unknown_path_is_404_with_an_error(path: str, served: Served):
    for method in ("GET", "POST"):
        answer = httpx.request(method, served.url + path)
        assert answer.status_code == 404
        assert list(answer.json()) == ["error"]


def test_a_request_id_that_is_too_long_is_refused_with_an_error(standalone: Served):
    answer = standalone.post(INFER, IN_JSON, x_request_id="r" * 101)
    assert answer.status_code == 431
    assert list(answer.json()) == ["error"]


def test_request_ids_of_the_http_request_come_back(standalone: Served):
    answer = standalone.post(INFER, {**IN_JSON, "id": "mine"}, x_request_id="r-1")
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.json()["id"] == "mine"


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
        ("/v2/models/iris/versions/7/infer", b"{}", None),
        ("/score/matmul", json.dumps(IN_JSON).encode(), None),
        ("/score/matmul/1", BINARY, len(HEAD)),
    ],
    ids=["json", "binary", "short", "cut", "model", "version", "score", "score-binary"],
)
def test_both_hosts_answer_with_the_same_bytes(
    path: str, body: bytes, length: int | None, standalone: Served, functions: Served
):
    headers = {} if length is None else {"inference_header_content_length": str(length)}
    answers = [each.post(path, body, **headers) for each in (standalone, functions)]
    first, second = answers
    assert first.status_code == second.status_code
    assert first.content == second.content
    name = "inference-header-content-length"
    assert first.headers.get(name) == second.headers.get(name)
    assert first.headers["content-type"] == second.headers["content-type"]


# --- entry scripts with a schema ------------------------------------------------------------------

SCRIPTS = {
    "numpy": """
import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema

def init(): ...

@input_schema("data", NumpyParameterType(np.array([[0.5, 1.5]])))
def run(data):
    return data * 2
""",
    "pandas": """
import pandas as pd
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.schema_decorators import input_schema

def init(): ...

@input_schema("table", PandasParameterType(pd.DataFrame({"n": [1], "x": [0.5], "word": ["a"]})))
def run(table):
    return {"word": (table["word"] + "!").tolist(), "sum": (table["n"] + table["x"]).to_numpy()}
""",
    "text": """
def init(): ...

def run(data):
    return data
""",
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """A host for each script, its model named as the script is."""
    folder, found = tmp_path_factory.mktemp("scripts"), {}
    with ExitStack() as stack:
        for kind, source in SCRIPTS.items():
            script = folder / kind / "score.py"
            script.parent.mkdir()
            script.write_text(source)
            host = StandaloneHost(script, environ={"SCORING_DEFAULT_MODEL": kind})
            host.start()
            stack.callback(host.stop)
            found[kind] = host
        for host in found.values():
            host.wait_ready()
        clients = {kind: Served(host.url) for kind, host in found.items()}
        yield clients
        for each in clients.values():
            each.client.close()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_an_array_of_a_script_is_an_input(binary: bool, scripts: dict[str, Served]):
    values = np.array([[0.1, -2.5], [3.0, 4.0]])
    client = scripts["numpy"].client
    found = client.infer(
        "numpy", [given("data", values, "FP64", binary)], outputs=asked(["output"], binary)
    )
    assert_same(found.as_numpy("output"), values * 2)
    described = client.get_model_metadata("numpy")
    assert described["inputs"] == [{"name": "data", "datatype": "FP64", "shape": [-1, 2]}]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_tables_columns_of_a_script_are_inputs(binary: bool, scripts: dict[str, Served]):
    client = scripts["pandas"].client
    inputs = [
        given("word", np.array(["x", "ü"], object), "BYTES", binary),
        given("n", np.array([1, 2**40]), "INT64", binary),
        given("x", np.array([0.25, 0.5]), "FP64", binary),
    ]
    found = client.infer("pandas", inputs, outputs=asked(["sum", "word"], binary))
    assert_same(found.as_numpy("sum"), np.array([1.25, 2**40 + 0.5]))
    assert texts(found.as_numpy("word")) == ["x!", "ü!"]
    assert client.get_model_metadata("pandas")["inputs"] == [
        {"name": "n", "datatype": "INT64", "shape": [-1]},
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "word", "datatype": "BYTES", "shape": [-1]},
    ]


def test_a_wrong_input_of_a_script_is_refused_with_the_cause(scripts: dict[str, Served]):
    client = scripts["numpy"].client
    with pytest.raises(InferenceServerException) as caught:
        client.infer("numpy", [given("data", np.ones((1, 3)), "FP64")])
    assert caught.value.status() == "400"
    assert "[any, 2] of FP64" in caught.value.message()


def test_a_script_that_takes_text_refuses_tensors(scripts: dict[str, Served]):
    """Its run() takes the body as it is, so V2 would reach it as JSON text."""
    client = scripts["text"].client
    with pytest.raises(InferenceServerException) as caught:
        client.infer("text", [given("x", np.ones((1, 3)), "FP64")])
    assert caught.value.status() == "400"
    assert "POST it to /score" in caught.value.message()
    assert client.is_model_ready("text")
    assert scripts["text"].post("/score", b'"as it is"').json() == '"as it is"'
