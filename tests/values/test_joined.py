"""Inputs joined and results split: each gets its own rows back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy

from scoring_runtime.values.content import PerOutput
from scoring_runtime.values.joined import joined, kind_of, size_of, split

DTYPES = st.sampled_from(["f8", "f4", "i8", "?", "O"])


@st.composite
def arrays(draw: st.DrawFn) -> list[Any]:
    """Several of one kind."""
    dtype, trailing = draw(DTYPES), draw(st.lists(st.integers(1, 3), max_size=2))
    rows = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    kinds = {"O": st.text(max_size=3)}
    return [
        draw(numpy.arrays(dtype, (count, *trailing), elements=kinds.get(dtype))) for count in rows
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, pd.DataFrame | pd.Series):
        return type(one) is type(other) and bool(one.equals(other))
    return bool(one.dtype == other.dtype and one.tolist() == other.tolist())


def looks(values: list[Any]) -> list[str]:
    return [repr(each.tolist()) for each in values]


@given(arrays())
def test_arrays_come_back_as_they_were(inputs: list[Any]) -> None:
    assert len({kind_of(each) for each in inputs}) == 1
    whole = joined(inputs)
    assert size_of(whole) == tuple(map(sum, zip(*map(size_of, inputs), strict=True)))
    parts = split(whole, [len(each) for each in inputs])
    assert parts is not None
    assert looks(parts) == looks(inputs)
    assert [each.dtype for each in parts] == [each.dtype for each in inputs]


@given(arrays(), arrays())
def test_arrays_by_name_come_back_by_name(ones: list[Any], others: list[Any]) -> None:
    inputs = [
        {"a": one, "b": np.resize(other, (len(one), *other.shape[1:]))}
        for one, other in zip(ones, others, strict=False)
    ]
    assert len({kind_of(each) for each in inputs}) == 1
    parts = split(joined(inputs), [len(each["a"]) for each in inputs])
    assert parts is not None
    for part, each in zip(parts, inputs, strict=True):
        assert list(part) == ["a", "b"]
        assert looks([*part.values()]) == looks([*each.values()])


@given(st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9)), min_size=1, max_size=3),
                min_size=1, max_size=4))  # fmt: skip
def test_tables_come_back_with_an_index_of_their_own(tables: list[Any]) -> None:
    inputs = [pd.DataFrame(each, columns=["text", "number"]) for each in tables]
    assert len({kind_of(each) for each in inputs}) == 1
    whole = joined(inputs)
    parts = split(whole, [len(each) for each in inputs])
    assert parts is not None and all(map(same, parts, inputs))
    columns = split(whole["number"], [len(each) for each in inputs])
    assert columns is not None
    assert all(same(part, each["number"]) for part, each in zip(columns, inputs, strict=True))


ONE = np.ones((2, 3))
TABLE = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})


@pytest.mark.parametrize(
    "other",
    [
        np.ones((2, 4)),
        np.ones((2, 3), np.float32),
        np.ones(2),
        {"x": ONE},
        TABLE,
    ],
    ids=["width", "dtype", "dimensions", "names", "table"],
)
def test_what_does_not_go_together_has_another_kind(other: Any) -> None:
    assert kind_of(other) != kind_of(ONE)


@pytest.mark.parametrize(
    "other",
    [
        TABLE[["b", "a"]],
        TABLE.astype({"a": "float32"}),
        TABLE.astype({"b": "category"}),
        TABLE.rename(columns={"a": "c"}),
    ],
    ids=["order", "dtype", "category", "name"],
)
def test_tables_go_together_by_columns_and_dtypes(other: Any) -> None:
    assert kind_of(other) not in (kind_of(TABLE), None)


@pytest.mark.parametrize(
    "given",
    [np.float64(1), np.array(1.0), [[1]], "text", TABLE.set_index("b"), TABLE.iloc[1:],
     {"x": ONE, "y": np.ones((3, 3))}, {"x": [1]}, {}],
)  # fmt: skip
def test_what_goes_with_nothing_has_no_kind(given: Any) -> None:
    assert kind_of(given) is None


def test_lists_outputs_and_methods_are_split_too() -> None:
    assert split(["a", "b", "c"], [1, 2]) == [["a"], ["b", "c"]]
    outputs = PerOutput([np.arange(6).reshape(3, 2), np.arange(3).reshape(3, 1)])
    parts = split({"predict": np.arange(3), "predict_proba": outputs}, [2, 1])
    assert parts is not None
    assert looks([part["predict"] for part in parts]) == ["[0, 1]", "[2]"]
    assert [type(part["predict_proba"]) for part in parts] == [PerOutput, PerOutput]
    assert looks(parts[0]["predict_proba"]) == ["[[0, 1], [2, 3]]", "[[0], [1]]"]


@pytest.mark.parametrize(
    "result",
    [np.ones(2), np.ones((4, 3)), np.float64(1), np.array(1.0), "abc", None, ["a"],
     {"a": np.ones(3), "b": np.ones(2)}, PerOutput([np.ones((3, 1)), np.ones((2, 1))])],
)  # fmt: skip
def test_a_result_without_a_row_for_each_is_not_split(result: Any) -> None:
    assert split(result, [1, 2]) is None
