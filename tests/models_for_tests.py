"""Small models for tests, made once in a process, and the hosts that serve them without a script.

Makers give estimators, or ONNX models as bytes; :func:`registered` lays them out as a registry.
All of them are deterministic: the same code gives the same answers in every process.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoring_runtime import ScoringRequest, ScoringResponse, Settings, build
from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import HttpRequest
from scoring_runtime.scoring.runtime import Runtime
from tests.hosts.functions import FunctionsHost
from tests.hosts.standalone import StandaloneHost, clean_environ

ROOT = Path(__file__).parent.parent
IRIS_NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
IRIS_ROWS: list[list[float]] = [
    [5.1, 3.5, 1.4, 0.2],
    [6.7, 3.1, 4.4, 1.4],
    [6.3, 3.3, 6.0, 2.5],
    [5.9, 3.0, 5.1, 1.8],
]
"""Rows of four numbers, of all three classes 0, 1, 2."""
PEOPLE_COLUMNS = ("age", "city", "income", "job")
PEOPLE: list[dict[str, Any]] = [
    {"age": 25.0, "city": "Ulm", "income": 1200.5, "job": "cook"},
    {"age": 61.0, "city": "Köln", "income": 8100.0, "job": "smith"},
    {"age": 40.0, "city": "Bonn", "income": 3000.25, "job": "cook"},
]
"""Records of the model that :func:`people_estimator` makes: two columns of text, two of numbers."""

OPSET, IR_VERSION = 18, 9
"""Of every ONNX model made here: onnxruntime 1.17 reads them too."""

ELEMENT_TYPES: Mapping[str, str] = {
    "BOOL": "BOOL",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "FP16": "FLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "STRING",
}
"""Datatype of the Open Inference Protocol → name of ONNX's element type."""


# --- scikit-learn ---------------------------------------------------------------------------------


def iris() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The iris data: 150 rows of four numbers (cm), and their classes 0, 1, 2."""
    from sklearn.datasets import load_iris

    values, classes = load_iris(return_X_y=True)
    return values, classes


@functools.cache
def iris_estimator() -> Any:
    """A LogisticRegression without feature names: 4 numbers → class 0, 1, 2 (INT64).

    It has ``predict``, ``predict_proba`` and ``decision_function``.
    """
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(*iris())


@functools.cache
def named_iris_estimator() -> Any:
    """The same with the feature names :data:`IRIS_NAMES`, and classes that are text (BYTES)."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    values, classes = iris()
    species = np.array(["setosa", "versicolor", "virginica"], dtype=object)[classes]
    frame = pd.DataFrame(values, columns=list(IRIS_NAMES))
    return LogisticRegression(max_iter=1000).fit(frame, species)


@functools.cache
def people_estimator() -> Any:
    """A Pipeline of ColumnTransformer (OneHotEncoder, StandardScaler) and Ridge.

    Its columns are :data:`PEOPLE_COLUMNS`; it knows the cities Ulm, Köln, Bonn and the jobs cook,
    smith, and refuses others. It gives one number (FP64) for each record.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    records = [
        {"age": 20.0 + 3 * n, "city": city, "income": 1000.0 * n + 7, "job": job}
        for n, (city, job) in enumerate(
            (city, job) for city in ("Ulm", "Köln", "Bonn") for job in ("cook", "smith")
        )
    ]
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(sparse_output=False), ["city", "job"]),
            ("numbers", StandardScaler(), ["age", "income"]),
        ]
    )
    frame = pd.DataFrame(records, columns=list(PEOPLE_COLUMNS))
    return make_pipeline(columns, Ridge()).fit(frame, np.arange(6) * 1.5)


@functools.cache
def sum_estimator(factor: float = 1.0, width: int = 2) -> Any:
    """A LinearRegression without names: ``factor`` times ``width`` numbers' weighted sum.

    The weight of a number is its place, counted from 1; so the order of columns matters.
    """
    from sklearn.linear_model import LinearRegression

    values = np.vstack([np.zeros(width), np.eye(width)])
    return LinearRegression().fit(values, factor * values @ np.arange(1, width + 1))


# --- ONNX -----------------------------------------------------------------------------------------


def onnx_model(nodes: Any, inputs: Any, outputs: Any, initializers: Any = ()) -> bytes:
    """A checked model of opset :data:`OPSET` as bytes; the arguments are those of make_graph."""
    from onnx import checker, helper

    graph = helper.make_graph(nodes, "for_tests", inputs, outputs, initializer=list(initializers))
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _value(name: str, datatype: str, shape: Any) -> Any:
    from onnx import TensorProto, helper

    element_type = getattr(TensorProto, ELEMENT_TYPES[datatype])
    return helper.make_tensor_value_info(name, element_type, shape)


@functools.cache
def identity_onnx(
    datatypes: tuple[str, ...] = tuple(ELEMENT_TYPES), shape: tuple[Any, ...] = ("n", 2)
) -> bytes:
    """For each datatype an input ``in_<datatype>`` and, equal to it, an output ``out_<datatype>``.

    Inputs of shape ("n", 2) are tensors to the runtime; of ("n",) or ("n", 1) columns of a table.
    """
    from onnx import helper

    return onnx_model(
        [helper.make_node("Identity", [f"in_{each}"], [f"out_{each}"]) for each in datatypes],
        [_value(f"in_{each}", each, shape) for each in datatypes],
        [_value(f"out_{each}", each, shape) for each in datatypes],
    )


@functools.cache
def matmul_onnx(rows: Any = "n", width: int = 3) -> bytes:
    """One input ``x`` (FP32, [rows, width]) → one output ``y`` (FP32, [rows, 2]).

    ``y`` is ``x`` times a matrix whose entries are 0.1, 0.2, … in order of rows.
    """
    from onnx import helper, numpy_helper

    weights = (np.arange(2 * width, dtype=np.float32) + 1).reshape(width, 2) / np.float32(10)
    return onnx_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [_value("x", "FP32", [rows, width])],
        [_value("y", "FP32", [rows, 2])],
        [numpy_helper.from_array(weights, "w")],
    )


@functools.cache
def add_sub_onnx() -> bytes:
    """``a`` and ``b`` (INT32, [n, 4]) → ``sum`` and ``difference`` (INT32, [n, 4])."""
    from onnx import helper

    return onnx_model(
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
        [_value("a", "INT32", ["n", 4]), _value("b", "INT32", ["n", 4])],
        [_value("sum", "INT32", ["n", 4]), _value("difference", "INT32", ["n", 4])],
    )


@functools.cache
def iris_onnx(zipmap: bool = True) -> bytes:
    """:func:`iris_estimator` as skl2onnx converts it: ``X`` (FP32, [n, 4]) → label, probabilities.

    With ``zipmap`` the output ``output_probability`` is a map from class to probability for each
    row; without it the output ``probabilities`` is FP32, [n, 3]. The first output is called
    ``output_label`` or ``label``.
    """
    from skl2onnx import to_onnx

    estimator = iris_estimator()
    made = to_onnx(
        estimator,
        np.zeros((1, 4), np.float32),
        options={id(estimator): {"zipmap": zipmap}},
        target_opset=OPSET,
    )
    made.ir_version = IR_VERSION
    return bytes(made.SerializeToString())


@functools.cache
def people_onnx() -> bytes:
    """:func:`people_estimator` as skl2onnx converts it, an input of [n, 1] for each column.

    Texts are BYTES, numbers FP32; the output is ``variable`` (FP32, [n, 1]).
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = {"city": StringTensorType, "job": StringTensorType}
    types = [(name, kinds.get(name, FloatTensorType)([None, 1])) for name in PEOPLE_COLUMNS]
    made = convert_sklearn(people_estimator(), "people", types, target_opset=OPSET)
    made.ir_version = IR_VERSION
    return bytes(made.SerializeToString())


EVERY_MODEL: Mapping[str, Callable[[], Any]] = {
    "addsub/1": add_sub_onnx,
    "columns/1": lambda: identity_onnx(shape=("n",)),
    "every/3": identity_onnx,
    "fixed/1": lambda: matmul_onnx(rows=2),
    "iris/1": lambda: sum_estimator(width=4),
    "iris/2": iris_estimator,
    "matmul/1": matmul_onnx,
    "named/1": named_iris_estimator,
    "nozip/1": lambda: iris_onnx(zipmap=False),
    "people/1": people_estimator,
    "people-onnx/1": people_onnx,
    "zip/1": iris_onnx,
}
"""One of each kind, by its place in a registry."""


# --- folders --------------------------------------------------------------------------------------


def saved(folder: Path, model: Any) -> Path:
    """``model`` as the only file in ``folder``: bytes as model.onnx, else by joblib; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, bytes):
        (folder / "model.onnx").write_bytes(model)
    else:
        import joblib

        joblib.dump(model, folder / "model.joblib")
    return folder


def registered(root: Path, models: Mapping[str, Any]) -> Path:
    """``{"name/version": model}`` in the layout that images have, without manifests; ``root``."""
    for place, model in models.items():
        saved(root / place, model)
    return root


# --- hosts ----------------------------------------------------------------------------------------


class ModelHost(StandaloneHost):
    """``with ModelHost(folder) as host:`` serves a model folder, or registry, without a script.

    Modules in ``folder``'s parent can be imported by what is unpickled.
    """

    def __init__(
        self, folder: Path, *options: str, environ: Mapping[str, str] | None = None
    ) -> None:
        modules = {"PYTHONPATH": f"{ROOT}:{folder.parent}", **(environ or {})}
        super().__init__(folder, environ=modules, cwd=folder.parent)
        self._command = [
            sys.executable, "-m", "scoring_runtime", "serve", "--model-dir", str(folder),
            "--port", str(self.port), "--host", "127.0.0.1", *options,
        ]  # fmt: skip


def functions_model_host(folder: Path, **settings: str) -> FunctionsHost:
    """The same on the Functions host, once its models are loaded."""
    environ = {
        "PYTHONPATH": str(folder.parent),
        "AZUREML_MODEL_DIR": str(folder),
        "SCORING_INIT_GRACE_SECONDS": "60",  # or a busy machine lets it start without them
        **settings,
    }
    return FunctionsHost(ROOT, clean_environ(**environ))


def other_version(path: Path) -> Path:
    """A pickle that scikit-learn 1.3.2 has written."""
    import pickle

    import sklearn
    from sklearn.preprocessing import StandardScaler

    path.parent.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(StandardScaler().fit(np.eye(2)))
    text = sklearn.__version__.encode()
    path.write_bytes(content.replace(bytes([len(text)]) + text, b"\x051.3.2"))
    return path


def answers(
    folder: Path, requests: Sequence[ScoringRequest], **environ: str
) -> list[ScoringResponse]:
    """What the runtime answers to each of ``requests`` with the model in ``folder``."""

    async def main() -> list[ScoringResponse]:
        async with _started(folder, environ) as runtime:
            return [await runtime.score(request) for request in requests]

    return asyncio.run(asyncio.wait_for(main(), 60))


def replies(
    folder: Path, method: str, *targets: str, body: bytes = b"", **environ: str
) -> list[tuple[int, Any]]:
    """Status and JSON of what the endpoint answers to each of ``targets``."""

    async def main() -> list[tuple[int, Any]]:
        async with _started(folder, environ) as runtime:
            endpoint, found = create(runtime)[0], []
            for path, _, query in (target.partition("?") for target in targets):
                reply = await endpoint(HttpRequest(method, path, query.encode(), [], body))
                assert isinstance(reply.body, bytes)
                found.append((reply.status, json.loads(reply.body)))
            return found

    return asyncio.run(asyncio.wait_for(main(), 60))


@asynccontextmanager
async def _started(folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Runtime]:
    said = {"AZUREML_MODEL_DIR": str(folder), "AML_APP_ROOT": str(folder), **environ}
    runtime = build(Settings.from_environ(said))
    runtime.start()
    await runtime.started()
    yield runtime
    await runtime.stop()
