"""The JSON bodies of MLflow and Azure ML, for models of other kinds: what they hold."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from scoring_runtime.errors import InputTooLarge, SchemaMismatch, UndecodableInput
from scoring_runtime.formats.mlflow_json import MISSING, decode
from scoring_runtime.values.content import Columns, Content, Limits, Rows, Tensors

SPLIT, RECORDS = "dataframe_split", "dataframe_records"

# --- what a body holds ----------------------------------------------------------------------------

SPARSE = Columns({"a": [1, MISSING], "b": [MISSING, 2]})
HOLDS: dict[str, tuple[Any, Content]] = {
    "split": (
        {SPLIT: {"columns": ["b", "a"], "data": [[1, "x"], [2, None]]}},
        Columns({"b": [1, 2], "a": ["x", None]}),
    ),
    "split-index": (
        {SPLIT: {"columns": ["a"], "index": [5, 6], "data": [[1], [2]]}},
        Columns({"a": [1, 2]}),
    ),
    "split-empty": ({SPLIT: {"columns": ["a", "b"], "data": []}}, Columns({"a": [], "b": []})),
    "split-unnamed": ({SPLIT: {"data": [[1, 2]]}}, Rows([[1, 2]])),
    "split-null-names": ({SPLIT: {"columns": None, "data": [[1, 2]]}}, Rows([[1, 2]])),
    "split-positions": ({SPLIT: {"columns": [0, 1], "data": [[1, 2]]}}, Rows([[1, 2]])),
    "records": (
        {RECORDS: [{"a": 1, "b": 2}, {"b": 3, "a": None}]},
        Columns({"a": [1, None], "b": [2, 3]}),
    ),
    "records-sparse": ({RECORDS: [{"a": 1}, {"b": 2}]}, SPARSE),
    "instances": ({"instances": [[1, 2], [3, 4]]}, Rows([[1, 2], [3, 4]])),
    "instances-flat": ({"instances": [1, "x"]}, Rows([1, "x"])),
    "instances-each": (
        {"instances": [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]},
        Tensors({"a": [1, 3], "b": [[2], [4]]}),
    ),
    "instances-object": ({"instances": {"a": [1], "b": [2]}}, Tensors({"a": [1], "b": [2]})),
    "inputs": ({"inputs": {"a": [1, 2], "b": [[1]]}}, Tensors({"a": [1, 2], "b": [[1]]})),
    "inputs-single": ({"inputs": {"a": 1}}, Tensors({"a": 1})),
    "inputs-value": ({"inputs": "text"}, Rows(["text"])),
    "inputs-records": ({"inputs": [{"a": 1}, {"b": 2}]}, SPARSE),
    "inputs-list": ({"inputs": [[1], 2]}, Rows([[1], 2])),
    "inputs-nested": ({"inputs": [{"a": [1]}, {"a": [2]}]}, Columns({"a": [[1], [2]]})),
    "others": ({"inputs": [1], "signature_name": "x", "data": 5}, Rows([1])),
    "azureml-rows": ({"input_data": [[1, 2]]}, Rows([[1, 2]])),
    "azureml-named": ({"input_data": {"name": [1, 2]}}, Tensors({"name": [1, 2]})),
    "azureml-records": ({"input_data": [{"a": 1}, {"a": 2}]}, Columns({"a": [1, 2]})),
    "azureml-data-as-name": (
        {"input_data": {"data": [1], "more": [2]}},
        Tensors({"data": [1], "more": [2]}),
    ),
    "data-records": ({"data": [{"a": 1}]}, Columns({"a": [1]})),
    "data-split": ({"data": {"columns": ["a"], "data": [[1]]}}, Columns({"a": [1]})),
    "split-alone": (
        {"columns": ["b", "a"], "index": [0], "data": [[1, "x"]]},
        Columns({"b": [1], "a": ["x"]}),
    ),
    "azureml-columns": ({"input_data": [[1]], "columns": ["a"]}, Columns({"a": [1]})),
}


@pytest.mark.parametrize("case", HOLDS)
def test_a_body_holds(case: str) -> None:
    """The kind and the values of each form; lists stay lists."""
    body, wanted = HOLDS[case]
    content, params = decode(body)
    assert (type(content), content) == (type(wanted), wanted)
    assert params == {}
    assert not isinstance(content, Columns) or content.typed


def test_params_come_next_to_the_data() -> None:
    """Null is none."""
    assert decode({"inputs": [1], "params": {"k": [1]}}) == (Rows([1]), {"k": [1]})
    assert decode({"inputs": [1], "params": None}) == (Rows([1]), {})


def test_a_key_that_is_not_there_is_nan() -> None:
    """As pandas has it, and other than null."""
    content, _ = decode({RECORDS: [{"a": None}, {}]})
    assert isinstance(content, Columns)
    assert content.columns["a"] == [None, MISSING]
    assert math.isnan(MISSING)


# --- what is refused ------------------------------------------------------------------------------

LISTED = (
    "The body must be a JSON object with exactly one of dataframe_split, dataframe_records, "
    "instances, inputs, input_data or data; it has "
)
TABLE = 'dataframe_split must be an object with "data", a list of rows, and "columns", their names.'
NOT_NAMES = '"columns" of dataframe_split must be a list of names.'
REFUSED: dict[str, tuple[Any, str]] = {
    "no-kind": ({"rows": [1], "x" * 500: 2}, f"{LISTED}'rows', '{'x' * 100}…'."),
    "nothing": ({}, LISTED + "no keys."),
    "many": ({str(n): n for n in range(99)}, LISTED + "'0', '1', '2', '3', '4', '5', '6', '7'"),
    "two": ({"instances": [1], "inputs": [1]}, LISTED + "'instances', 'inputs'."),
    "params": ({"inputs": [1], "params": [1]}, "params is a list of 1; expected is a JSON object."),
    "split-list": ({SPLIT: [[1]]}, TABLE),
    "split-without-data": ({SPLIT: {"columns": ["a"]}}, TABLE),
    "split-ragged": ({SPLIT: {"columns": ["a", "b"], "data": [[1, 2], [3]]}},
        "Row 1 of dataframe_split is a list of 1; a list of 2 is expected, one value a column."),
    "split-row": ({SPLIT: {"columns": ["a"], "data": [[1], 2]}},
        "Row 1 of dataframe_split is 2; a list of 1 is expected, one value a column."),
    "split-twice": ({SPLIT: {"columns": ["a", "b", "a"], "data": [[1, 2, 3]]}},
        "dataframe_split has the column 'a' more than once."),
    "split-names": ({SPLIT: {"columns": ["a", 1], "data": [[1, 2]]}}, NOT_NAMES),
    "split-name": ({SPLIT: {"columns": "a", "data": [[1]]}}, NOT_NAMES),
    "records-object": ({RECORDS: {"a": [1]}}, f"{RECORDS} is an object; a list of objects is exp"),
    "instances-row": ({"instances": [{"a": 1}, True]},
        "Row 1 of instances is true; an object is expected."),
    "inputs-null": ({"inputs": None}, "inputs is null; it must be a list, an object or one value."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_body_that_cannot_be_read_is_refused(case: str) -> None:
    """The kind, the row, and what is expected."""
    body, message = REFUSED[case]
    kind = UndecodableInput if message.startswith(LISTED) else SchemaMismatch
    with pytest.raises(kind) as refused:
        decode(body)
    assert str(refused.value).startswith(message)


LIMITS = Limits(rows=3, values=6, bytes=1000, columns=4)
WITHIN: dict[str, Any] = {
    "split": {SPLIT: {"columns": ["a", "b"], "data": [[1, 2]] * 3}},
    "rows": {"inputs": [[1, 2]] * 3},
    "tensors": {"inputs": {"a": [1] * 3, "b": [[1]] * 3}},
}
TOO_MANY = "The input has {}; at most {} are taken at once (SCORING_MAX_{})."
BEYOND: dict[str, tuple[Any, str]] = {
    "split": ({SPLIT: {"columns": ["a"], "data": [[1]] * 4}}, "4 rows"),
    "split-values": ({SPLIT: {"columns": ["a", "b", "c"], "data": [[1, 2, 3]] * 3}}, "9 values"),
    "records": ({RECORDS: [{"a": 1}] * 4}, "4 rows"),
    "sparse records": ({RECORDS: [{"a": 1}, {"b": 1}, {"c": 1}]}, "9 values"),
    "flat": ({"instances": [1] * 4}, "4 rows"),
    "wide": ({"data": [[1] * 7]}, "7 values"),
    "tensors": ({"inputs": {"a": [[1] * 4] * 2}}, "8 values"),
    "columns": ({"inputs": dict.fromkeys("abcde", 1)}, "5 columns"),
}


@pytest.mark.parametrize("case", WITHIN)
def test_what_is_within_the_limits_is_taken(case: str) -> None:
    """Up to the last row and value."""
    assert decode(WITHIN[case], LIMITS) == decode(WITHIN[case])


@pytest.mark.parametrize("case", BEYOND)
def test_more_rows_or_values_than_the_limits_are_refused(case: str) -> None:
    """Both numbers are named."""
    body, found = BEYOND[case]
    kind = found.split()[1]
    with pytest.raises(InputTooLarge) as refused:
        decode(body, LIMITS)
    most = {"rows": 3, "values": 6, "columns": 4}[kind]
    assert str(refused.value) == TOO_MANY.format(found, most, kind.upper())


# --- imports -------------------------------------------------------------------------------------


def test_reading_needs_neither_numpy_nor_pandas_nor_mlflow() -> None:
    """In a process of its own."""
    script = (
        "import sys; from scoring_runtime.formats.mlflow_json import decode; "
        "decode({'inputs': [[1]]}); "
        "print([each for each in ('numpy', 'pandas', 'mlflow') if each in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
