"""Signatures of MLflow models: the same bodies are accepted, with the same values, as by mlflow.

The other side is mlflow itself: ``infer_and_parse_data`` and ``parse_csv_input`` of its scoring
server, then ``_enforce_schema``, as ``PyFuncModel.predict`` calls it.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scoring_runtime.errors import InputError, ModelUnusable, SchemaMismatch
from scoring_runtime.formats.mlflow_json import TableRows, decode
from scoring_runtime.no_code.mlflow_columns import to_table
from scoring_runtime.no_code.mlflow_signature import enforce_params, example, read, specs
from scoring_runtime.no_code.mlflow_tensors import to_tensors
from scoring_runtime.values.content import Columns, Content, Rows, Spec, Tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.models.utils import _enforce_params_schema, _enforce_schema
    from mlflow.pyfunc.scoring_server import infer_and_parse_data, parse_csv_input
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, Map, Object, Property

ANY: Any = AnyType

# What pandas and numpy tell of such values, to mlflow as to us.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Could not infer format",
    "ignore:Parsing integer or float values with a format",
    "ignore:no explicit representation of timezones",
    "ignore:overflow encountered in cast",
    "ignore:invalid value encountered in cast",
)
REFUSED = "refused"


def columns(**types: str) -> Schema:
    """``a="double?"`` is an optional column."""
    return Schema(
        [ColSpec(kind.rstrip("?"), name, not kind.endswith("?")) for name, kind in types.items()]
    )


def unnamed(*types: str) -> Schema:
    return Schema([ColSpec(kind) for kind in types])


def tensor(kind: str, *shape: int, name: str | None = None) -> TensorSpec:
    return TensorSpec(np.dtype(kind), shape, name)


def signature_of(schema: Schema, params: Any = None) -> Any:
    return read(ModelSignature(inputs=schema, params=params).to_dict())


def ours(content: Content, schema: Schema) -> Any:
    """What our enforcement gives, or ``REFUSED``."""
    signature = signature_of(schema)
    if signature.columns:
        return to_table(content, signature)
    return to_tensors(content, signature, table=isinstance(content, TableRows))


def our_answer(body: Any, schema: Schema) -> Any:
    try:
        return ours(decode(copied(body))[0], schema)
    except InputError:
        return REFUSED


def their_answer(body: Any, schema: Schema) -> Any:
    parse: Any = infer_and_parse_data
    try:
        return _enforce_schema(parse(copied(body), schema), schema)
    except Exception:
        return REFUSED


def copied(body: Any) -> Any:
    return json.loads(json.dumps(body))


def assert_same(got: Any, wanted: Any, what: Any) -> None:
    """Equal to the bit: types, order, values, missing ones too."""
    assert type(got) is type(wanted), f"{what}: {got!r} is not {wanted!r}"
    if isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(got, wanted, check_exact=True, obj=str(what))
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted), what
        for name in wanted:
            assert_same(got[name], wanted[name], (what, name))
    elif isinstance(wanted, np.ndarray):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), what
        np.testing.assert_array_equal(got, wanted, err_msg=str(what))
    else:
        assert got == wanted, what


# --- one column of each type, by each kind of body ------------------------------------------------

TYPES = [each.name for each in DataType]
CELLS: tuple[Any, ...] = (
    1,
    0,
    1.5,
    -3,
    2**40,
    2**70,
    True,
    None,
    "abc",
    "1",
    "",
    "2024-01-02",
    "2024-01-02T03:04:05.123456789",
    "2024-01-02T03:04:05+02:00",
    "YWJj",
    "é",
    1e300,
    float("nan"),
    [1, 2],
    {"x": 1},
)
PARTNERS: tuple[Any, ...] = (1, None, "z", 2.5)
KINDS: dict[str, Any] = {
    "split": lambda x, y: {"dataframe_split": {"columns": ["a", "b"], "data": [[x, 1.0], [y, 2]]}},
    "records": lambda x, y: {"dataframe_records": [{"a": x, "b": 1.0}, {"b": 2.0, "a": y}]},
    "instances": lambda x, y: {"instances": [{"a": x, "b": 1.0}, {"a": y, "b": 2.0}]},
    "inputs": lambda x, y: {"inputs": {"a": [x, y], "b": [1.0, 2.0]}},
    "inputs-single": lambda x, y: {"inputs": {"a": x, "b": 2.0}},
    "inputs-records": lambda x, y: {"inputs": [{"a": x, "b": 1.0}, {"a": y, "b": 2.0}]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", TYPES)
def test_a_column_of_each_type_takes_what_mlflow_takes(column: str, kind: str) -> None:
    """Each value alone and next to others: the same decision, the same values and types."""
    schema = columns(a=column, b="double")
    accepted = 0
    for cell in CELLS:
        if kind == "inputs-records" and isinstance(cell, list | dict):
            continue  # mlflow makes a column of arrays, or of texts, of it
        for partner in (cell, *PARTNERS):
            body = KINDS[kind](cell, partner)
            wanted = their_answer(body, schema)
            assert_same(our_answer(body, schema), wanted, body)
            accepted += isinstance(wanted, pd.DataFrame)
    assert accepted > 0


# --- which columns --------------------------------------------------------------------------------

SPLIT = "dataframe_split"
NAMED = {
    "two": columns(a="double", b="long"),
    "optional": columns(a="double", b="double?", s="string?"),
    "text": columns(s="string", a="double"),
    "one-double": columns(a="double"),
    "one-string": columns(s="string"),
    "float": columns(a="float", b="integer"),
    "time": columns(d="datetime"),
}
TABLES: dict[str, Any] = {
    "as-declared": {SPLIT: {"columns": ["a", "b"], "data": [[1.5, 2], [3, 4]]}},
    "other-order": {SPLIT: {"columns": ["b", "a"], "data": [[2, 1.5]]}},
    "extra": {SPLIT: {"columns": ["z", "b", "a"], "data": [["x", 2, 1.5]]}},
    "missing": {SPLIT: {"columns": ["b"], "data": [[2]]}},
    "missing-required": {SPLIT: {"columns": ["z"], "data": [[2]]}},
    "optional-missing": {SPLIT: {"columns": ["a"], "data": [[2.5]]}},
    "optional-null": {SPLIT: {"columns": ["a", "b", "s"], "data": [[2.5, None, None]]}},
    "empty": {SPLIT: {"columns": ["a", "b"], "data": []}},
    "empty-text": {SPLIT: {"columns": ["a", "s"], "data": []}},
    "missing-long": {SPLIT: {"columns": ["a", "b"], "data": [[1.5, 2], [2.5, None]]}},
    "fractions": {SPLIT: {"columns": ["a", "b"], "data": [[1, 2.5], [2, 3.5]]}},
    "text-in-numbers": {SPLIT: {"columns": ["a", "b"], "data": [["x", 2]]}},
    "numbers-in-text": {SPLIT: {"columns": ["a", "s"], "data": [["2.5", 2]]}},
    "sparse-records": {"dataframe_records": [{"a": 1, "b": 2}, {"a": 2}]},
    "sparse-optional": {"dataframe_records": [{"a": 1}, {"a": 2, "b": 1, "s": "x"}]},
    "sparse-inputs": {"inputs": [{"a": 1}, {"a": 2, "b": 1}]},
    "records-order": {"dataframe_records": [{"b": 1, "a": 2}, {"a": 2, "b": 3}]},
    "records-of-nothing": {"dataframe_records": []},
    "inputs-order": {"inputs": {"b": [1], "a": [2.5]}},
    "inputs-extra": {"inputs": {"b": [1], "a": [2.5], "z": [[1]]}},
    "inputs-lengths": {"inputs": {"b": [1, 2], "a": [2.5]}},
    "inputs-broadcast": {"inputs": {"a": [1.5, 2.5], "b": 3}},
    "inputs-one-row": {"inputs": {"a": 1.5, "b": 3, "s": "x"}},
    "inputs-text": {"inputs": {"s": ["x", "y"], "a": [1, 2]}},
    "instances-text": {"instances": [{"s": "x", "a": 1}, {"s": "y", "a": 2}]},
    "list-for-one": {"instances": [1.5, 2]},
    "texts-for-one": {"inputs": ["x", "y"]},
    "mixed-for-one": {"inputs": ["x", None, 1]},
    "empty-for-one": {"instances": []},
    "time": {"dataframe_records": [{"d": "2024-01-01"}, {"d": "2024-01-02"}]},
    "time-instances": {"instances": [{"d": "2024-01-01T01:02:03"}]},
    "time-wrong": {"instances": [{"d": "yesterday"}]},
}

BEYOND = {"inputs-one-row", "inputs-lengths", "empty-for-one"}


@pytest.mark.parametrize("body", TABLES)
@pytest.mark.parametrize("name", NAMED)
def test_columns_are_found_as_mlflow_finds_them(name: str, body: str) -> None:
    """By name, in the order of the signature, others dropped, missing ones refused.

    mlflow refuses a few because of the columns that it then drops.
    """
    got, wanted = our_answer(TABLES[body], NAMED[name]), their_answer(TABLES[body], NAMED[name])
    if wanted is not REFUSED or body not in BEYOND:
        assert_same(got, wanted, body)


def test_the_tables_above_are_taken_and_refused() -> None:
    """Each signature takes some of them and refuses some, each body is taken by one at least."""
    taken = {
        (name, body): their_answer(TABLES[body], NAMED[name]) is not REFUSED
        for name in NAMED
        for body in TABLES
    }
    for name in NAMED:
        assert 0 < sum(taken[name, body] for body in TABLES) < len(TABLES)
    never = {body for body in TABLES if not any(taken[name, body] for name in NAMED)}
    assert never == {
        "inputs-lengths",
        "missing",
        "missing-required",
        "records-of-nothing",
        "text-in-numbers",
        "time-wrong",
    }


UNNAMED = {
    "one": unnamed("double"),
    "two": unnamed("double", "double"),
    "mixed": unnamed("long", "double"),
    "text": unnamed("string"),
    "array": Schema([tensor("float64", -1)]),
    "matrix": Schema([tensor("float32", -1, 2)]),
    "column": Schema([tensor("float64", -1, 1)]),
    "cube": Schema([tensor("int64", -1, 2, 2)]),
    "texts": Schema([tensor("str", -1)]),
    "flags": Schema([tensor("bool", -1, 2)]),
    "named-matrix": Schema([tensor("float64", -1, 2, name="x")]),
    "named-two": Schema([tensor("float64", -1, name="a"), tensor("int64", -1, name="b")]),
    "fixed": Schema([tensor("float32", 2, 2, name="x")]),
    "named-cube": Schema(
        [tensor("float32", -1, 2, 2, name="x"), tensor("str", -1, name="s")],
    ),
}
ARRAYS: dict[str, Any] = {
    "pairs": [[1.5, 2], [3, 4]],
    "ones": [[1], [2]],
    "flat": [1, 2],
    "letters": [["a", "b"], ["c", "d"]],
    "words": ["a", "b"],
    "cubes": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
    "flags": [True, False],
    "bits": [[0, 1], [1, 0]],
    "triples": [[1, 2, 3], [4, 5, 6]],
    "null": [[None, 1], [2, 3]],
    "ragged": [[1, 2], [3]],
    "one-value": 5,
}
FRAMES: dict[str, Any] = {
    "instances": lambda values: {"instances": values},
    "inputs": lambda values: {"inputs": values},
    "split": lambda values: {SPLIT: {"data": values}},
    "split-positions": lambda values: {SPLIT: {"columns": [0, 1], "data": values}},
    "split-names": lambda values: {SPLIT: {"columns": ["a", "b"], "data": values}},
    "split-one-name": lambda values: {SPLIT: {"columns": ["x"], "data": values}},
    "inputs-x": lambda values: {"inputs": {"x": values}},
    "instances-x": lambda values: {"instances": {"x": values}},
    "inputs-ab": lambda values: {"inputs": {"a": values, "b": values}},
    "instances-x-each": lambda values: {"instances": [{"x": values, "s": "t"}]},
    "records-x-each": lambda values: {"dataframe_records": [{"x": values, "s": "t"}]},
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", UNNAMED)
def test_arrays_and_rows_are_taken_where_mlflow_takes_them(name: str, frame: str) -> None:
    """What mlflow takes we take with the same values; ragged rows are refused always."""
    for label, values in ARRAYS.items():
        body = FRAMES[frame](values)
        got = our_answer(body, UNNAMED[name])
        if got is REFUSED and label == "ragged":
            continue
        if name == "text" and frame == "instances-x-each":
            continue  # lists as texts
        wanted = their_answer(body, UNNAMED[name])
        if wanted is not REFUSED:
            assert_same(got, wanted, body)


MORE = {
    "rows-that-fit": (NAMED["two"], {"inputs": [[1.5, 2], [3, 4]]}, [[1.5, 2], [3.0, 4]]),
    "azureml-rows": (NAMED["two"], {"input_data": [[1.5, 2]]}, [[1.5, 2]]),
    "data-rows": (NAMED["text"], {"data": [["x", 2]]}, [["x", 2.0]]),
    "split-without-names": (NAMED["two"], {SPLIT: {"data": [[1.5, 2]]}}, [[1.5, 2]]),
    "rows-of-two-types": (unnamed("long", "double"), {"inputs": [[1, 0.5]]}, [[1, 0.5]]),
}


@pytest.mark.parametrize("case", MORE)
def test_rows_without_names_go_where_their_width_fits(case: str) -> None:
    """mlflow refuses them, or spoils them: of ``[1, 0.5]`` for long and double it makes 1 and 0."""
    schema, body, wanted = MORE[case]
    got = our_answer(body, schema)
    assert got.to_numpy().tolist() == wanted
    assert [each.name for each in schema.inputs if each.name] in ([], list(got.columns))
    theirs = their_answer(body, schema)
    assert theirs is REFUSED or theirs.to_numpy().tolist() == [[1, 0.0]]


@pytest.mark.parametrize("kind", ["inputs", "instances"])
def test_an_array_without_a_name_may_be_sent_under_one(kind: str) -> None:
    """V2 clients have to name what they send."""
    got = our_answer({kind: {"anything": [[1.5, 2.5]]}}, UNNAMED["matrix"])
    assert_same(got, np.array([[1.5, 2.5]], "float32"), kind)


@pytest.mark.parametrize("name", ["array", "matrix", "named-matrix", "fixed"])
@pytest.mark.parametrize("kind", ["inputs", "instances"])
def test_tensors_without_rows_are_refused_as_by_mlflow(name: str, kind: str) -> None:
    """An empty batch has no shape in JSON."""
    assert their_answer({kind: []}, UNNAMED[name]) is REFUSED
    with pytest.raises(SchemaMismatch, match=r"^The input has no rows\.$"):
        ours(decode({kind: []})[0], UNNAMED[name])


@pytest.mark.parametrize("values", [["x", 1, None], [[1, 2], [3, 4]]], ids=["flat", "pairs"])
def test_a_tensor_of_objects_takes_any_array(values: Any) -> None:
    """Of any shape, as with mlflow."""
    schema = Schema([tensor("object", -1)])
    wanted = their_answer({"inputs": values}, schema)
    assert wanted.tolist() == values
    assert_same(our_answer({"inputs": values}, schema), wanted, values)


# --- text, as from CSV ----------------------------------------------------------------------------

CSV = {
    "numbers": "a,b\n1.5,2\n3,4\n",
    "missing-double": "a,b\n1.5,2\n,4\n",
    "missing-long": "a,b\n1,\n2,3\n",
    "words": "s,a\nx,1\n,2\nNA,3\n",
    "codes": "a,s\n1,001\n2,true\n",
    "digits": "a\n1e3\n0.1\n0.30000000000000004\n123456789.123456789\n0.1234567890123456789\n",
    "extra": "a,b,z\n1,2,q\n",
    "without-a": "b\n1\n",
    "no-rows": "a,b\n",
    "other-names": "x,y\n1,2\n3.5,4\n",
    "letters": "a,b\nabc,1\n",
    "quotes": 'a,s\n1,"x,""y\n z"\n',
    "spaces": "a,b\n 1 , 2\n",
    "flag-in-long": "a,b\n1,True\n0,False\n",
    "too-long": "a,b\n1,9223372036854775808\n",
    "infinity": "a,b\ninf,1\n-Infinity,2\n",
}
TEXT = {
    **{name: NAMED[name] for name in ("two", "optional", "text", "one-double", "float")},
    **{name: UNNAMED[name] for name in ("one", "two", "mixed", "text")},
    "flag": columns(b="boolean"),
    "bytes": columns(s="binary"),
}


def text_columns(text: str) -> Columns:
    header, *rows = csv.reader(io.StringIO(text))
    values = zip(*rows, strict=True) if rows else [()] * len(header)
    return Columns(dict(zip(header, map(list, values), strict=True)), typed=False)


@pytest.mark.parametrize("text", CSV)
@pytest.mark.parametrize("name", TEXT)
def test_text_gets_its_types_as_in_mlflow(name: str, text: str) -> None:
    """The floats too, which pandas reads in a way of its own."""
    try:
        got = ours(text_columns(CSV[text]), TEXT[name])
    except SchemaMismatch:
        got = REFUSED
    parse: Any = parse_csv_input
    try:
        wanted = _enforce_schema(parse(io.StringIO(CSV[text]), TEXT[name]), TEXT[name])
    except MlflowException:
        wanted = REFUSED
    assert_same(got, wanted, text)


def test_times_and_tensors_can_be_sent_as_text() -> None:
    """mlflow refuses CSV for both."""
    got = ours(text_columns("d\n2024-01-01T01:02:03.5\n"), NAMED["time"])
    assert got["d"].tolist() == [pd.Timestamp("2024-01-01T01:02:03.5")]
    assert got["d"].dtype == "datetime64[ns]"
    array = ours(text_columns("a,b\n1.5,2\n"), UNNAMED["matrix"])
    assert_same(array, np.array([[1.5, 2]], "float32"), "matrix")


# --- arrays that have types already ---------------------------------------------------------------

ARRAY_TYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "datetime64[ns]",
    "datetime64[s]",
)


@pytest.mark.parametrize("values", [[0, 1], [2, 3]], ids=["zeros-and-ones", "other"])
@pytest.mark.parametrize("given", ARRAY_TYPES)
@pytest.mark.parametrize("column", TYPES)
def test_typed_arrays_are_converted_only_without_loss(
    column: str, given: str, values: list[int]
) -> None:
    """As tables and as arrays by name, against ``_enforce_schema`` on the same."""
    array = np.array(values).astype(given)
    schema = columns(a=column)
    for content, data in (
        (Columns({"a": array}), pd.DataFrame({"a": array})),
        (Tensors({"a": array}), {"a": array}),
    ):
        try:
            wanted = _enforce_schema(data, schema)
        except Exception:
            wanted = REFUSED
        try:
            got = ours(content, schema)
        except SchemaMismatch:
            got = REFUSED
        assert_same(got, wanted, (column, given))


@pytest.mark.parametrize("given", ["bool", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("declared", ["bool", "int32", "int64", "float32", "float64"])
def test_typed_tensors_must_have_the_declared_type(declared: str, given: str) -> None:
    """Neither wider nor narrower, as with mlflow."""
    schema = Schema([tensor(declared, -1, 2)])
    array = np.array([[0, 1]]).astype(given)
    if declared == given:
        assert ours(Rows(array), schema) is array
        return
    with pytest.raises(MlflowException):
        _enforce_schema(array, schema)
    with pytest.raises(SchemaMismatch) as refused:
        ours(Rows(array), schema)
    assert str(refused.value) == f"The model takes {declared} of the shape (-1, 2), not {given}."


def test_text_tensors_are_text_times_and_bytes() -> None:
    """V2 has one datatype, BYTES, for text, times and bytes: base64 as text, or as they are."""
    schema = columns(s="string", d="datetime", b="binary", c="binary")
    given = {
        "s": np.array(["x", "y"], object),
        "d": np.array(["2024-01-01", "2024-01-02"], object),
        "b": np.array(["YWJj", "ZA=="], object),
        "c": np.array([b"abc", b"d"], object),
    }
    got = ours(Tensors(given), schema)
    assert got["s"].tolist() == ["x", "y"]
    assert got["d"].tolist() == [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-02")]
    assert got["b"].tolist() == got["c"].tolist() == [b"abc", b"d"]
    texts = ours(Rows(np.array(["x", "yz"], object)), UNNAMED["texts"])
    assert_same(texts, np.array(["x", "yz"]), "texts")


def test_a_column_may_be_a_matrix_of_one_column() -> None:
    """As V2 clients send it."""
    got = ours(Tensors({"a": np.array([[1.5], [2.5]])}), columns(a="double"))
    assert got["a"].tolist() == [1.5, 2.5]


# --- what refusals say ----------------------------------------------------------------------------

SAYS: dict[str, tuple[Schema, Any, str]] = {
    "missing": (
        NAMED["two"],
        Columns({"a": [1.5], "z": [1]}),
        "The model needs the column b, which the input does not have. It has a, z.",
    ),
    "type": (
        NAMED["two"],
        Columns({"a": np.array(["x"]), "b": [1]}),
        "Column a is str, and the model takes double.",
    ),
    "lossy": (
        columns(a="long"),
        Columns({"a": np.array([1.5, np.nan])}),
        "Column a is float64, and the model takes long (integers cannot be missing; declare the "
        "column as double).",
    ),
    "cast": (
        NAMED["two"],
        Columns({"a": ["x"], "b": [1]}),
        "Column a cannot be read as double: could not convert string to float: 'x'",
    ),
    "lists": (
        NAMED["one-double"],
        Tensors({"a": np.zeros((1, 2))}),
        "Column a is lists, and the model takes double.",
    ),
    "width": (
        NAMED["two"],
        Rows([[1, 2], [1, 2, 3]]),
        "The model takes 2 columns (a, b), but row 1 has 3.",
    ),
    "array-width": (
        NAMED["two"],
        Rows(np.zeros((2, 3))),
        "The model takes 2 columns (a, b), but the input has 3.",
    ),
    "array-depth": (
        NAMED["two"],
        Rows(np.zeros((2, 3, 4))),
        "The model takes 2 columns (a, b), but its shape is (2, 3, 4).",
    ),
    "too-few": (
        unnamed("double", "double"),
        Columns({"a": [1]}),
        "The model takes 2 columns, and the input has 1.",
    ),
    "lengths": (
        NAMED["two"],
        Tensors({"a": [1.5, 2.5], "b": [1]}),
        "The columns must be equally long; the lengths are: a 2, b 1.",
    ),
    "zone": (
        NAMED["time"],
        Columns({"d": ["2024-01-01T00:00:00+02:00"]}),
        "Column d must hold times without a time zone: Cannot use .astype to convert from "
        "timezone-aware dtype to timezone-naive dtype. Use obj.tz_localize(None) or "
        "obj.tz_convert('UTC').tz_localize(None) instead.",
    ),
    "text": (
        NAMED["two"],
        Columns({"a": ["x"], "b": ["1"]}, typed=False),
        "The text is not of the model's types: could not convert string to float: 'x'",
    ),
    "shape": (
        UNNAMED["matrix"],
        Rows([[1, 2, 3]]),
        "The model takes float32 of the shape (-1, 2), not the shape (1, 3).",
    ),
    "no-tensor": (
        UNNAMED["named-two"],
        Tensors({"a": [1.5]}),
        "The model needs the input b, which is not there. There is: a.",
    ),
    "rows-for-names": (
        UNNAMED["named-two"],
        Rows([1.5]),
        "The model takes arrays by name (a, b), not rows without names.",
    ),
    "arrays-for-one": (
        UNNAMED["matrix"],
        Tensors({"a": [[1, 2]], "b": [[1, 2]]}),
        "The model takes one array without a name; the input has 2.",
    ),
    "table-for-cube": (
        UNNAMED["cube"],
        Columns({"a": [1], "b": [2]}),
        "The model takes int64 of the shape (-1, 2, 2); a table of 2 columns has the shape "
        "(-1, 2).",
    ),
    "column-for-fixed": (
        UNNAMED["fixed"],
        Columns({"x": [1.0]}),
        "The model takes float32 of the shape (2, 2) for x, which no column of a table can hold; "
        "send it as an array.",
    ),
    "value-for-list": (
        UNNAMED["named-matrix"],
        Columns({"x": [1.0]}),
        "The model takes float64 of the shape (-1, 2) for x, and the column has one value a row.",
    ),
    "text-for-tensor": (
        UNNAMED["array"],
        Rows(["x"]),
        "The model takes float64 of the shape (-1,); the input is not: could not convert string "
        "to float: 'x'",
    ),
    "lengths-of-columns": (
        UNNAMED["matrix"],
        Columns({"a": [1, 2], "b": [1]}),
        "The model takes float32 of the shape (-1, 2); the input is not: all input arrays must "
        "have the same shape",
    ),
    "ragged-cells": (
        UNNAMED["named-matrix"],
        Columns({"x": [[1, 2], [3]]}),
        "The model takes float64 of the shape (-1, 2) for x; the input is not: setting an array "
        "element with a sequence. The requested array has an inhomogeneous shape after 1 "
        "dimensions. The detected shape was (2,) + inhomogeneous part.",
    ),
    "words-in-columns": (
        UNNAMED["matrix"],
        Columns({"a": [1], "b": ["x"]}),
        "The model takes float32 of the shape (-1, 2); the input is not: could not convert string "
        "to float: 'x'",
    ),
    "columns-of-another-type": (
        UNNAMED["matrix"],
        Columns({"a": np.array([1.5]), "b": np.array([2.5])}),
        "The model takes float32 of the shape (-1, 2), not float64.",
    ),
    "empty-table": (UNNAMED["array"], Columns({"a": []}), "The input has no rows."),
    "empty-column": (
        UNNAMED["named-two"],
        Columns({"a": [], "b": []}),
        "The input has no rows for a.",
    ),
}


@pytest.mark.parametrize("case", SAYS)
def test_a_refusal_names_what_is_wrong_and_what_is_expected(case: str) -> None:
    """One sentence: the column, what came, what the model takes."""
    schema, content, message = SAYS[case]
    with pytest.raises(SchemaMismatch) as refused:
        ours(content, schema)
    assert str(refused.value) == message


# --- anything at all ------------------------------------------------------------------------------

EVERY = {
    **{f"columns-{name}": schema for name, schema in NAMED.items()},
    **{f"others-{name}": schema for name, schema in UNNAMED.items()},
    "types": columns(**dict(zip("abcdexsz", TYPES, strict=True))),
}
NAME = st.sampled_from("abcdexs")
CELL = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["1", "2024-01-01", "YWJj"])
)
LEAF = CELL | st.lists(CELL, max_size=3) | st.lists(st.lists(CELL, max_size=2), max_size=2)
RECORD = st.dictionaries(NAME, LEAF | st.dictionaries(NAME, CELL, max_size=2), max_size=4)
BODY = st.builds(
    lambda kind, value: {kind: value},
    st.sampled_from(["instances", "inputs", "dataframe_records", "data", "input_data"]),
    st.lists(RECORD, max_size=3) | st.lists(LEAF, max_size=3) | RECORD | LEAF,
) | st.builds(
    lambda names, rows: {SPLIT: {"columns": names, "data": rows}},
    st.none() | st.lists(NAME, max_size=3, unique=True),
    st.lists(st.lists(LEAF, max_size=3), max_size=3),
)
TEXTS = st.text(max_size=5) | st.sampled_from(["1", "1.5", "", "NA", "true", "\r", '"', "\x00"])
ARRAY = arrays(
    st.sampled_from(["bool", "int8", "int64", "uint64", "float16", "float64", "U2", "S2", "O"]),
    array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


def taken_or_refused(content: Content, schema: Schema) -> Any:
    try:
        return ours(content, schema)
    except SchemaMismatch as error:
        assert 10 < len(str(error)) < 1500
        return REFUSED


@settings(deadline=None)
@given(st.sampled_from(sorted(EVERY)), BODY)
def test_any_body_is_taken_or_refused(name: str, body: Any) -> None:
    """No signature meets a body that raises anything else."""
    try:
        content, _ = decode(body)
    except InputError:
        return
    taken_or_refused(content, EVERY[name])


@settings(deadline=None)
@given(st.sampled_from(sorted(EVERY)), st.integers(0, 3), st.sets(NAME, max_size=4), st.data())
def test_any_text_is_taken_or_refused(name: str, rows: int, names: Any, data: Any) -> None:
    """With as many rows as came, whatever the texts hold."""
    one = st.lists(TEXTS, min_size=rows, max_size=rows)
    content = Columns({each: data.draw(one) for each in sorted(names)}, typed=False)
    result = taken_or_refused(content, EVERY[name])
    if isinstance(result, pd.DataFrame) and names:
        assert len(result) == rows


@settings(deadline=None)
@given(
    st.sampled_from(sorted(EVERY)),
    st.builds(Rows, ARRAY) | st.builds(Tensors, st.dictionaries(NAME, ARRAY, max_size=3)),
)
def test_any_array_is_taken_or_refused(name: str, content: Any) -> None:
    """Of each type and shape."""
    taken_or_refused(content, EVERY[name])


# --- params ---------------------------------------------------------------------------------------

PARAM_TYPES = ("boolean", "integer", "long", "float", "double", "string", "datetime")
DEFAULTS: dict[str, Any] = {
    "boolean": True,
    "integer": 1,
    "long": 2,
    "float": 0.5,
    "double": 1.5,
    "string": "x",
    "datetime": "2024-01-02T03:04:05",
}
PARAM_VALUES: tuple[Any, ...] = (
    True,
    1,
    1.0,
    1.5,
    2**40,
    "1",
    "x",
    "2024-05-06",
    "2024-05-06T07:08:09.123456",
    "2024-05-06T07:08:09.123456789",
    None,
    [1, 2],
    [1.5],
    ["a"],
    [],
    [[1]],
    [True, None],
    {"k": 1},
)


def param_answers(params: Any, schema: ParamSchema) -> tuple[Any, Any]:
    """Ours and theirs."""
    signature = signature_of(columns(a="double"), schema)
    try:
        got: Any = enforce_params(copied(params), signature)
    except SchemaMismatch:
        got = REFUSED
    try:
        wanted: Any = _enforce_params_schema(copied(params), schema)
    except MlflowException:
        wanted = REFUSED
    return got, wanted


@pytest.mark.parametrize("listed", [False, True], ids=["single", "list"])
@pytest.mark.parametrize("kind", PARAM_TYPES)
def test_params_are_converted_and_refused_as_by_mlflow(kind: str, listed: bool) -> None:
    """Values, Python types and defaults."""
    default = [DEFAULTS[kind]] if listed else DEFAULTS[kind]
    schema = ParamSchema([ParamSpec("p", kind, default, (-1,) if listed else None)])
    refusals = 0
    for value in PARAM_VALUES:
        got, wanted = param_answers({"p": value}, schema)
        assert got == wanted, value
        assert repr(got) == repr(wanted)
        refusals += wanted is REFUSED
    assert 0 < refusals < len(PARAM_VALUES)
    got, wanted = param_answers({}, schema)
    assert got == wanted
    assert list(got) == ["p"]


def test_params_that_are_not_declared_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With other params declared, and with none."""
    schema = ParamSchema([ParamSpec("top", "long", 3)])
    with caplog.at_level(logging.WARNING, "azmlinfsrv"):
        assert enforce_params({"k": 1, "top": 5}, signature_of(columns(a="long"), schema)) == {
            "top": 5
        }
        assert enforce_params({"k": 1}, signature_of(columns(a="long"))) == {}
        assert enforce_params({}, signature_of(columns(a="long"))) == {}
    assert [record.getMessage() for record in caplog.records] == [
        "Params that are not declared are ignored: ['k'] (declared: top)",
        "Params that are not declared are ignored: ['k'] (declared: none)",
    ]


def test_a_param_of_another_type_is_named() -> None:
    """Its name, its type, and what came."""
    schema = ParamSchema([ParamSpec("top", "long", 3), ParamSpec("at", "datetime", "2024-01-01")])
    signature = signature_of(columns(a="long"), schema)
    with pytest.raises(SchemaMismatch, match=r"^Param top must be of type long, not 1\.5\.$"):
        enforce_params({"top": 1.5}, signature)
    with pytest.raises(SchemaMismatch, match=r"^Param at must be an ISO 8601 date or time\.$"):
        enforce_params({"at": "soon"}, signature)
    assert enforce_params({}, signature) == {"top": 3, "at": datetime.date(2024, 1, 1)}


# --- what V2 metadata and examples show -----------------------------------------------------------


def test_columns_are_inputs_of_one_dimension() -> None:
    """Each type has its datatype; optional columns may be left out."""
    schema = columns(**{f"c_{kind}": kind for kind in TYPES}, maybe="double?")
    assert specs(signature_of(schema).inputs, "input") == (
        Spec("c_boolean", "BOOL", (-1,)),
        Spec("c_integer", "INT32", (-1,)),
        Spec("c_long", "INT64", (-1,)),
        Spec("c_float", "FP32", (-1,)),
        Spec("c_double", "FP64", (-1,)),
        Spec("c_string", "BYTES", (-1,)),
        Spec("c_binary", "BYTES", (-1,)),
        Spec("c_datetime", "BYTES", (-1,)),
        Spec("maybe", "FP64", (-1,), True),
    )


def test_tensors_keep_their_shape_and_unnamed_inputs_get_names() -> None:
    """One is called as the caller says, several by their position."""
    assert specs(signature_of(UNNAMED["cube"]).inputs, "input") == (
        Spec("input", "INT64", (-1, 2, 2)),
    )
    assert specs(signature_of(UNNAMED["named-cube"]).inputs, "input") == (
        Spec("x", "FP32", (-1, 2, 2)),
        Spec("s", "BYTES", (-1,)),
    )
    assert [each.name for each in specs(signature_of(UNNAMED["mixed"]).inputs, "input")] == [
        "0",
        "1",
    ]


EVERY_SIGNATURE = {
    **{f"columns-{name}": schema for name, schema in NAMED.items()},
    **{f"others-{name}": schema for name, schema in UNNAMED.items()},
    "every-type": columns(**{f"c_{kind}": kind for kind in TYPES}),
    "nested": Schema(
        [
            ColSpec(Array(DataType.double), "list"),
            ColSpec(Object([Property("x", DataType.long), Property("y", DataType.string)]), "o"),
            ColSpec(Map(DataType.string), "m"),
            ColSpec(ANY(), "any", False),
            ColSpec("double", "d"),
        ]
    ),
}


@pytest.mark.parametrize("name", EVERY_SIGNATURE)
def test_the_example_is_taken_by_mlflow_and_by_us(name: str) -> None:
    """A body of one row (two where the signature fixes two)."""
    schema = EVERY_SIGNATURE[name]
    body = example(signature_of(schema))
    wanted = their_answer(body, schema)
    assert wanted is not REFUSED
    if name != "nested":
        assert_same(our_answer(body, schema), wanted, body)


def test_nested_types_are_left_to_mlflow() -> None:
    """Such a signature is not plain; one of the eight basic types, or of tensors, is."""
    plain = {name: signature_of(schema).plain for name, schema in EVERY_SIGNATURE.items()}
    assert [name for name, each in plain.items() if not each] == ["nested"]


# --- signatures that cannot be read ---------------------------------------------------------------

BROKEN: dict[str, tuple[Any, str]] = {
    "no-mapping": ("inputs", "its signature is 'inputs', not a mapping"),
    "no-json": ({"inputs": "[{"}, "inputs of its signature cannot be read (Expecting"),
    "no-list": ({"inputs": "5"}, "(a list was expected, not int)"),
    "no-type": ({"inputs": '[{"name": "a"}]'}, "(the key 'type' is missing)"),
    "type": ({"inputs": '[{"type": "decimal", "name": "a"}]'}, "(type 'decimal' is none of"),
    "no-spec": ({"outputs": '[{"type": "tensor"}]'}, "outputs of its signature cannot be read"),
    "dtype": (
        {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float99", "shape": [-1]}}]'},
        "(data type 'float99' not understood)",
    ),
    "names": (
        {"inputs": '[{"type": "long", "name": "a"}, {"type": "long"}]'},
        "some inputs of its signature have names and some have none",
    ),
    "mixed": (
        {
            "inputs": '[{"type": "long", "name": "a"}, {"type": "tensor", "name": "b", '
            '"tensor-spec": {"dtype": "float64", "shape": [-1]}}]'
        },
        "must be columns, or tensors with names, or one tensor",
    ),
    "param-type": (
        {"params": '[{"name": "p", "type": "decimal", "default": 1}]'},
        "params of its signature cannot be read (type 'decimal' of param p is not known)",
    ),
    "param-default": (
        {"params": '[{"name": "p", "type": "long", "default": "x"}]'},
        "(default: Param p must be of type long, not 'x'.)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_signature_that_cannot_be_read_says_where(case: str) -> None:
    """The part, and what is wrong with it."""
    section, message = BROKEN[case]
    with pytest.raises(ModelUnusable) as refused:
        read(section)
    assert message in str(refused.value)


@pytest.mark.parametrize("section", [None, {}, {"inputs": None, "outputs": None, "params": None}])
def test_no_signature_is_an_empty_one(section: Any) -> None:
    """No inputs, no params; whatever comes goes to the model."""
    signature = read(section)
    assert (signature.inputs, signature.outputs, signature.params) == ((), (), None)
