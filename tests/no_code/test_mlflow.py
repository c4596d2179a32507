"""MLflow models as they are saved: what they answer, how they load, and what is said when they
do not.

The other side is mlflow itself: ``mlflow.pyfunc.load_model`` and ``invocations``, the function
behind ``/invocations`` of ``mlflow models serve``; in one test that server is run.
"""

from __future__ import annotations

import csv
import importlib
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
from typing import Any, Protocol

import httpx
import numpy as np
import onnxruntime  # type: ignore[import-untyped, unused-ignore]
import pandas as pd
import pytest
import yaml

from scoring_runtime.errors import InputError, InputTooLarge, ModelUnusable, SchemaMismatch
from scoring_runtime.formats.mlflow_answers import to_json_ready
from scoring_runtime.formats.mlflow_json import decode
from scoring_runtime.no_code.mlflow_model import load
from scoring_runtime.values.content import Columns, Limits, NoCodeModel, Rows, Spec, Tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.pyfunc.model import PythonModel
    from mlflow.pyfunc.scoring_server import invocations
    from mlflow.pyfunc.utils import pyfunc
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


# mlflow wants hints of types, and sets filters of its own to say so.
with warnings.catch_warnings(record=True):
    warnings.simplefilter("ignore")

    class Doubler(PythonModel):  # type: ignore[misc, unused-ignore]
        """``a`` times ``factor``, and the params it got."""

        def predict(self, context, model_input, params=None):
            result = model_input[["a"]] * params["factor"]
            result["label"] = params["label"]
            return result

    class Echo(PythonModel):  # type: ignore[misc, unused-ignore]
        """What reached the model, as text."""

        def predict(self, context, model_input, params=None):
            if isinstance(model_input, dict):
                return {name: repr(each) for name, each in model_input.items()}
            types = getattr(model_input, "dtypes", None)
            kinds = [str(each) for each in types] if types is not None else []
            return [type(model_input).__name__, repr(model_input), *kinds]

    class Sums(PythonModel):  # type: ignore[misc, unused-ignore]
        """Takes a table with lists and objects in its cells."""

        def predict(self, context, model_input, params=None):
            rows = model_input.to_dict("records")
            return [float(sum(row["values"])) + row["point"]["x"] for row in rows]

    class Failing(PythonModel):  # type: ignore[misc, unused-ignore]
        """A model with a mistake of its own."""

        def predict(self, context, model_input, params=None):
            raise RuntimeError("out of paper")


def diabetes() -> Any:
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
    @pyfunc  # type: ignore[untyped-decorator, unused-ignore]
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
    "onnx-two-bare": lambda path: save_onnx(path, sums(), None),
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
    with warnings.catch_warnings(record=True), pytest.MonkeyPatch.context() as patch:
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


class Edited(Protocol):
    """A copy of a model's folder with changes to its ``MLmodel``: None takes a key away."""

    def __call__(
        self,
        name: str,
        *,
        flavours: dict[str, dict[str, Any]] | None = None,
        to: str = "",
        **sections: Any,
    ) -> Path: ...


@pytest.fixture
def edited(folders: Path, tmp_path: Path) -> Edited:
    def copy(
        name: str,
        *,
        flavours: dict[str, dict[str, Any]] | None = None,
        to: str = "",
        **sections: Any,
    ) -> Path:
        folder = tmp_path / (to or name)
        shutil.copytree(folders / name, folder)
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
        mlmodel.update(sections)
        for flavour, changes in (flavours or {}).items():
            mlmodel["flavors"][flavour].update(changes)
            for key in [key for key, value in changes.items() if value is None]:
                del mlmodel["flavors"][flavour][key]
        (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
        return folder

    return copy


def their_answer(model: Any, body: Any, content_type: str = "application/json") -> str:
    """What ``/invocations`` answers, or ``REFUSED``."""
    data = body if isinstance(body, str) else json.dumps(body)
    score: Any = invocations
    try:
        answer = score(data, content_type, model, model.metadata.get_input_schema())
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
        "ragged-inside": {"inputs": [[[1.0], [2.0, 3.0]], [[1.0], [2.0]]]},
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
    "onnx-two-bare": {
        "split": {SPLIT: {"columns": ["a", "b", "z"], "data": [[1.5, 2.5, 9], [3, 4, 9]]}},
        "inputs": {"inputs": {"a": [1.5], "b": [2.5]}},
        "missing-column": {SPLIT: {"columns": ["a", "z"], "data": [[1.5, 2.5]]}},
        "missing-array": {"inputs": {"a": [1.5]}},
        "rows": {"inputs": [[1.5, 2.5]]},
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
        "rows": {"inputs": [[1.5, 2.5]]},
    },
    "hinted": {
        "inputs": {"inputs": [{"a": 1.5, "b": 2.5}, {"a": 3.5}]},
        "equal-keys": {"inputs": [{"a": 1.5, "b": 2.5}, {"a": 3.5, "b": 1.0}]},
        "not-a-list": {"inputs": {"a": 1.5}},
        "numbers": {"inputs": [1.5]},
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
    "bare": {"wide", "ragged-inside"},
    "pipeline": {
        "unknown-town",
        "age-missing",
        "number-for-town",
        "csv-age",
    },
    "matrix": {"narrow", "flat", "text", "empty"},
    "onnx": {"wrong-name", "wrong-width", "text"},
    "onnx-columns": {"missing"},
    "onnx-bare": {"integers", "wrong-name", "wrong-width"},
    "onnx-two-bare": {"missing-column", "missing-array", "rows"},
    "doubler": {"wrong-param", "wrong-column"},
    "echo": {"n-missing", "csv-bool"},
    "nested": {"wrong-item", "missing-property", "missing", "rows"},
    "hinted": {"not-a-list", "wrong-item", "numbers"},
}
TABLE = {name: np.array([each[name] for each in TEN]) for name in NAMES}
SINGLE = np.array([[1.5, 2.5], [0.1, 4.0]], "float32")
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


def test_each_model_takes_some_bodies_and_refuses_some() -> None:
    """The table above names only bodies there are, and no model refuses all."""
    for name, refused in REFUSES.items():
        assert refused < set(BODIES[name])


TYPED: dict[str, tuple[str, Any, Any]] = {
    "table": ("skops", Columns(TABLE), pd.DataFrame(TABLE)),
    "tensors": ("skops", Tensors(TABLE), TABLE),
    "halves": (
        "skops",
        Columns({name: each.astype("float16") for name, each in TABLE.items()}),
        pd.DataFrame({name: each.astype("float16") for name, each in TABLE.items()}),
    ),
    "integers": (
        "skops",
        Columns({name: each.astype("int64") * 9 for name, each in TABLE.items()}),
        pd.DataFrame({name: each.astype("int64") * 9 for name, each in TABLE.items()}),
    ),
    "bare-array": ("bare", Rows(np.array(ROWS)), np.array(ROWS)),
    "bare-table": ("bare", Columns(TABLE), pd.DataFrame(TABLE)),
    "matrix": ("matrix", Rows(np.array(ROWS)), np.array(ROWS)),
    "matrix-singles": ("matrix", Rows(np.array(ROWS, "float32")), np.array(ROWS, "float32")),
    "onnx": ("onnx", Tensors({"x": SINGLE}), {"x": SINGLE}),
    "onnx-doubles": ("onnx", Tensors({"x": SINGLE.astype(float)}), {"x": SINGLE.astype(float)}),
    "onnx-bare": ("onnx-bare", Tensors({"x": SINGLE}), {"x": SINGLE}),
    "onnx-bare-doubles": ("onnx-bare", Rows(SINGLE.astype(float)), SINGLE.astype(float)),
    "onnx-bare-integers": ("onnx-bare", Rows(SINGLE.astype("int64")), SINGLE.astype("int64")),
    "onnx-columns": (
        "onnx-columns",
        Tensors({"a": SINGLE[:, 0], "b": SINGLE[:, 1]}),
        {"a": SINGLE[:, 0], "b": SINGLE[:, 1]},
    ),
}


@pytest.mark.parametrize("case", TYPED)
def test_arrays_are_scored_as_by_pyfunc_predict(
    case: str, ours: Callable[[str], NoCodeModel], theirs: Callable[[str], Any]
) -> None:
    """As npy and V2 bring them: the same type of result, the same bits, or a refusal."""
    name, content, data = TYPED[case]
    try:
        wanted = theirs(name).predict(data)
    except Exception:
        with pytest.raises(SchemaMismatch):
            ours(name).predict(content, {}, "")
        return
    got = ours(name).predict(content, {}, "")
    assert type(got) is type(wanted)
    assert answered(got) == answered(wanted)


def test_a_matrix_gets_the_names_of_the_signature(ours: Callable[[str], NoCodeModel]) -> None:
    """Rows of numbers score as the same table does; mlflow would miss the names."""
    rows = ours("skops").predict(Rows(np.array(ROWS)), {}, "")
    table = ours("skops").predict(Columns(TABLE), {}, "")
    np.testing.assert_array_equal(rows, table)


def test_without_a_signature_arrays_go_under_the_names_that_are_shown(
    ours: Callable[[str], NoCodeModel], edited: Edited
) -> None:
    """As V2 clients send them, in any order; mlflow would hand scikit-learn a dict."""
    table = ours("bare").predict(Columns(TABLE), {}, "")
    backwards = {name: TABLE[name].reshape(2, 1) for name in NAMES[::-1]}
    np.testing.assert_array_equal(ours("bare").predict(Tensors(backwards), {}, ""), table)
    with pytest.raises(SchemaMismatch, match="Feature names unseen at fit time"):
        ours("bare").predict(Tensors({**TABLE, "more": TABLE["age"]}), {}, "")
    matrix = load(edited("matrix", signature=None))
    assert matrix.inputs == (Spec("input", "FP64", (-1, 10)),)
    rows = matrix.predict(Rows(np.array(ROWS)), {}, "")
    np.testing.assert_array_equal(matrix.predict(Tensors({"input": np.array(ROWS)}), {}, ""), rows)


# --- what a model says of itself ------------------------------------------------------------------

PLATFORMS = {
    "skops": "mlflow_sklearn",
    "onnx": "mlflow_onnx",
    "echo": "mlflow_python_function",
}


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_platform_is_the_flavour(name: str, ours: Callable[[str], NoCodeModel]) -> None:
    """There is no method to choose: MLflow models have their ``predict_fn``."""
    assert ours(name).platform == PLATFORMS[name]
    assert ours(name).methods == ()


def test_the_inputs_and_outputs_are_those_of_the_signature(
    ours: Callable[[str], NoCodeModel],
) -> None:
    """Columns, or tensors with their shape."""
    model = ours("skops")
    assert model.inputs == tuple(Spec(name, "FP64", (-1,)) for name in NAMES)
    assert model.outputs == (Spec("output", "FP64", (-1,)),)
    assert model.tabular
    assert ours("onnx").inputs == (Spec("x", "FP32", (-1, 2)),)
    assert ours("onnx").outputs == (Spec("y", "FP32", (-1, 2)),)
    assert not ours("onnx").tabular
    assert [each.optional for each in ours("echo").inputs] == [False, *[True] * 5]


def test_without_a_signature_the_model_itself_is_asked(ours: Callable[[str], NoCodeModel]) -> None:
    """The feature names of scikit-learn, inputs and outputs of ONNX; else nothing is known."""
    assert ours("bare").inputs == tuple(Spec(name, "FP64", (-1,)) for name in NAMES)
    assert ours("onnx-bare").inputs == (Spec("x", "FP32", (-1, 2)),)
    assert ours("onnx-bare").outputs == (Spec("y", "FP32", (-1, 2)),)
    assert (ours("echo-bare").inputs, ours("echo-bare").outputs) == ((), ())


def test_the_example_is_the_one_that_was_saved(
    folders: Path, ours: Callable[[str], NoCodeModel]
) -> None:
    """``serving_input_example.json`` of the folder."""
    saved = json.loads((folders / "skops/serving_input_example.json").read_text())
    assert ours("skops").example == saved
    assert len(saved[SPLIT]["data"]) == 2


@pytest.mark.parametrize("name", [name for name in SAVE if name not in ("pipeline", "failing")])
def test_the_example_scores(
    name: str, ours: Callable[[str], NoCodeModel], theirs: Callable[[str], Any]
) -> None:
    """With us and with mlflow; one made of the signature cannot know a pipeline's categories."""
    model = ours(name)
    wanted = their_answer(theirs(name), model.example)
    assert wanted != REFUSED
    assert our_answer(model, model.example) == wanted


OLD_EXAMPLES: dict[str, tuple[Any, Any, Any]] = {
    "table": ({"type": "dataframe"}, {"columns": ["a"], "data": [[1.5]]}, {
        SPLIT: {"columns": ["a"], "data": [[1.5]]}
    }),
    "array": ({"type": "ndarray"}, [[1.5]], {"inputs": [[1.5]]}),
    "nan": ({"type": "ndarray"}, [float("nan")], {"inputs": [None]}),
    "params": (
        {"type": "json_object", "params": "true"},
        {"inputs": {"a": [1]}, "params": {"factor": 3}},
        {"inputs": {"a": [1]}, "params": {"factor": 3}},
    ),
    "damaged": ({"type": "dataframe"}, 5, {SPLIT: {"columns": ["a"], "data": [[1.0]]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD_EXAMPLES)
def test_an_example_without_a_serving_form_gets_one(case: str, edited: Edited) -> None:
    """Older versions of mlflow saved the data alone; one that is no body is left out."""
    info, saved, wanted = OLD_EXAMPLES[case]
    folder = edited("doubler", saved_input_example_info={**info, "artifact_path": "old.json"})
    (folder / "old.json").write_text(json.dumps(saved))
    assert load(folder).example == wanted


def test_params_reach_the_model(ours: Callable[[str], NoCodeModel]) -> None:
    """Converted, with the defaults of those that are not given."""
    result = ours("doubler").predict(Columns({"a": [1.5]}), {"factor": 4}, "")
    assert result.to_dict("records") == [{"a": 6.0, "label": "none"}]


def test_a_refusal_of_the_model_names_its_reason(ours: Callable[[str], NoCodeModel]) -> None:
    """What scikit-learn says of NaN, in one line and without a stack."""
    with pytest.raises(SchemaMismatch) as refused:
        ours("bare").predict(Rows([[float("nan")] * 10]), {}, "")
    assert str(refused.value).startswith(
        "The model refuses the input: Input X contains NaN. Ridge does not accept missing values"
    )
    assert len(str(refused.value)) < 450
    with pytest.raises(SchemaMismatch) as refused:
        ours("onnx-bare").predict(Rows(np.zeros((1, 3), "float32")), {}, "")
    assert "Got invalid dimensions for input: x" in str(refused.value)
    assert "index: 1 Got: 3 Expected: 2" in str(refused.value)


def test_a_refusal_of_mlflow_says_what_mlflow_says_at_the_end(
    ours: Callable[[str], NoCodeModel],
) -> None:
    """Neither the data nor the whole schema is repeated."""
    with pytest.raises(SchemaMismatch) as refused:
        ours("nested").predict(Columns({"values": [["x"]], "point": [{"x": 3}]}), {}, "")
    message = str(refused.value)
    assert message.startswith("The input does not fit the signature: ")
    assert "Traceback" not in message
    assert len(message) < 450


def test_a_mistake_of_the_model_is_no_fault_of_the_client(
    ours: Callable[[str], NoCodeModel],
) -> None:
    """Other errors than ValueError and TypeError come out as they are."""
    with pytest.raises(RuntimeError, match="out of paper"):
        ours("failing").predict(Rows([1]), {}, "")


LIMITS = Limits(rows=2, values=20, bytes=10**6)


@pytest.mark.parametrize(
    "content",
    [
        Rows([[0.0] * 10] * 3),
        Rows(np.zeros((3, 1))),
        Columns({"a": [1] * 3}),
        Tensors({"a": [1] * 3}),
    ],
    ids=["rows", "array", "columns", "tensors"],
)
def test_more_rows_than_the_limit_are_refused(folders: Path, content: Any) -> None:
    """Before anything is made of them."""
    model = load(folders / "skops", limits=LIMITS)
    assert model.predict(Rows(ROWS), {}, "").shape == (2,)
    with pytest.raises(InputTooLarge, match="The input has 3 rows"):
        model.predict(content, {}, "")


# --- loading --------------------------------------------------------------------------------------


def test_scikit_learn_and_onnx_load_and_score_without_mlflow(folders: Path) -> None:
    """In a process of its own, where mlflow, if it were asked for, would be found."""
    script = """
        import sys
        from pathlib import Path
        from scoring_runtime.formats.mlflow_json import decode
        from scoring_runtime.no_code.mlflow_model import load

        for folder in sys.argv[1:]:
            model = load(Path(folder))
            try:
                model.predict(*decode(model.example), "")
            except Exception as error:
                assert "unknown categories" in str(error), error
            print(Path(folder).name, "mlflow" in sys.modules)
    """
    done = run(script, *(str(folders / name) for name in LIGHT))
    assert (done.stdout.splitlines(), done.stderr) == ([f"{name} False" for name in LIGHT], "")


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **SERVER},
        cwd=Path(__file__).parents[2],
    )


NOT_KNOWN: dict[str, tuple[str, Any]] = {
    "pyfunc": ("doubler", {}),
    "config": ("skops", {"python_function": {"config": {"k": 1}}}),
    "format": ("pickle", {"sklearn": {"serialization_format": "joblib"}}),
    "predict_fn": ("onnx", {"python_function": {"predict_fn": "run"}}),
    "nested": ("nested", {}),
}


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_what_is_not_known_here_is_left_to_mlflow(
    case: str, edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without mlflow the message says what to install."""
    name, flavours = NOT_KNOWN[case]
    folder = edited(name, flavours=flavours)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
    with pytest.raises(ModelUnusable, match=r"pip install 'scoring-runtime\[mlflow\]'"):
        load(folder)


def test_a_package_that_is_missing_is_named(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow is tried where it is there; it needs the same package."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelUnusable, match="onnxruntime"):
        load(folders / "onnx")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModelUnusable) as missing:
        load(folders / "onnx")
    assert str(missing.value).startswith(
        f"The MLflow model in {folders / 'onnx'} needs the package onnxruntime, which cannot be "
        "imported"
    )
    assert str(missing.value).endswith("pip install onnxruntime")


def test_without_yaml_nothing_can_be_read(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLmodel is YAML; the extra brings it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModelUnusable, match=r'PyYAML is not installed: pip install "scoring-runti'):
        load(folders / "skops")


def test_code_that_was_saved_with_the_model_is_found(tmp_path: Path) -> None:
    """A class of a module of the user's own, by the folder ``code``."""
    module = tmp_path / "own_estimator.py"
    module.write_text(
        "class Own:\n    def predict(self, data):\n        return data['a'].to_numpy() * 2\n"
    )
    sys.path.insert(0, str(tmp_path))
    own = importlib.import_module("own_estimator").Own()
    mlflow.sklearn.save_model(
        own,
        tmp_path / "saved",
        code_paths=[str(module)],
        serialization_format="pickle",
        **QUICK,
    )
    module.unlink()
    sys.path.remove(str(tmp_path))
    del sys.modules["own_estimator"]
    try:
        model = load(tmp_path / "saved")
        assert model.predict(Columns({"a": [1.5, 2.5]}), {}, "").tolist() == [3.0, 5.0]
        assert model.inputs == ()
        found = sys.modules["own_estimator"].__file__
        assert found == str(tmp_path / "saved/code/own_estimator.py")
    finally:
        sys.modules.pop("own_estimator", None)


def test_code_that_is_not_there_is_named(edited: Edited, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the pickle asks for; mlflow could not load it either."""
    folder = edited("pickle")
    (folder / "model.pkl").write_bytes(b"cown_estimator\nOwn\n.")
    with pytest.raises(ModelUnusable, match="needs the module own_estimator, which is not there"):
        load(folder)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModelUnusable, match=r"the package own_estimator, .*own_estimator$"):
        load(folder)


@pytest.mark.parametrize("old", [False, True], ids=["model_path", "data"])
def test_the_model_file_is_where_any_version_of_mlflow_puts_it(old: bool, edited: Edited) -> None:
    """``model_path``, or ``data`` in the folders of mlflow 1."""
    moved = {"model_path": None, "data": "model.pkl"} if old else {}
    folder = edited("pickle", flavours={"python_function": moved})
    assert load(folder).predict(Rows(ROWS), {}, "").shape == (2,)


def two_threads() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 2, 1
    return options


SESSION = {
    "recorded": ({"intra_op_num_threads": 3, "execution_mode": "parallel"}, 3, "ORT_PARALLEL"),
    "not-recorded": ({}, 2, "ORT_SEQUENTIAL"),
    "other": (
        {
            "inter_op_num_threads": 2,
            "graph_optimization_level": 99,
            "extra_session_config": {"session.disable_prepacking": "1"},
        },
        2,
        "ORT_SEQUENTIAL",
    ),
}


@pytest.mark.parametrize("case", SESSION)
def test_recorded_session_options_go_before_settings(case: str, edited: Edited) -> None:
    """Threads and execution mode; what is not recorded is as the settings say."""
    recorded, threads, mode = SESSION[case]
    folder = edited("onnx-bare", flavours={"onnx": {"onnx_session_options": recorded}})
    model: Any = load(folder, onnx_options=two_threads)
    options = model._call._session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.execution_mode.name == mode


def test_providers_that_are_not_there_are_warned_of(
    edited: Edited, caplog: pytest.LogCaptureFixture
) -> None:
    """The model runs on the CPU; mlflow's default list, which names CUDA, is no reason to warn."""
    odd = [["TensorrtExecutionProvider", {"device_id": 0}], "CPUExecutionProvider"]
    folder = edited("onnx-bare", flavours={"onnx": {"providers": odd}})
    with caplog.at_level(logging.WARNING, "azmlinfsrv"):
        load(edited("onnx-bare", flavours={"onnx": {"providers": None}}, to="other"))
        assert caplog.messages == []
        assert answered(load(folder).predict(Rows(SINGLE), {}, "")).startswith('{"predictions"')
    assert caplog.messages == [
        f"{folder / 'model.onnx'} asks for ['TensorrtExecutionProvider'], which this onnxruntime "
        "does not have"
    ]


def test_other_versions_of_libraries_are_warned_of_in_one_line(
    edited: Edited, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that are recorded and differ."""
    folder = edited("pickle", flavours={"sklearn": {"sklearn_version": "0.24.2"}})
    with caplog.at_level(logging.WARNING, "azmlinfsrv"):
        load(folder)
    installed = importlib.metadata.version("scikit-learn")
    assert caplog.messages == [
        f"{folder} was made with other versions of its libraries: scikit-learn was 0.24.2, "
        f"installed is {installed}."
    ]


def test_the_versions_that_are_installed_are_not_warned_of(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged."""
    with caplog.at_level(logging.WARNING, "azmlinfsrv"):
        load(folders / "pickle")
    assert caplog.messages == []


# --- models that cannot be used -------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def newer_opset(path: Path) -> None:
    model = network()
    model.opset_import[0].version = 99
    path.write_bytes(model.SerializeToString())


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no-mlmodel": ("skops", lambda f: (f / "MLmodel").unlink(), "MLmodel cannot be read as YAML"),
    "not-yaml": (
        "skops",
        lambda f: (f / "MLmodel").write_text("flavors: [}"),
        "MLmodel cannot be read as YAML, as mlflow writes it: while parsing",
    ),
    "not-text": (
        "skops",
        lambda f: (f / "MLmodel").write_bytes(b"\xff\xfe\x00"),
        "MLmodel cannot be read as YAML",
    ),
    "a-list": (
        "skops",
        lambda f: (f / "MLmodel").write_text("- 1"),
        "MLmodel has no flavour python_function with a loader_module (its flavours: none)",
    ),
    "no-python-function": (
        "skops",
        lambda f: (f / "MLmodel").write_text("flavors: {sklearn: {}, spark: {}}"),
        "no flavour python_function with a loader_module (its flavours: sklearn, spark)",
    ),
    "no-loader": (
        "skops",
        lambda f: (f / "MLmodel").write_text("flavors: {python_function: {env: x}}"),
        "no flavour python_function with a loader_module",
    ),
    "signature": (
        "skops",
        lambda f: (f / "MLmodel").write_text(
            "flavors: {python_function: {loader_module: mlflow.sklearn}}\nsignature: {inputs: '[{'}"
        ),
        "MLmodel: inputs of its signature cannot be read",
    ),
    "no-file": (
        "pickle",
        lambda f: (f / "model.pkl").unlink(),
        "MLmodel names the model file model.pkl, which is not there. Copy the whole folder",
    ),
    "cut-pickle": (
        "pickle",
        lambda f: cut(f / "model.pkl"),
        "model.pkl cannot be read (UnpicklingError: pickle data was truncated). A whole file in "
        "pickle format is expected",
    ),
    "cut-cloudpickle": ("pipeline", lambda f: cut(f / "model.pkl"), "cloudpickle format"),
    "cut-skops": (
        "skops",
        lambda f: cut(f / "model.skops"),
        "model.skops cannot be read (BadZipFile: File is not a zip file). A whole file in skops",
    ),
    "empty-pickle": (
        "pickle",
        lambda f: (f / "model.pkl").write_bytes(b""),
        "(EOFError: Ran out of input)",
    ),
    "cut-onnx": ("onnx", lambda f: cut(f / "model.onnx"), "cannot be loaded by onnxruntime"),
    "no-onnx": ("onnx", lambda f: (f / "model.onnx").unlink(), "names the model file model.onnx"),
    "newer-opset": (
        "onnx",
        lambda f: newer_opset(f / "model.onnx"),
        "Opset 99 is under development",
    ),
    "external-data": (
        "onnx-external",
        lambda f: next(f.glob("*.data")).unlink(),
        "cannot be loaded by onnxruntime",
    ),
    "python-model": (
        "doubler",
        lambda f: cut(f / "python_model.pkl"),
        "doubler cannot be loaded: ",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_model_that_cannot_be_used_gets_a_diagnosis(case: str, edited: Edited) -> None:
    """The file, the cause, and what is expected; the cause is kept for the log."""
    name, damage, message = DAMAGE[case]
    folder = edited(name)
    damage(folder)
    with pytest.raises(ModelUnusable) as unusable:
        load(folder)
    text = str(unusable.value)
    assert message in text
    assert str(folder) in text
    assert "Traceback" not in text
    without_cause = {"a-list", "no-python-function", "no-loader", "no-file", "no-onnx"}
    assert (unusable.value.__cause__ is None) is (case in without_cause)


WRONG_FUNCTIONS = {
    "unknown": ("fit", "asks for predict_fn fit; known are: predict, predict_proba"),
    "absent": ("predict_proba", "holds a Ridge, which has no predict_proba()."),
}


@pytest.mark.parametrize("case", WRONG_FUNCTIONS)
def test_a_predict_fn_that_is_not_there_is_named(case: str, edited: Edited) -> None:
    """When the model starts, not at the first request."""
    name, message = WRONG_FUNCTIONS[case]
    folder = edited("pickle", flavours={"python_function": {"predict_fn": name}})
    with pytest.raises(ModelUnusable) as unusable:
        load(folder)
    assert message in str(unusable.value)


def test_types_that_skops_does_not_trust_are_not_loaded(tmp_path: Path) -> None:
    """The list in MLmodel counts, as with mlflow: what is not on it is refused."""
    features, target = diabetes()
    model = Ridge().fit(features, target)
    model.own_ = Doubler
    saved = tmp_path / "saved"
    trusted = ["tests.no_code.test_mlflow.Doubler"]
    mlflow.sklearn.save_model(
        model, saved, serialization_format="skops", skops_trusted_types=trusted, **QUICK
    )
    assert load(saved).platform == "mlflow_sklearn"
    text = (
        (saved / "MLmodel").read_text().replace("tests.no_code.test_mlflow.Doubler", "other.Type")
    )
    (saved / "MLmodel").write_text(text)
    with pytest.raises(ModelUnusable, match="UntrustedTypesFoundException"):
        load(saved)


# --- the real server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(folders: Path) -> Iterator[str]:
    """``mlflow models serve`` with the pipeline, on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    process = subprocess.Popen(
        [*command, "-m", str(folders / "pipeline"), "-h", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **SERVER, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/ping").status_code == 200:
                return url
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.1)
    raise AssertionError("mlflow models serve does not answer")


def test_a_running_mlflow_server_answers_the_same(
    server: str, ours: Callable[[str], NoCodeModel]
) -> None:
    """Each kind of body, CSV too, over HTTP: the same bytes, and 400 where we refuse."""
    for body in BODIES["pipeline"].values():
        kind = "text/csv" if isinstance(body, str) else "application/json"
        content = body if isinstance(body, str) else json.dumps(body)
        answer = httpx.post(
            f"{server}/invocations", content=content, headers={"content-type": kind}, timeout=60
        )
        got = our_answer(ours("pipeline"), body)
        if got == REFUSED:
            assert answer.status_code == 400, body
        else:
            assert (answer.status_code, answer.text) == (200, got), body
