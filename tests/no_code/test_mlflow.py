"""MLflow models without a script: the answers of ``mlflow models serve``, and what is ours.

The other side is mlflow's own server, ``mlflow.pyfunc.scoring_server.init``, asked over ASGI.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from scoring_runtime.errors import (
    InputError,
    InputTooLarge,
    ModelUnusable,
    ResultNotSerializable,
    RunFailed,
    SchemaMismatch,
    UndecodableInput,
    UnsupportedContentType,
)
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.no_code.loading import load
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.scoring.model_openapi import input_schema
from scoring_runtime.settings.settings import Settings
from scoring_runtime.values.content import Spec
from tests.models_for_tests import ModelHost

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.onnx
    import mlflow.pyfunc
    import mlflow.sklearn
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.pyfunc import scoring_server
    from mlflow.pyfunc.model import PythonModel
    from mlflow.pyfunc.utils import pyfunc
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from cloudpickle import register_pickle_by_value
from onnx import TensorProto, helper
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped, unused-ignore]
from sklearn.linear_model import Ridge  # type: ignore[import-untyped, unused-ignore]

# mlflow's own, when it loads and serves models.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*:FutureWarning",
    "ignore:.*:DeprecationWarning",
    "ignore:.*:UserWarning:mlflow",
    "ignore:X does not have valid feature names",
)
QUICK: dict[str, Any] = {"pip_requirements": ["mlflow"]}
SPLIT, RECORDS, CSV = "dataframe_split", "dataframe_records", b"text/csv"


# --- the models -----------------------------------------------------------------------------------

# mlflow wants hints of types, and sets filters of its own to say so.
with warnings.catch_warnings(record=True):
    warnings.simplefilter("ignore")

    class Given(PythonModel):  # type: ignore[misc, unused-ignore]
        """What reached the model, as text."""

        def predict(self, context, model_input, params=None):
            return [type(model_input).__name__, repr(model_input), repr(params)]

    class Shaped(PythonModel):  # type: ignore[misc, unused-ignore]
        """A result of the kind that the first column names."""

        def predict(self, context, model_input, params=None):
            results = {
                "series": pd.Series([1.5, 2.0], name="y", index=["a", "b"]),
                "float32": np.array([[0.1, 2.5]], "float32"),
                "float32-table": pd.DataFrame({"p": np.array([0.1, 3], "float32")}),
                "nan": [float("nan"), float("inf"), 1.0],
                "times": pd.DataFrame({"t": pd.to_datetime(["2024-01-02"]), "b": [b"abc"]}),
                "text": {"ü": np.array(["x"]), "n": 2**70},
                "none": None,
                "set": {1, 2},
            }
            if model_input["kind"].iloc[0] == "broken":
                raise RuntimeError("out of paper")
            if model_input["kind"].iloc[0] == "large":
                return np.float64(10**400)
            return results[model_input["kind"].iloc[0]]


@pyfunc  # type: ignore[untyped-decorator, unused-ignore]
def hinted(model_input: list[dict[str, float]]) -> list[float]:
    return [sum(each.values()) for each in model_input]


def network() -> Any:
    """``total = a + b``, singles of one dimension."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("total", TensorProto.FLOAT, [None])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def save_ridge(path: Path, matrix: bool = False) -> None:
    features, target = load_diabetes(return_X_y=True, as_frame=True)
    features = features[["age", "bmi"]].to_numpy() if matrix else features[["age", "bmi"]]
    model = Ridge().fit(features, target)
    signature = (
        ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, 2))]))
        if matrix
        else infer_signature(features, model.predict(features))
    )
    example = {} if matrix else {"input_example": features[:2]}
    mlflow.sklearn.save_model(
        model, path, signature=signature, serialization_format="pickle", **example, **QUICK
    )


def save_python(path: Path, model: Any, *columns: ColSpec, **options: Any) -> None:
    signature = ModelSignature(Schema(list(columns)), **options) if columns else None
    mlflow.pyfunc.save_model(path, python_model=model, signature=signature, **QUICK)


TENSORS = Schema([TensorSpec(np.dtype("float32"), (-1,), name) for name in "ab"])
PARAMS = ParamSchema([ParamSpec("factor", "double", 2.0)])
SAVE: dict[str, Callable[[Path], None]] = {
    "ridge": save_ridge,
    "matrix": lambda path: save_ridge(path, matrix=True),
    "onnx": lambda path: mlflow.onnx.save_model(
        network(), path, signature=ModelSignature(TENSORS), **QUICK
    ),
    "params": lambda path: save_python(path, Given(), ColSpec("double", "a"), params=PARAMS),
    "kinds": lambda path: save_python(
        path,
        Given(),
        ColSpec("long", "n"),
        ColSpec("string", "s", False),
        ColSpec("datetime", "d", False),
        ColSpec("binary", "raw", False),
    ),
    "bare": lambda path: save_python(path, Given()),
    "shaped": lambda path: save_python(path, Shaped(), ColSpec("string", "kind")),
    "hinted": lambda path: save_python(path, hinted),
}


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


def invocation(folder: Path, **environ: str) -> ModelInvocation:
    settings = Settings.from_environ({"AZUREML_MODEL_DIR": str(folder), **environ})
    return ModelInvocation(load(folder, settings), folder.name, "1", settings)


@pytest.fixture(scope="session")
def ours(folders: Path) -> Callable[[str], ModelInvocation]:
    """The model as it is served here, with NaN as mlflow writes it."""
    made: dict[str, ModelInvocation] = {}

    def one(name: str) -> ModelInvocation:
        if name not in made:
            made[name] = invocation(folders / name, SCORING_NAN="raw")
        return made[name]

    return one


def asked(model: ModelInvocation, body: Any, kind: bytes = b"", accept: bytes = b"") -> bytes:
    headers = ((b"content-type", kind or b"application/json"), (b"accept", accept))
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = model(ScoringRequest(data, headers)).body
    assert isinstance(answer, bytes)
    return answer


def their_answer(folder: Path, body: bytes, kind: bytes) -> httpx.Response:
    """What mlflow's server answers."""
    make: Any = scoring_server.init

    async def ask() -> httpx.Response:
        app = httpx.ASGITransport(make(mlflow.pyfunc.load_model(str(folder))))
        async with httpx.AsyncClient(transport=app, base_url="http://mlflow") as client:
            headers = {"content-type": kind.decode()}
            return await client.post("/invocations", content=body, headers=headers)

    return asyncio.run(ask())


# --- the same answers -----------------------------------------------------------------------------

BODIES: dict[str, dict[str, Any]] = {
    "ridge": {
        "split": {SPLIT: {"columns": ["bmi", "age"], "data": [[1, 1e-9]], "index": ["r"]}},
        "records": {RECORDS: [{"age": 0.1, "bmi": "0.25", "more": "x"}]},
        "instances": {"instances": [{"age": 0.1, "bmi": 2}, {"age": 3, "bmi": 4}]},
        "csv-index": pd.DataFrame({"age": [0.1], "bmi": [0.2]}).to_csv().encode(),
        "csv-byte-order-mark": b"\xef\xbb\xbfage,bmi\n1,2\n",
        "missing": {RECORDS: [{"age": 0.1}]},
        "null": {RECORDS: [{"age": 0.1, "bmi": None}]},
        "empty": {SPLIT: {"columns": ["age", "bmi"], "data": []}},
        "ragged": {SPLIT: {"columns": ["age", "bmi"], "data": [[1, 2], [3]]}},
        "two-kinds": {"inputs": {"age": [1], "bmi": [2]}, "instances": [[1, 2]]},
        "no-kind": {"rows": [[1, 2]]},
        "csv-text": b"age,bmi\n1,heavy\n",
    },
    "matrix": {
        "inputs": {"inputs": [[0.1, 2]]},
        "split": {SPLIT: {"data": [[0.1, 2]]}},
        "wide": {"inputs": [[1, 2, 3]]},
    },
    "onnx": {"inputs": {"inputs": {"a": [0.1, 2], "b": [3, 4]}}, "csv": b"a,b\n0.1,2\n3,4\n"},
    "params": {
        "null": {"inputs": {"a": [1.5]}, "params": None},
        "given": {"inputs": {"a": [1.5]}, "params": {"factor": 3, "unknown": 1}},
        "wrong": {"inputs": {"a": [1.5]}, "params": {"factor": "x"}},
    },
    "kinds": {
        "records": {RECORDS: [{"n": 2**62, "s": "a", "d": "2024-01-02T03:04:05.5", "raw": "YWJj"}]},
        "csv": b"n,s\n1,\n2,x\n",
    },
    "bare": {
        "positions": {SPLIT: {"columns": [0, 1], "data": [[1, "x"]]}},
        "instances": {"instances": [[1, 2], [3, 4.5]]},
        "inputs": {"inputs": {"a": [1, 2], "b": [[1], [2]]}},
        "big": {"inputs": [2**70, 1]},
        "chat": {"messages": [{"role": "user", "content": "hi"}], "temperature": 1},
    },
    "shaped": {
        kind: {"inputs": {"kind": [kind]}}
        for kind in ("series", "float32", "float32-table", "nan", "times", "text", "none", "large")
    },
    "hinted": {"inputs": {"inputs": [{"a": 1.5, "b": 2.5}, {"a": 3.5}]}},
}
TAKEN = {"wide": False, "ragged": False, "no-kind": False, "two-kinds": False, "split": True}


@pytest.mark.parametrize(
    ("name", "body"), [(name, body) for name, bodies in BODIES.items() for body in bodies]
)
def test_answers_are_those_of_mlflow_models_serve(
    name: str, body: str, folders: Path, ours: Callable[[str], ModelInvocation]
) -> None:
    """Byte for byte; and what mlflow refuses is refused as the client's fault."""
    given = BODIES[name][body]
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    kind = CSV if data is given else b"application/json"
    model = ours(name)
    wanted = their_answer(folders / name, data, kind)
    assert TAKEN.get(body, wanted.is_success) is wanted.is_success
    if wanted.is_success:
        assert asked(model, data, kind) == wanted.content
        return
    with pytest.raises(InputError) as refused:
        asked(model, data, kind)
    assert len(str(refused.value)) < 450
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SAVE)
def test_the_example_scores_and_the_documents_show_it(
    name: str, ours: Callable[[str], ModelInvocation]
) -> None:
    model = ours(name)
    assert model.platform.startswith("mlflow_")
    if name in ("bare", "shaped"):  # "text" is no kind of result
        return
    assert model.example is not None
    assert model.example_result is not None
    assert next(iter(model.example)) in input_schema(model.model, model.example)["properties"]


def test_inputs_and_outputs_are_those_of_the_signature(
    folders: Path, ours: Callable[[str], ModelInvocation]
) -> None:
    assert ours("ridge").inputs == tuple(Spec(name, "FP64", (-1,)) for name in ("age", "bmi"))
    assert ours("ridge").outputs == (Spec("output", "FP64", (-1,)),)
    assert ours("onnx").inputs == (Spec("a", "FP32", (-1,)), Spec("b", "FP32", (-1,)))
    assert ours("matrix").inputs == (Spec("input", "FP64", (-1, 2)),)
    assert [(each.datatype, each.optional) for each in ours("kinds").inputs] == [
        ("INT64", False), *[("BYTES", True)] * 3
    ]  # fmt: skip
    saved = (folders / "ridge/serving_input_example.json").read_text()
    assert ours("ridge").example == json.loads(saved)


# --- other forms than mlflow's --------------------------------------------------------------------


def npy(*rows: list[float]) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(rows))
    return out.getvalue()


def v2(**tensors: list[Any]) -> dict[str, Any]:
    shape = [len(next(iter(tensors.values())))]
    return {
        "inputs": [
            {"name": name, "shape": shape, "datatype": "FP64", "data": values}
            for name, values in tensors.items()
        ]
    }


ROW = {"age": 0.1, "bmi": 2.5}
FORMS: dict[str, tuple[Any, bytes]] = {
    "input_data": ({"input_data": {"columns": list(ROW), "data": [[0.1, 2.5]]}}, b""),
    "split alone": ({"columns": list(ROW)[::-1], "data": [[2.5, 0.1]]}, b""),
    "data": ({"data": [ROW]}, b""),
    "data rows": ({"data": [[0.1, 2.5]]}, b""),
    "rows": ([[0.1, 2.5]], b""),
    "JSON Lines": (json.dumps(ROW).encode(), b"application/jsonl"),
    "npy": (npy([0.1, 2.5]), b"application/x-npy"),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_reach_the_model_too(form: str, ours: Callable[[str], ModelInvocation]) -> None:
    wanted = json.loads(asked(ours("ridge"), {RECORDS: [ROW]}))["predictions"]
    assert json.loads(asked(ours("ridge"), *FORMS[form])) == wanted
    assert asked(ours("ridge"), *FORMS[form], accept=CSV) == f"output\r\n{wanted[0]}\r\n".encode()


def test_v2_tensors_are_columns_or_tensors(ours: Callable[[str], ModelInvocation]) -> None:
    [row] = json.loads(asked(ours("ridge"), {RECORDS: [ROW]}))["predictions"]
    body = v2(**{name: [value] for name, value in ROW.items()})
    assert json.loads(asked(ours("ridge"), body))["outputs"][0]["data"] == [row]
    one = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [0.1, 2.5]}
    assert json.loads(asked(ours("matrix"), {"inputs": [one]}))["outputs"][0]["shape"] == [1]
    singles = json.loads(json.dumps(v2(a=[1, 2], b=[3, 4.5])).replace("FP64", "FP32"))
    assert json.loads(asked(ours("onnx"), singles))["outputs"][0]["data"] == [4, 6.5]
    with pytest.raises(SchemaMismatch, match=r"^The model refuses the input: Model is missing inp"):
        asked(ours("onnx"), v2(a=[1, 2]))


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("null", b'{"predictions": [null, null, 1.0]}'),
        ("string", b'{"predictions": ["NaN", "Infinity", 1.0]}'),
        ("raw", b'{"predictions": [NaN, Infinity, 1.0]}'),
        ("error", b""),
    ],
)
def test_nan_is_what_the_setting_says(policy: str, wanted: bytes, folders: Path) -> None:
    model = invocation(folders / "shaped", SCORING_NAN=policy)
    if wanted:
        assert asked(model, BODIES["shaped"]["nan"]) == wanted
        return
    with pytest.raises(ResultNotSerializable, match=r"^The result holds NaN, which JSON does "):
        asked(model, BODIES["shaped"]["nan"])


# --- what is refused, and whose fault it is -------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, type[Exception], str]] = {
    "missing": ("ridge", {RECORDS: [{"age": 1}]}, SchemaMismatch, "missing inputs ['bmi']."),
    "type": ("ridge", {RECORDS: [{**ROW, "bmi": "x"}]}, SchemaMismatch, "column bmi"),
    "kind": ("ridge", {"rows": []}, SchemaMismatch, "exactly one of the input fields"),
    "param": ("params", BODIES["params"]["wrong"], SchemaMismatch, "Failed to validate type"),
    "deep": ("bare", b"[" * 99_999, UndecodableInput, "nested too deeply"),
    "a number": ("ridge", 5, UndecodableInput, "neither a JSON object nor a list"),
    "result": ("shaped", {"inputs": {"kind": ["set"]}}, ResultNotSerializable, "set is not JSON"),
    "broken": ("shaped", {"inputs": {"kind": ["broken"]}}, RunFailed, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_what_is_wrong(case: str, ours: Callable[[str], ModelInvocation]) -> None:
    name, body, kind, said = REFUSED[case]
    with pytest.raises(kind) as refused:
        asked(ours(name), body)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 450


LIMITS = {"SCORING_MAX_ROWS": "4", "SCORING_MAX_VALUES": "10", "SCORING_MAX_COLUMNS": "5"}
SIX = {name: 1 for name in "abcdef"}
TOO_LARGE: dict[str, tuple[Any, bytes]] = {
    "rows": ({"inputs": [1] * 5}, b""),
    "values": ({"inputs": [[1] * 4] * 3}, b""),
    "names": ({RECORDS: [{name: 1} for name in "abc"] + [{"d": 1}]}, b""),
    "columns": ({RECORDS: [SIX]}, b""),
    "longest row": ({SPLIT: {"data": [[1], [1, 2, 3], [1], [1]]}}, b""),
    "index": ({SPLIT: {"columns": list("abcde"), "index": [1, 2, 3], "data": []}}, b""),
    "index of columns": ({SPLIT: {"data": {name: {name: 1} for name in "abcd"}}}, b""),
    "CSV rows": (b"a\n1\n2\n3\n4\n5\n", CSV),
    "CSV columns": (b"a,b,c,d,e,f\n1\n", CSV),
    "CSV values": (b"a,b,c,d\n1\n2\n3\n", CSV),
    "CSV index": (b"a\n1,2,3,4\n2\n3\n", CSV),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_would_be_too_large_is_refused_before_a_table_is_made(
    case: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = invocation(folders / "bare", **LIMITS)
    assert asked(model, b"a\n1\n", CSV)
    assert asked(model, {"inputs": [[1, 2], [3, 4]]})
    with pytest.raises(InputTooLarge):
        asked(model, {"messages": [1] * 5})
    monkeypatch.setattr(scoring_server, "invocations", None)
    with pytest.raises(InputTooLarge):
        asked(model, *TOO_LARGE[case])


def test_csv_has_a_line_of_names_in_any_charset(ours: Callable[[str], ModelInvocation]) -> None:
    """mlflow knows UTF-8 alone."""
    answer = asked(ours("bare"), "ü\nä\n".encode("latin-1"), b"text/csv; charset=latin-1")
    assert "ä" in json.loads(answer)["predictions"][1]
    for kind in (b"text/csv; header=absent", b"text/csv; charset=rot13"):
        with pytest.raises((UnsupportedContentType, UndecodableInput)):
            asked(ours("bare"), b"1,2\n", kind)


bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [SPLIT, RECORDS, "inputs", "instances", "data", "columns", "index", "a"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", ["bare", "params", "onnx"])
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=bodies)
def test_any_body_is_taken_or_refused(
    name: str, body: Any, ours: Callable[[str], ModelInvocation]
) -> None:
    for given_body in (body, {"inputs": body}, {SPLIT: body}, {RECORDS: body}, {"data": body}):
        try:
            asked(ours(name), given_body)
        except InputError as error:
            assert str(error).strip()


# --- the whole way --------------------------------------------------------------------------------


def test_a_served_model_answers_as_mlflow_does(folders: Path) -> None:
    with ModelHost(folders / "shaped") as host:

        def post(kind: Any) -> httpx.Response:
            body = json.dumps({"inputs": {"kind": [kind]}})
            url = f"http://127.0.0.1:{host.port}/score"
            return httpx.post(url, content=body, headers={"content-type": "application/json"})

        body = json.dumps({"inputs": {"kind": ["series"]}}).encode()
        wanted = their_answer(folders / "shaped", body, b"application/json")
        assert post("series").content == wanted.content
        assert post({"a": 1}).status_code == 400
        assert post("broken").status_code == 500


SERVER_ONLY = (
    "alembic", "docker", "flask", "flask_cors", "graphene", "gunicorn", "huey", "matplotlib",
    "sqlalchemy", "waitress",
)  # fmt: skip


def test_mlflow_skinny_is_enough(folders: Path) -> None:
    """In a process where what only mlflow itself brings is not there."""
    source = f"""
import sys
sys.modules.update(dict.fromkeys({SERVER_ONLY!r}))
from pathlib import Path
from scoring_runtime.no_code.loading import load
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.settings.settings import Settings
for folder in map(Path, sys.argv[1:]):
    settings = Settings.from_environ({{"AZUREML_MODEL_DIR": str(folder)}})
    print(ModelInvocation(load(folder, settings), "m", "1", settings).example_result is not None)
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(folders / "ridge"), str(folders / "onnx")],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    assert done.stdout == "True\nTrue\n", done.stderr


@pytest.mark.parametrize(
    ("mlmodel", "said"),
    [
        ("a: [", "cannot be loaded: "),
        ("flavors: {python_function: {env: conda.yaml}}", "cannot be loaded: "),
        (
            "flavors: {python_function: {loader_module: not_there}}",
            "needs the module not_there, which is not there",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(mlmodel: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(mlmodel)
    with pytest.raises(ModelUnusable) as raised:
        load(tmp_path, Settings.from_environ({"AZUREML_MODEL_DIR": str(tmp_path)}))
    assert str(raised.value).startswith(str(tmp_path))
    assert said in str(raised.value)
