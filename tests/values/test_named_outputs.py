"""Results as arrays by name, for the formats that carry nothing nested."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import OneHotEncoder

from scoring_runtime.errors import NotAcceptable
from scoring_runtime.values.content import PerOutput
from scoring_runtime.values.named_outputs import named_outputs

NAN = float("nan")


@pytest.mark.parametrize(
    ("result", "dtype", "values"),
    [
        (np.array([1.5, 2.0], np.float32), "float32", [1.5, 2.0]),
        (np.array([], np.float64), "float64", []),
        (np.float64(2.5), "float64", [2.5]),
        (3, "int64", [3]),
        ("text", "<U4", ["text"]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([[1, 2], [3, 4]], "int64", [[1, 2], [3, 4]]),
        ([np.array([1.0]), np.array([2.0])], "float64", [[1.0], [2.0]]),
        (["a", "longer"], "object", ["a", "longer"]),
        ([b"\x00\xff", b""], "object", [b"\x00\xff", b""]),
        (pd.Series(["a", "b"]), "object", ["a", "b"]),
        (OneHotEncoder().fit_transform([[1], [2]]), "float64", [[1.0, 0.0], [0.0, 1.0]]),
        (np.array([True, False], dtype=object), "bool", [True, False]),
        (np.array([np.int32(1), np.int32(2)], dtype=object), "int64", [1, 2]),
        (np.array([1, 2**70], dtype=object), "object", ["1", str(2**70)]),
        (np.array(["a", None], dtype=object), "object", ["a", None]),
        (np.array(["a", 1], dtype=object), "object", ["a", "1"]),
        (np.array([True, None], dtype=object), "object", ["true", None]),
        (np.array([Decimal("1.10"), 2], dtype=object), "float64", [1.1, 2.0]),
        (
            np.array([datetime.datetime(2026, 5, 4, 3, 2, 1)], dtype=object),
            "object",
            ["2026-05-04T03:02:01"],
        ),
        (
            np.array([{"a": [1]}, [1, "é"]], dtype=object),
            "object",
            ['{"a": [1]}', '[1, "\\u00e9"]'],
        ),
        (np.array(["2026-05-04"], "M8[D]"), "datetime64[D]", [datetime.date(2026, 5, 4)]),
    ],
    ids=str,
)
def test_a_result_without_a_name_is_one_array(result, dtype, values):
    found = named_outputs(result, "predict")
    assert list(found) == ["predict"]
    assert str(found["predict"].dtype) == dtype
    assert found["predict"].tolist() == values


def test_what_is_missing_among_numbers_is_nan():
    found = named_outputs(np.array([1, None], dtype=object), "y")["y"]
    assert found.dtype == np.float64
    assert np.array_equal(found, [1.0, NAN], equal_nan=True)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (pd.DataFrame({"a": [1, 2], 3: ["x", "y"]}), {"a": [1, 2], "3": ["x", "y"]}),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], {"a": [1, 2], "b": ["x", "y"]}),
        ([{"a": 1}, {"b": 2}], {"y": ['{"a": 1}', '{"b": 2}']}),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], {"y": ['{"a": 1, "b": 2}', '{"b": 2, "a": 1}']}),
        ({"p": [{0: 0.25, 1: 0.75}, {0: 1.0, 1: 0.0}]}, {"p": [[0.25, 0.75], [1.0, 0.0]]}),
        ({"p": [{"a": 0.5}, {"b": 0.5}]}, {"p": ['{"a": 0.5}', '{"b": 0.5}']}),
        ({"p": [{"a": "x"}]}, {"p": ['{"a": "x"}']}),
        ({}, {}),
    ],
    ids=str,
)
def test_tables_and_objects_are_arrays_by_name(result, expected):
    found = named_outputs(result, "y")
    assert {name: values.tolist() for name, values in found.items()} == expected


@pytest.mark.parametrize(
    "result",
    [[[1], [2, 3]], [np.zeros((1, 2)), np.zeros((1, 3))], {"y": [[1], [2, 3]]}],
    ids=["lists", "arrays", "by name"],
)
def test_rows_of_different_lengths_are_for_json_only(result: Any):
    with pytest.raises(NotAcceptable) as caught:
        named_outputs(result, "y")
    assert str(caught.value) == (
        "The result 'y' has rows of different lengths, which only application/json can carry."
    )


def test_probabilities_of_several_outputs_have_rows_first():
    """As from MultiOutputClassifier: an array for each output, of its own number of classes."""
    two, three = np.array([[0.1, 0.9], [0.4, 0.6]]), np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    found = named_outputs(PerOutput([two, three]), "predict_proba")["predict_proba"]
    nan = float("nan")
    expected = [[[0.1, 0.9, nan], [0.2, 0.3, 0.5]], [[0.4, 0.6, nan], [1.0, 0.0, 0.0]]]
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, np.datetime64("NaT", "ns")])
def test_missing_text_is_none(missing):
    frame = pd.DataFrame({"t": np.array(["a", missing], dtype=object)})
    for result in (frame, frame["t"].to_numpy(), ["a", missing]):
        assert [*named_outputs(result, "t")["t"]] == ["a", None]
