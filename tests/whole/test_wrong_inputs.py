"""Wrong inputs: each is a 400 or 413 that says what was wrong and what is expected, never a 500."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from scoring_runtime import InputError, ScoringRequest, Settings
from scoring_runtime.errors import InputTooLarge, SchemaMismatch
from scoring_runtime.no_code.onnx import OnnxModel
from scoring_runtime.no_code.scikit_learn import ScikitLearnModel
from scoring_runtime.scoring.model_call import ModelInvocation
from scoring_runtime.values.content import Limits

SETTINGS = Settings.from_environ({"SCORING_MAX_ROWS": "1000"})
LIMITS = Limits(1000, 20_000_000, 100 * 1024 * 1024)
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
PEOPLE = pd.DataFrame(
    {"age": [31.0, 45.0, 22.0], "city": ["Graz", "Linz", "Graz"], "note": ["x y", "y", "z"]}
)


def as_npy(values: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def echo(kind: int, *shapes: Any) -> onnx.ModelProto:
    numbered = list(enumerate(shapes))
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"x{n}"], [f"y{n}"]) for n, _ in numbered],
        "graph",
        [helper.make_tensor_value_info(f"x{n}", kind, shape) for n, shape in numbered],
        [helper.make_tensor_value_info(f"y{n}", kind, shape) for n, shape in numbered],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def line() -> Any:
    """Takes rows of three numbers."""
    return LinearRegression().fit([[0.0, 1, 2], [1, 0, 4], [3, 1, 9]], [1.0, 2.0, 3.0])


def numbers() -> Any:
    """Takes a table of two columns of numbers."""
    return LinearRegression().fit(pd.DataFrame({"age": [1.0, 2], "pay": [3.0, 1]}), [1.0, 2.0])


def people() -> Any:
    """Takes a table of a number, a category and words."""
    columns = ColumnTransformer(
        [
            ("city", OneHotEncoder(), ["city"]),
            ("note", CountVectorizer(token_pattern=r"\w+"), "note"),
        ],
        remainder="passthrough",
    )
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, [0, 1, 0])


ONNX: dict[str, tuple[int, *tuple[list[Any], ...]]] = {
    "float": (TensorProto.FLOAT, ["N", 3]),
    "half": (TensorProto.FLOAT16, ["N", 1]),
    "byte": (TensorProto.INT8, ["N", 2]),
    "integer": (TensorProto.INT64, ["N", 2]),
    "unsigned": (TensorProto.UINT64, ["N"]),
    "text": (TensorProto.STRING, ["N"]),
    "boolean": (TensorProto.BOOL, ["N"]),
    "image": (TensorProto.FLOAT, ["N", 2, 2]),
    "two": (TensorProto.FLOAT, ["N", 1], ["N", 1]),
}
SKLEARN: dict[str, Callable[[], Any]] = {"line": line, "numbers": numbers, "people": people}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelInvocation]:
    folder = tmp_path_factory.mktemp("onnx")
    found: dict[str, Any] = {
        name: ScikitLearnModel(make(), LIMITS) for name, make in SKLEARN.items()
    }
    for name, (kind, *shapes) in ONNX.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(echo(kind, *shapes).SerializeToString())
        found[name] = OnnxModel(path, Settings(max_rows=1000))
    return {name: ModelInvocation(each, name, "1", SETTINGS) for name, each in found.items()}


def request_of(body: bytes | str, kind: str = JSON) -> ScoringRequest:
    content = body if isinstance(body, bytes) else body.encode()
    return ScoringRequest(content, ((b"content-type", kind.encode()),))


# --- messages -------------------------------------------------------------------------------------


ROWS_OF_3 = "expected is [any, 3] of FP64"
HINT = " Send a list of rows, each a list of values: [[…], […]]."
NAN_REFUSED = (
    "The model refuses the input: Input X contains NaN. {} does not accept missing values encoded "
    "as NaN natively. "
)

# (model, body, message)
JSON_BODIES = [
    # feature count and shape
    ("line", "[[1, 2]]", f"The input 'X' has the shape [1, 2]; {ROWS_OF_3}."),
    ("line", "[1, 2, 3]", f"The input 'X' has the shape [3]; {ROWS_OF_3}.{HINT}"),
    (
        "numbers",
        "[[1, 2, 3]]",
        "Got 3 values in row 0; rows of 2 values are expected: 'age', 'pay'.",
    ),
    ("two", "[[1]]", "Got 1 values in row 0; rows of 2 values are expected: 'x0', 'x1'."),
    # empty
    ("line", "[]", "The batch is empty (X): at least one row is expected."),
    # types of values
    (
        "numbers",
        '{"data": [{"age": [1], "pay": 2}]}',
        "The column 'age' has a list of 1 at [0]; one value in a row is expected.",
    ),
    (
        "numbers",
        '{"data": [{"age": "old", "pay": 2}]}',
        "The model refuses the input: could not convert string to float: 'old'. No numbers are in: "
        "'age'.",
    ),
    (
        "people",
        '{"data": [{"age": 1, "city": 5, "note": "x"}]}',
        "The input 'city': at [0] is 5; expected is [any] of BYTES, text.",
    ),
    # missing values
    (
        "line",
        "[[1, 2, 3], [1, 2, null]]",
        NAN_REFUSED.format("LinearRegression") + "The first value that is missing is at [1][2].",
    ),
    (
        "numbers",
        '{"data": [{"age": 1, "pay": 2}, {"age": 1}]}',
        NAN_REFUSED.format("LinearRegression") + "Values are missing in: 'pay'.",
    ),
    # what only the model knows
    (
        "line",
        "[[1, 2, Infinity]]",
        "The model refuses the input: Input X contains infinity or a value too large for "
        "dtype('float64').",
    ),
    (
        "people",
        '{"data": [{"age": 1, "city": "Rom", "note": "x"}]}',
        "The model refuses the input: Found unknown categories ['Rom'] in column 0 during "
        "transform.",
    ),
    # too much
    (
        "line",
        f"[[1, 2, 1{'0' * 5000}]]",
        "The body could not be decoded as JSON: Exceeds the limit (4300 digits) for integer string "
        "conversion: value has 5001 digits; use sys.set_int_max_str_digits() to increase the limit",
    ),
    (
        "line",
        json.dumps([[1, 2, 3]] * 1001),
        "The input 'X' has 1001 rows; at most 1000 are taken at once (SCORING_MAX_ROWS).",
    ),
]


@pytest.mark.parametrize(
    ("model", "body", "message"),
    JSON_BODIES,
    ids=[f"{model}-{body[:40]}" for model, body, _ in JSON_BODIES],
)
def test_a_wrong_json_body_is_refused_with_the_cause_and_what_is_expected(
    models, model, body, message
):
    with pytest.raises(InputError) as caught:
        models[model](request_of(body))
    assert str(caught.value) == message
    is_large = "at most" in message
    assert isinstance(caught.value, InputTooLarge) is is_large


def test_words_that_are_missing_are_refused_with_their_column(models):
    """What an estimator does with None differs from version to version; the column is named."""
    with pytest.raises(SchemaMismatch, match=r"^The model refuses the input: .* 'note'\.$"):
        models["people"](request_of('{"data": [{"age": 1, "city": "Graz", "note": null}]}'))


def test_the_first_wrong_value_among_millions_is_found(models):
    """Its place is found by halving, not by looking at each."""
    rows = [[1.0, 2.0, 3.0]] * 300_000 + [[1.0, "x", 3.0]]
    with pytest.raises(SchemaMismatch, match=r"at \[300000\]\[1\] is text 'x'"):
        models["line"](request_of(json.dumps(rows)))


# --- anything -------------------------------------------------------------------------------------


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([2**63, 10**400, "1", "", "Graz", 1.5, "\ud800"])
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["age", "city", "note", "x0", "X", "data", ""]), inner)
    ),
    max_leaves=12,
)
TABLES = st.lists(
    st.lists(LEAVES, min_size=1, max_size=3)
    | st.fixed_dictionaries({"age": LEAVES, "city": LEAVES, "note": LEAVES}),
    max_size=4,
)
KEYS = ("data", "input_data", "inputs", "instances", "dataframe_split", "dataframe_records")


@pytest.mark.parametrize("model", [*SKLEARN, *ONNX])
@given(key=st.sampled_from(KEYS), value=NESTED | TABLES)
@settings(max_examples=60, deadline=None)
def test_whatever_the_data_are_there_is_an_answer_or_the_clients_fault(models, model, key, value):
    body = json.dumps({key: value}).encode()
    for each in (body, json.dumps(value).encode()):
        try:
            response = models[model](request_of(each))
        except InputError as error:
            assert 15 < len(str(error)) < 1500
            assert "Traceback" not in str(error)
        else:
            assert response.status == 200


ARRAYS = numpy.arrays(
    dtype=st.sampled_from(
        ["?", "i1", "u8", "<i4", ">i8", "f2", ">f4", "f8", "c8", "U3", "S2", "M8[s]"]
    ),
    shape=numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3),
)


@pytest.mark.parametrize("model", [*SKLEARN, *ONNX])
@given(values=ARRAYS)
@settings(max_examples=60, deadline=None)
def test_whatever_the_array_is_there_is_an_answer_or_the_clients_fault(models, model, values):
    try:
        response = models[model](request_of(as_npy(values), NPY))
    except InputError as error:
        assert 15 < len(str(error)) < 1500
        assert "Traceback" not in str(error)
    else:
        assert response.status == 200
