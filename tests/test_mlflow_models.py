"""MLflow models as they are saved: what they answer, how they load, and what is said when they
do not.

The other side is mlflow itself: ``mlflow.pyfunc.load_model`` and ``invocations``, the function
behind ``/invocations`` of ``mlflow models serve``; in one test that server is run.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from scoring_runtime.errors import InputError, InputTooLarge, ModelUnusable, SchemaMismatch
from scoring_runtime.formats.mlflow_answers import to_json_ready
from scoring_runtime.formats.mlflow_json import decode
from scoring_runtime.no_code.mlflow_model import load
from scoring_runtime.no_code.onnx_options import OnnxOptions
from scoring_runtime.payloads import Columns, Limits, NoCodeModel, Rows, Spec, Tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.pyfunc.scoring_server import invocations
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, Object, Property

from cloudpickle import register_pickle_by_value
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import ColumnTransformer  # type: ignore[import-untyped, unused-ignore]
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped, unused-ignore]
from sklearn.linear_model import (  # type: ignore[import-untyped, unused-ignore]
    LogisticRegression,
    Ridge,
)
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped, unused-ignore]
from sklearn.preprocessing import (  # type: ignore[import-untyped, unused-ignore]
    OneHotEncoder,
    StandardScaler,
)

# mlflow's own, when it loads and serves models.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning:mlflow",
    "ignore:.*:DeprecationWarning:mlflow",
    "ignore:X does not have valid feature names",
)
QUICK: dict[str, Any] = {"pip_requirements": ["mlflow"]}
REFUSED = "refused"
SERVER = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


# --- the models -----------------------------------------------------------------------------------


class Doubler(mlflow.pyfunc.PythonModel):
    """``a`` times ``factor``, and the params it got."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        result = model_input[["a"]] * params["factor"]
        result["label"] = params["label"]
        return result


class Echo(mlflow.pyfunc.PythonModel):
    """What reached the model, as text."""

    def predict(self, context: Any, model_input: Any) -> Any:
        if isinstance(model_input, dict):
            return {name: repr(each) for name, each in model_input.items()}
        types = getattr(model_input, "dtypes", None)
        kinds = [str(each) for each in types] if types is not None else []
        return [type(model_input).__name__, repr(model_input), *kinds]


class Sums(mlflow.pyfunc.PythonModel):
    """Takes a table with lists and objects in its cells."""

    def predict(self, context: Any, model_input: Any) -> Any:
        rows = model_input.to_dict("records")
        return [float(sum(row["values"])) + row["point"]["x"] for row in rows]


class Failing(mlflow.pyfunc.PythonModel):
    """A model with a mistake of its own."""

    def predict(self, context: Any, model_input: Any) -> Any:
        raise RuntimeError("out of paper")


def diabetes() -> tuple[Any, Any]:
    return load_diabetes(return_X_y=True, as_frame=True)


def save_ridge(path: Path, kind: str) -> None:
    features, target = diabetes()
    model = Ridge().fit(features, target)
    mlflow.sklearn.save_model(
        model,
        path,
        signature=infer_signature(features, model.predict(features)),
        input_example=features[:2],
        serialization_format=kind,
        **QUICK,
    )


def save_bare(path: Path) -> None:
    features, target = diabetes()
    mlflow.sklearn.save_model(
        Ridge().fit(features, target), path, serialization_format="pickle", **QUICK
    )


def people() -> Any:
    return pd.DataFrame(
        {
            "age": np.array([20, 30, 40, 50], "int64"),
            "town": ["Bath", "York", "Bath", "Ely"],
            "income": [1.5, 2.5, 3.5, 4.5],
            "member": [True, False, True, False],
        }
    )


def save_pipeline(path: Path) -> None:
    table = people()
    encode = ColumnTransformer(
        [("town", OneHotEncoder(), ["town"]), ("rest", StandardScaler(), ["age", "income"])]
    )
    model = make_pipeline(encode, LogisticRegression()).fit(table, ["no", "yes", "no", "yes"])
    mlflow.sklearn.save_model(
        model,
        path,
        signature=infer_signature(table, model.predict_proba(table)),
        serialization_format="cloudpickle",
        pyfunc_predict_fn="predict_proba",
        **QUICK,
    )


def save_matrix(path: Path) -> None:
    features, target = diabetes()
    model = Ridge().fit(features.to_numpy(), target)
    schema = Schema([TensorSpec(np.dtype("float64"), (-1, 10))])
    mlflow.sklearn.save_model(
        model, path, signature=ModelSignature(schema), serialization_format="pickle", **QUICK
    )


def network(weights: Any = ((1.5, 0.5), (2.0, -1.0))) -> Any:
    """``y = x @ weights``, singles."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.array(weights, "float32"), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def sums() -> Any:
    """``total = a + b`` of two inputs of one dimension."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["total"])],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("a", "b")],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [None])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_onnx(path: Path, model: Any, signature: Any, **options: Any) -> None:
    mlflow.onnx.save_model(model, path, signature=signature, **QUICK, **options)


SINGLES = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "x")])
ANSWER = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "y")])
TWO_COLUMNS = Schema([ColSpec("double", "a"), ColSpec("double", "b")])
WIDE = np.arange(4096, dtype="float32").reshape(2, 2048)


def save_python(path: Path, model: Any, signature: Any = None, **options: Any) -> None:
    mlflow.pyfunc.save_model(path, python_model=model, signature=signature, **QUICK, **options)


NESTED = Schema(
    [
        ColSpec(Array(DataType.double), "values"),
        ColSpec(Object([Property("x", DataType.long)]), "point"),
    ]
)
PARAMS = ParamSchema([ParamSpec("factor", "double", 2.0), ParamSpec("label", "string", "none")])
KINDS = Schema(
    [
        ColSpec("long", "n"),
        ColSpec("double", "x", False),
        ColSpec("string", "s", False),
        ColSpec("datetime", "d", False),
        ColSpec("boolean", "b", False),
        ColSpec("binary", "raw", False),
    ]
)


def save_hinted(path: Path) -> None:
    def predict(model_input: list[dict[str, float]]) -> list[float]:
        return [sum(each.values()) for each in model_input]

    mlflow.pyfunc.save_model(path, python_model=predict, **QUICK)


SAVE: dict[str, Callable[[Path], None]] = {
    "skops": lambda path: save_ridge(path, "skops"),
    "pickle": lambda path: save_ridge(path, "pickle"),
    "bare": save_bare,
    "pipeline": save_pipeline,
    "matrix": save_matrix,
    "onnx": lambda path: save_onnx(path, network(), ModelSignature(SINGLES, ANSWER)),
    "onnx-columns": lambda path: save_onnx(path, sums(), ModelSignature(TWO_COLUMNS)),
    "onnx-bare": lambda path: save_onnx(
        path,
        network(),
        None,
        onnx_session_options={"intra_op_num_threads": 1, "execution_mode": "sequential"},
        onnx_execution_providers=["CPUExecutionProvider"],
    ),
    "onnx-external": lambda path: save_onnx(path, network(WIDE), ModelSignature(SINGLES)),
    "doubler": lambda path: save_python(
        path, Doubler(), ModelSignature(Schema([ColSpec("double", "a")]), params=PARAMS)
    ),
    "echo": lambda path: save_python(path, Echo(), ModelSignature(KINDS)),
    "echo-bare": lambda path: save_python(path, Echo()),
    "nested": lambda path: save_python(path, Sums(), ModelSignature(NESTED)),
    "failing": lambda path: save_python(path, Failing()),
    "hinted": save_hinted,
}
LIGHT = [name for name in SAVE if name.startswith("onnx")] + [
    "skops",
    "pickle",
    "bare",
    "pipeline",
    "matrix",
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model, saved once, below its name."""
    root = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        register_pickle_by_value(sys.modules[__name__])
        for name, save in SAVE.items():
            save(root / name)
    return root


@pytest.fixture(scope="session")
def theirs(folders: Path) -> Callable[[str], Any]:
    """The model as mlflow loads it."""
    loaded: dict[str, Any] = {}

    def one(name: str) -> Any:
        if name not in loaded:
            loaded[name] = mlflow.pyfunc.load_model(str(folders / name))
        return loaded[name]

    return one


@pytest.fixture(scope="session")
def ours(folders: Path) -> Callable[[str], NoCodeModel]:
    """The model as we load it."""
    loaded: dict[str, NoCodeModel] = {}

    def one(name: str) -> NoCodeModel:
        if name not in loaded:
            loaded[name] = load(folders / name)
        return loaded[name]

    return one


def their_answer(model: Any, body: Any, content_type: str = "application/json") -> str:
    """What ``/invocations`` answers, or ``REFUSED``."""
    data = body if isinstance(body, str) else json.dumps(body)
    try:
        answer = invocations(data, content_type, model, model.metadata.get_input_schema())
    except MlflowException:
        return REFUSED
    assert answer.status == 200
    return str(answer.response)


def our_answer(model: NoCodeModel, body: Any) -> str:
    try:
        if isinstance(body, str):
            return answered(model.predict(text_columns(body), {}, ""))
        content, params = decode(copied(body))
        return answered(model.predict(content, params, ""))
    except InputError:
        return REFUSED


def answered(result: Any) -> str:
    return json.dumps({"predictions": to_json_ready(result)})


def copied(body: Any) -> Any:
    return json.loads(json.dumps(body))


def text_columns(text: str) -> Columns:
    header, *rows = csv.reader(io.StringIO(text))
    values = zip(*rows, strict=True) if rows else [()] * len(header)
    return Columns(dict(zip(header, map(list, values), strict=True)), typed=False)


# --- the same answers -----------------------------------------------------------------------------

NAMES = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
ROWS = [[0.1, -0.2, 0.3, 1e-9, 0.5, 1 / 3, 7.0, 0.0, -1.5, 2.25], [float(n) / 7 for n in range(10)]]
SPLIT, RECORDS = "dataframe_split", "dataframe_records"
TEN = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
PERSON = {"age": 33, "town": "York", "income": 2.5, "member": True}
BODIES: dict[str, dict[str, Any]] = {
    "skops": {
        "split": {SPLIT: {"columns": NAMES, "data": ROWS}},
        "split-other-order": {
            SPLIT: {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS], "index": [0, 1]}
        },
        "records": {RECORDS: TEN},
        "instances": {"instances": TEN},
        "inputs": {"inputs": {name: [each[name] for each in TEN] for name in NAMES}},
        "inputs-records": {"inputs": TEN},
        "one-row": {"inputs": TEN[0]},
        "params": {"inputs": TEN[0], "params": {"unknown": 1}},
        "integers": {SPLIT: {"columns": NAMES, "data": [list(range(10))]}},
        "numbers-as-text": {SPLIT: {"columns": NAMES, "data": [[str(n) for n in range(10)]]}},
        "extra-column": {RECORDS: [{**TEN[0], "more": "x"}]},
        "missing-column": {RECORDS: [{"age": 1.5}]},
        "nan": {RECORDS: [{**TEN[0], "bmi": None}]},
        "text": {RECORDS: [{**TEN[0], "bmi": "heavy"}]},
        "empty": {SPLIT: {"columns": NAMES, "data": []}},
        "ragged": {SPLIT: {"columns": NAMES, "data": [ROWS[0], [1.5]]}},
        "two-kinds": {"inputs": TEN, "instances": TEN},
        "no-kind": {"rows": TEN},
        "csv": ",".join(NAMES) + "\n" + "\n".join(",".join(map(repr, row)) for row in ROWS) + "\n",
        "csv-nan": ",".join(NAMES) + "\n" + "," * 9 + "\n",
    },
    "bare": {
        "split": {SPLIT: {"columns": NAMES, "data": ROWS}},
        "split-without-names": {SPLIT: {"data": ROWS}},
        "records": {RECORDS: TEN},
        "instances-rows": {"instances": ROWS},
        "inputs-rows": {"inputs": ROWS},
        "wide": {"inputs": [[1.0, 2.0]]},
        "csv": ",".join(NAMES) + "\n" + ",".join(map(str, ROWS[0])) + "\n",
        "no-signature-params": {"inputs": ROWS, "params": {"k": 1}},
    },
    "pipeline": {
        "split": {SPLIT: {"columns": list(PERSON), "data": [list(PERSON.values())]}},
        "records": {RECORDS: [PERSON, {**PERSON, "town": "Ely", "age": 21}]},
        "instances": {"instances": [PERSON]},
        "inputs": {"inputs": {name: [value] for name, value in PERSON.items()}},
        "unknown-town": {RECORDS: [{**PERSON, "town": "Rome"}]},
        "age-with-fraction": {RECORDS: [{**PERSON, "age": 20.5}]},
        "age-missing": {RECORDS: [PERSON, {**PERSON, "age": None}]},
        "number-for-town": {RECORDS: [{**PERSON, "town": 5}]},
        "csv": "town,age,income,member\nYork,33,2.5,True\nEly,21,0.1,False\n",
        "csv-age": "town,age,income,member\nYork,33.5,2.5,True\n",
    },
    "matrix": {
        "instances": {"instances": ROWS},
        "inputs": {"inputs": ROWS},
        "split": {SPLIT: {"data": ROWS}},
        "split-names": {SPLIT: {"columns": NAMES, "data": ROWS}},
        "records": {RECORDS: TEN},
        "narrow": {"inputs": [[1.0, 2.0]]},
        "flat": {"inputs": [1.0, 2.0]},
        "text": {"inputs": [["x"] * 10]},
        "empty": {"inputs": []},
    },
    "onnx": {
        "instances": {"instances": [[1.5, 2], [0.1, 4]]},
        "inputs": {"inputs": {"x": [[1.5, 2], [0.1, 4]]}},
        "instances-each": {"instances": [{"x": [1.5, 2]}, {"x": [0.1, 4]}]},
        "split-cells": {SPLIT: {"columns": ["x"], "data": [[[1.5, 2]], [[0.1, 4]]]}},
        "records-cells": {RECORDS: [{"x": [1.5, 2]}, {"x": [0.1, 4]}]},
        "wrong-name": {"inputs": {"z": [[1.5, 2]]}},
        "wrong-width": {"inputs": {"x": [[1.5, 2, 3]]}},
        "text": {"inputs": {"x": [["a", "b"]]}},
    },
    "onnx-columns": {
        "split": {SPLIT: {"columns": ["b", "a"], "data": [[1, 2.5], [3, 0.1]]}},
        "instances": {"instances": [{"a": 1.5, "b": 2}]},
        "missing": {"instances": [{"a": 1.5}]},
        "csv": "a,b\n0.1,2\n3,4\n",
    },
    "onnx-bare": {
        "split": {SPLIT: {"columns": ["p", "q"], "data": [[1.5, 2.5], [3.5, 0.1]]}},
        "split-without-names": {SPLIT: {"data": [[1.5, 2.5]]}},
        "instances": {"instances": [[1.5, 2.5]]},
        "inputs": {"inputs": {"x": [[1.5, 2.5]]}},
        "integers": {"inputs": {"x": [[1, 2]]}},
        "wrong-name": {"inputs": {"z": [[1.5, 2.5]]}},
        "wrong-width": {"inputs": [[1.5, 2.5, 3.5]]},
        "csv": "p,q\n0.1,2.5\n3,4\n",
    },
    "onnx-external": {"instances": {"instances": [[1.5, 2]]}},
    "doubler": {
        "split": {SPLIT: {"columns": ["a"], "data": [[1.5], [2]]}},
        "factor": {"inputs": {"a": [1.5, 2]}, "params": {"factor": 3, "label": "thrice"}},
        "unknown-param": {"instances": [{"a": 1.5}], "params": {"speed": 9}},
        "wrong-param": {"instances": [{"a": 1.5}], "params": {"factor": "x"}},
        "wrong-column": {"instances": [{"b": 1.5}]},
        "csv": "a,b\n1.5,2\n",
    },
    "echo": {
        "every-kind": {
            RECORDS: [
                {"n": 1, "x": 0.5, "s": "a", "d": "2024-01-02", "b": True, "raw": "YWJj"},
                {"n": 2, "x": None, "s": None, "d": None, "b": None, "raw": "ZA=="},
            ]
        },
        "instances": {
            "instances": [{"n": 1, "x": 1, "s": "a", "d": "2024-01-02T03:04:05.5", "b": True}]
        },
        "integers-alone": {"inputs": {"n": [1, 2, 2**62]}},
        "n-as-double": {"inputs": {"n": [1.0, 2.5]}},
        "n-missing": {RECORDS: [{"n": 1}, {"x": 2}]},
        "sparse": {RECORDS: [{"n": 1, "s": "a"}, {"n": 2, "x": 2.5}]},
        "sparse-inputs": {"inputs": [{"n": 1, "x": 1.5}, {"n": 2}]},
        "csv": "n,x,s,b\n1,,x,True\n2,0.30000000000000004,,False\n",
        "csv-bool": "n,b\n1,maybe\n",
    },
    "echo-bare": {
        "split": {SPLIT: {"columns": ["a", "b"], "data": [[1, "x"], [None, "y"]]}},
        "split-index": {SPLIT: {"columns": ["a"], "data": [[1], [2]], "index": [0, 1]}},
        "split-without-names": {SPLIT: {"data": [[1, "x"], [2, "y"]]}},
        "split-positions": {SPLIT: {"columns": [0, 1], "data": [[1, "x"], [2, "y"]]}},
        "records": {RECORDS: [{"a": 1}, {"b": "x"}]},
        "instances": {"instances": [[1, 2], [3, 4.5]]},
        "instances-each": {"instances": [{"a": 1, "s": "x"}, {"a": 2.5, "s": "yz"}]},
        "inputs": {"inputs": {"a": [1, 2], "b": [[1], [2]]}},
        "inputs-flat": {"inputs": [True, False]},
        "inputs-text": {"inputs": ["x", "yz"]},
        "csv": "a,b,c\n1,x,0.1\n2,,3\n",
    },
    "nested": {
        "split": {
            SPLIT: {"columns": ["values", "point"], "data": [[[1, 2.5], {"x": 3}], [[], {"x": 1}]]}
        },
        "records": {RECORDS: [{"values": [1.5], "point": {"x": 3}}]},
        "inputs-records": {"inputs": [{"values": [1.5, 2], "point": {"x": 3}}]},
        "inputs": {"inputs": {"values": [1.5], "point": {"x": 3}}},
        "wrong-item": {RECORDS: [{"values": ["x"], "point": {"x": 3}}]},
        "missing-property": {RECORDS: [{"values": [1.5], "point": {"y": 3}}]},
        "missing": {RECORDS: [{"values": [1.5]}]},
    },
    "hinted": {
        "inputs": {"inputs": [{"a": 1.5, "b": 2.5}, {"a": 3.5}]},
        "equal-keys": {"inputs": [{"a": 1.5, "b": 2.5}, {"a": 3.5, "b": 1}]},
        "not-a-list": {"inputs": {"a": 1.5}},
        "wrong-item": {"inputs": [{"a": "x"}]},
    },
}
REFUSES = {
    "skops": {
        "missing-column",
        "nan",
        "text",
        "empty",
        "ragged",
        "two-kinds",
        "no-kind",
        "csv-nan",
    },
    "bare": {"wide"},
    "pipeline": {
        "unknown-town",
        "age-with-fraction",
        "age-missing",
        "number-for-town",
        "csv-age",
    },
    "matrix": {"narrow", "flat", "text", "empty"},
    "onnx": {"wrong-name", "wrong-width", "text"},
    "onnx-columns": {"missing"},
    "onnx-bare": {"integers", "wrong-name", "wrong-width"},
    "doubler": {"wrong-param", "wrong-column"},
    "echo": {"n-as-double", "n-missing", "csv-bool"},
    "nested": {"wrong-item", "missing-property", "missing"},
    "hinted": {"not-a-list", "wrong-item"},
}
CASES = [(name, body) for name, bodies in BODIES.items() for body in bodies]


@pytest.mark.parametrize(("name", "body"), CASES)
def test_answers_are_those_of_mlflow_models_serve(
    name: str,
    body: str,
    ours: Callable[[str], NoCodeModel],
    theirs: Callable[[str], Any],
) -> None:
    """Byte for byte, of each kind of body; and what mlflow refuses is refused."""
    given = BODIES[name][body]
    kind = "text/csv" if isinstance(given, str) else "application/json"
    wanted = their_answer(theirs(name), given, kind)
    assert our_answer(ours(name), given) == wanted
    assert (wanted == REFUSED) is (body in REFUSES.get(name, ()))
