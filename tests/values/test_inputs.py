"""Content as the arrays that a model declares: what is converted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring_runtime.errors import InputTooLarge, SchemaMismatch
from scoring_runtime.values.arrays import (
    array,
    checked,
    empty_batch,
    of_plain_rows,
    shape_text,
)
from scoring_runtime.values.content import NUMPY_TYPES, Columns, Limits, Rows, Spec, Tensors
from scoring_runtime.values.inputs import column, frame_columns, matrix, number_columns, tensors
from scoring_runtime.values.wording import listed, short, uneven

LIMITS = Limits(1000, 100_000, 1 << 20)
NAN, INFINITY = float("nan"), float("inf")


def made(values: Any, datatype: str, shape: Sequence[int] = (-1,), typed: bool = True) -> Any:
    return array(values, Spec("x", datatype, tuple(shape)), LIMITS, typed=typed)


def assert_array(found: Any, datatype: str, expected: Any) -> None:
    """The datatype, and the values bit for bit (NaN is NaN)."""
    assert found.dtype == np.dtype(NUMPY_TYPES[datatype])
    if datatype == "BYTES":
        assert found.tolist() == expected
    else:
        wanted = np.array(expected, dtype=found.dtype)
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted, equal_nan=found.dtype.kind == "f")


# --- one array ------------------------------------------------------------------------------------


_NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.sampled_from([3.4028235e38, 3.4028236e38, 65519.0, 65520.0, 1e-46, 2**63, 2**64, 10**400]),
)
_ODD = st.none() | st.sampled_from(["1", "1e3", "nan", ""]) | st.lists(st.floats(), max_size=2)
_ROWS = st.lists(st.lists(_NUMBERS, min_size=2, max_size=2), min_size=1)
_ODD_ROWS = st.lists(
    st.lists(_NUMBERS | _ODD, max_size=3) | st.sampled_from([{}, {"a": 1}, "12", 1])
)


@given(
    st.sampled_from(["FP16", "FP32", "FP64"]),
    st.sampled_from([-1, 2]),
    st.sampled_from([1, 20]),
    _ROWS | _ODD_ROWS,
)
def test_plain_rows_are_what_numpy_makes_of_them_or_are_looked_at_more_closely(
    datatype, width, times, rows
):
    rows *= times
    found = of_plain_rows(Spec("x", datatype, (-1, width)), LIMITS, lambda array: array)(rows)
    if found is None:
        return
    with np.errstate(over="ignore"):
        expected = np.array(rows, NUMPY_TYPES[datatype])
    assert_array(found, datatype, expected)
    assert np.isinf(found).tolist() == np.isinf(np.array(rows, "float64")).tolist()
    assert found.flags.writeable


@pytest.mark.parametrize("count", [1, 20])
def test_what_a_datatype_cannot_hold_is_looked_at_more_closely(count):
    for datatype, value in (("FP16", 65520.0), ("FP32", 3.4028236e38), ("FP64", 10**400)):
        rows = [[1.0, value]] * count
        taken = of_plain_rows(Spec("x", datatype, (-1, 2)), LIMITS, lambda array: array)
        assert taken(rows) is None, datatype
        with pytest.raises(SchemaMismatch, match=r"\[0\]\[1\]"):
            made(rows, datatype, (-1, 2))


@pytest.mark.parametrize("rows", [[[1.5, 2.0]], [[1, True], [0.25, 4]]])
def test_rows_of_numbers_are_taken_at_once(rows):
    found = of_plain_rows(Spec("x", "FP32", (-1, 2)), LIMITS, lambda array: array)(rows)
    assert_array(found, "FP32", rows)


@pytest.mark.parametrize(
    ("datatype", "values", "expected"),
    [
        ("FP64", [1, 2.5, True, "3.5", " 4 ", None], [1.0, 2.5, 1.0, 3.5, 4.0, NAN]),
        ("FP64", [NAN, INFINITY, -INFINITY, -0.0], [NAN, INFINITY, -INFINITY, -0.0]),
        ("FP32", [0.1, 16777217, INFINITY, None], [np.float32(0.1), 16777216.0, INFINITY, NAN]),
        ("FP16", [0.1, 65504, "1", None], [np.float16(0.1), 65504.0, 1.0, NAN]),
        ("INT64", [1.0, "7", " 8 ", "9.0", True, 2**53 + 1], [1, 7, 8, 9, 1, 2**53 + 1]),
        ("INT8", [-128, 127.0], [-128, 127]),
        ("UINT8", [0, 255], [0, 255]),
        ("UINT64", [2**64 - 1, 1.0, "3"], [2**64 - 1, 1, 3]),
        ("BOOL", [True, False, 1, 0, 1.0], [True, False, True, False, True]),
        ("BYTES", ["a", "", "日本", b"\xc3\xbc"], ["a", "", "日本", "ü"]),
    ],
    ids=str,
)
def test_lists_become_arrays_of_the_datatype(datatype, values, expected):
    assert_array(made(values, datatype), datatype, expected)
    assert_array(made([values], datatype, (1, -1)), datatype, [expected])


@pytest.mark.parametrize(
    ("datatype", "values", "expected"),
    [
        ("FP64", ["1", "", " ", "2e3", "nan", "-inf"], [1.0, NAN, NAN, 2000.0, NAN, -INFINITY]),
        ("FP32", ["0.1", "1e-46"], [np.float32(0.1), 0.0]),
        ("INT32", ["1", "-2", "3.0", "4e2"], [1, -2, 3, 400]),
        ("BOOL", ["true", "False", "TRUE", "1", "0"], [True, False, True, True, False]),
        ("BYTES", ["", "a", "1"], ["", "a", "1"]),
    ],
    ids=str,
)
def test_text_without_types_is_read_as_the_datatype(datatype, values, expected):
    """As the columns of CSV."""
    assert_array(made(values, datatype, typed=False), datatype, expected)
    assert_array(made(np.array(values, dtype=object), datatype, typed=False), datatype, expected)
    assert_array(made(np.array(values), datatype), datatype, expected)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP64", np.array([1, 2], "i8")),
        ("FP64", np.array([1.5, 2], ">f4")),
        ("FP32", np.array([1.5, NAN, INFINITY])),
        ("FP32", np.array([255], "u1")),
        ("INT8", np.array([1.0, -128.0])),
        ("INT64", np.array([2**63 - 1], "u8")),
        ("UINT64", np.array([0, 2**63 - 1])),
        ("BOOL", np.array([1, 0], "u1")),
        ("BOOL", np.array([1.0, 0.0])),
    ],
    ids=lambda each: str(each.dtype) if hasattr(each, "dtype") else each,
)
def test_arrays_are_cast_when_nothing_is_lost(datatype, values):
    assert_array(made(values, datatype), datatype, values.tolist())


def test_an_array_of_the_datatype_is_taken_as_it_is():
    values = np.array([[1.5, 2.5]], np.float32)
    assert made(values, "FP32", (-1, 2)) is values


@pytest.mark.parametrize(
    ("datatype", "values", "place"),
    [
        ("FP64", [1, "x"], "at [1] is text 'x'"),
        ("FP64", "x", "it is text 'x', not a list"),
        ("INT8", {}, "it is an object, not a list"),
        ("FP64", [[1], 2], "at [0] is a list of 1"),
        ("FP64", [10**400], f"at [0] is 1{'0' * 39}…"),
        ("FP32", [0, 1e39, 1e40], "at [1] is 1e+39"),
        ("FP16", [70000], "at [0] is 70000.0"),
        ("INT8", [0, 128], "at [1] is 128"),
        ("INT8", [0, -129.0], "at [1] is -129"),
        ("INT8", np.array([0.5]), "at [0] is 0.5"),
        ("INT64", [2**63], f"at [0] is {2**63}"),
        ("INT64", np.array([2.0**63]), "at [0] is 9.223372036854776e+18"),
        ("INT64", np.array([2**63], "u8"), f"at [0] is {2**63}"),
        ("INT64", np.array([NAN]), "at [0] is nan"),
        ("INT64", [NAN], "at [0] is nan"),
        ("INT64", [None], "at [0] is null"),
        ("INT64", ["1_000"], "at [0] is text '1_000'"),
        ("UINT64", np.array([-1]), "at [0] is -1"),
        ("BOOL", [2], "at [0] is 2"),
        ("BOOL", np.array([0, 2]), "at [1] is 2"),
        ("BOOL", ["true"], "at [0] is text 'true'"),
        ("BYTES", ["a", 1], "at [1] is 1"),
        ("BYTES", [None], "at [0] is null"),
        ("BYTES", [b"\xff"], "at [0] is b'\\xff'"),
        ("BYTES", ["\udc00"], "at [0] is text with half a character, which is no Unicode"),
    ],
    ids=str,
)
def test_what_loses_its_value_is_refused_by_its_place(datatype, values, place):
    with pytest.raises(SchemaMismatch) as caught:
        made(values, datatype)
    message = str(caught.value)
    assert message.startswith(f"The input 'x': {place}")
    assert f"; expected is [any] of {datatype}, " in message


def test_an_array_of_another_kind_is_refused_by_its_type():
    values = np.zeros(2, dtype="M8[s]")
    with pytest.raises(SchemaMismatch) as caught:
        made(values, "FP32")
    assert str(caught.value) == (
        f"The input 'x' is of the type {values.dtype}; expected is [any] of FP32."
    )


@given(
    values=st.lists(
        st.none()
        | st.booleans()
        | st.integers(-(2**65), 2**65)
        | st.floats()
        | st.sampled_from(["", "1", "1.5", "x", "true"])
        | st.lists(st.integers(0, 3), max_size=2),
        max_size=5,
    ),
    datatype=st.sampled_from([*NUMPY_TYPES]),
    typed=st.booleans(),
)
def test_every_list_is_an_equal_array_or_refused(values, datatype, typed):
    """Nothing changes its value on the way, and nothing else is raised."""
    try:
        found = made(values, datatype, typed=typed)
    except SchemaMismatch:
        return
    for value, one in zip(values, found.tolist(), strict=True):
        if datatype == "BYTES":
            assert one == value
        elif value is None or (isinstance(value, str) and not value):
            assert one != one
        elif isinstance(value, str):
            read = {"true": 1.0}.get(value) or float(value)
            assert one == read
        elif datatype.startswith("FP"):
            assert np.array(float(value)).astype(found.dtype).tobytes() == (
                np.array(one).astype(found.dtype).tobytes()
            ) or (one != one and value != value)
        else:
            assert one == value


# --- shape and size -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "values", "problem"),
    [
        ((-1, 2), [[1, 2, 3]], "has the shape [1, 3]; expected is [any, 2] of FP32."),
        ((-1,), 5, "is a single value; expected is [any] of FP32."),
        ((), [1, 2], "has the shape [2]; expected is one value of FP32."),
        (
            (-1, 2),
            [1, 2],
            "has the shape [2]; expected is [any, 2] of FP32. Send a list of rows, each a list of "
            "values: [[…], […]].",
        ),
    ],
)
def test_another_shape_is_refused(shape, values, problem):
    for each in (values, np.array(values, np.float32)):
        with pytest.raises(SchemaMismatch) as caught:
            made(each, "FP32", shape)
        assert str(caught.value) == f"The input 'x' {problem}"


def test_rows_up_to_the_limit_are_taken():
    spec = Spec("x", "FP32", (-1,))
    few = Limits(2, 10, 10)
    assert checked(np.zeros(2), spec, few).shape == (2,)
    with pytest.raises(InputTooLarge) as caught:
        checked(np.zeros(3), spec, few)
    assert str(caught.value) == (
        "The input 'x' has 3 rows; at most 2 are taken at once (SCORING_MAX_ROWS)."
    )


def test_an_empty_batch_is_refused_save_where_the_model_wants_it():
    empties: list[Any] = [[], np.empty((0, 2))]
    for values in empties:
        with pytest.raises(SchemaMismatch) as caught:
            made(values, "FP32", (-1, 2))
        assert str(caught.value) == str(empty_batch("x"))
    assert made(np.empty((0, 2)), "FP32", (0, 2)).shape == (0, 2)


def test_words_of_the_messages():
    assert shape_text(Spec("x", "FP32", (-1, 64))) == "[any, 64] of FP32"
    assert shape_text(Spec("x", "INT8", ())) == "one value of INT8"
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(n) for n in range(12)], 2) == "'0', '1' and 10 more"
    assert listed(["x" * 100, "y" * 101]) == f"'{'x' * 100}', '{'y' * 100}…'"
    assert uneven({"z" * 200: 1, "a": 2}) == f"not equally long: {'z' * 100} 1, a 2"
    shown = [None, True, False, 1.5, "a" * 50, [1, 2], {"a": 1}, b"\xff", 10**50]
    assert [short(each) for each in shown] == [
        "null", "true", "false", "1.5", f"text '{'a' * 40}'", "a list of 2", "an object",
        "b'\\xff'", f"1{'0' * 39}…",
    ]  # fmt: skip


# --- tensors --------------------------------------------------------------------------------------


A, B = Spec("a", "FP32", (-1, 2)), Spec("b", "INT64", (-1, 1))
TEXT = Spec("text", "BYTES", (-1,))


def plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in found.items()}


@pytest.mark.parametrize(
    ("content", "specs", "expected"),
    [
        (Rows([[1, 2]]), [A], {"a": [[1.0, 2.0]]}),
        (Rows([1, 2]), [B], {"b": [[1], [2]]}),
        (Rows([[1, 2]]), [Spec("f", "FP32", (-1, -1))], {"f": [[1.0, 2.0]]}),
        (Rows([[[1, 2], 3, "x"]]), [A, B, TEXT], {"a": [[1.0, 2.0]], "b": [[3]], "text": ["x"]}),
        (Tensors({"b": [3], "text": ["x"]}), [B, TEXT], {"b": [[3]], "text": ["x"]}),
        (Columns({"x": [1, 3], "y": [2, 4]}), [A], {"a": [[1.0, 2.0], [3.0, 4.0]]}),
        (Columns({"x": ["1"], "y": [""]}, typed=False), [TEXT._replace(name="x"),
         TEXT._replace(name="y")], {"x": ["1"], "y": [""]}),
        (Columns({"b": ["3"], "text": ["x"]}, typed=False), [B, TEXT], {"b": [[3]], "text": ["x"]}),
        (Columns({"a": [[1, 2]]}), [A], {"a": [[1.0, 2.0]]}),
        (Rows([7]), [Spec("s", "INT64", ())], {"s": 7}),
        (Tensors({"s": [[7, 8]]}), [Spec("s", "INT64", ())], {"s": [[7, 8]]}),
        (Rows(np.array([[7]])), [Spec("s", "INT64", ())], {"s": 7}),
        (Tensors({"b": [3]}), [B, TEXT._replace(optional=True)], {"b": [[3]]}),
    ],
    ids=str,
)  # fmt: skip
def test_content_as_the_inputs_of_a_model(content, specs, expected):
    assert plain(tensors(content, specs, LIMITS)) == expected


@pytest.mark.parametrize(
    ("content", "specs", "problem"),
    [
        (Tensors({"c": [1]}), [A, B], "Missing inputs: 'a', 'b'. Unknown inputs: 'c'. Expected: "
         "'a', 'b'."),
        (Rows([[1, 2], [3]]), [B, TEXT], "Got 1 values in row 1; rows of 2 values are expected: "
         "'b', 'text'."),
        (Rows([]), [B, TEXT], "The batch is empty (b, text): at least one row is expected."),
        (Rows(np.zeros((2, 3))), [B, TEXT], "Got shape (2, 3); rows of 2 values are expected: 'b', "
         "'text'."),
        (Rows("abc"), [B, TEXT], "Got text 'abc'; rows of 2 values are expected: 'b', 'text'."),
        (Columns({"x": [1]}), [A], "The table has 1 columns ('x'); 2 are expected."),
        (Columns({}), [B, TEXT], "The batch is empty: at least one row is expected, with 'b', "
         "'text'."),
    ],
    ids=str,
)  # fmt: skip
def test_content_that_is_not_the_inputs_of_a_model(content, specs, problem):
    with pytest.raises(SchemaMismatch) as caught:
        tensors(content, specs, LIMITS)
    assert str(caught.value) == problem


# --- matrix ---------------------------------------------------------------------------------------


FEATURES = Spec("X", "FP64", (-1, 2))


@pytest.mark.parametrize(
    "content",
    [
        Rows(np.array([[1, 2], [3, 4]], dtype="f4", order="F")),
        Rows(np.array([[1, 9, 2], [3, 9, 4]], dtype="f8")[:, ::2]),
        Columns({"a": [1, 3], "b": np.array([2, 4])}),
        Columns({"a": ["1", "3"], "b": ["2", "4"]}, typed=False),
        Columns({"a": np.array([[1], [3]]), "b": [2, 4]}),
    ],
    ids=["Fortran", "strided", "columns", "text", "narrow"],
)
def test_a_matrix_is_the_same_in_memory_whatever_it_was_made_from(content):
    found = matrix(content, FEATURES, LIMITS)
    assert found.flags.c_contiguous
    assert_array(found, "FP64", [[1.0, 2.0], [3.0, 4.0]])


def test_columns_of_a_matrix_that_are_not_equally_long_are_refused():
    with pytest.raises(SchemaMismatch, match=r"not equally long: a 2, b 1\.$"):
        matrix(Columns({"a": [1, 2], "b": [1]}), FEATURES, LIMITS)


def test_a_column_of_one_value_a_row_is_flat():
    spec = Spec("c", "FP64", (-1,))
    assert column(np.array([[1], [2]]), spec, LIMITS).tolist() == [1.0, 2.0]


# --- the columns of a table -----------------------------------------------------------------------


NUMBER, WORD = Spec("n", "FP64", (-1,)), Spec("w", "BYTES", (-1,))


@pytest.mark.parametrize(
    ("content", "number", "word"),
    [
        (Columns({"w": ["a", "b"], "n": [1, None]}), [1.0, NAN], ["a", "b"]),
        (Columns({"w": ["a", None], "n": [1, 2]}), [1.0, 2.0], ["a", None]),
        (Columns({"n": ["1", ""], "w": ["", "8"]}, typed=False), [1.0, NAN], [None, "8"]),
        (Columns({"n": ["x", ""], "w": ["a", "b"]}, typed=False), ["x", None], ["a", "b"]),
        (Columns({"n": ["8010", "1"], "w": ["a", "b"]}), ["8010", "1"], ["a", "b"]),
        (
            Columns({"n": np.array([1, 2]), "w": np.array(["a", None], dtype=object)}),
            [1.0, 2.0],
            ["a", None],
        ),
        (Rows([[1, "a"], [2, "b"]]), [1.0, 2.0], ["a", "b"]),
        (Tensors({"n": np.array([[1], [2]]), "w": ["a", "b"]}), [1.0, 2.0], ["a", "b"]),
    ],
    ids=str,
)
def test_columns_in_the_order_of_the_model(content, number, word):
    """Numbers where all are, text as it is, missing text as None."""
    found = frame_columns(content, [NUMBER, WORD], LIMITS)
    assert list(found) == ["n", "w"]
    assert json.dumps(found["n"].tolist()) == json.dumps(number)
    assert found["n"].dtype == (object if isinstance(number[0], str) else np.float64)
    assert found["w"].tolist() == word


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"b": [3, 4], "a": [1, None]}, [[1.0, NAN], [3.0, 4.0]]),
        ({"a": [True], "b": [2**70]}, [[1.0], [2.0**70]]),
        ({"a": ["1"], "b": [2]}, None),
        ({"a": [1], "b": [2], "c": [3]}, None),
        ({"a": [1], "b": [2, 3]}, None),
        ({"a": [], "b": []}, None),
        ({"a": [{}], "b": [2]}, None),
        ({"a": np.array([1]), "b": [2]}, None),
        ({"a": [0] * 1001, "b": [0] * 1001}, None),
    ],
    ids=lambda each: str(each)[:40],
)
def test_columns_of_numbers_at_once(columns, expected):
    """Only where the long way gives the same."""
    found = number_columns(Columns(columns), ["a", "b"], LIMITS)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert_array(found, "FP64", expected)
    specs = [NUMBER._replace(name="a"), NUMBER._replace(name="b")]
    slow = frame_columns(Columns(columns), specs, LIMITS)
    assert found.tobytes() == np.stack([slow["a"], slow["b"]]).tobytes()


def test_columns_of_text_are_not_taken_for_numbers():
    columns = Columns({"a": ["1"], "b": ["2"]}, typed=False)
    assert number_columns(columns, ["a", "b"], LIMITS) is None


def test_moments_stay_moments():
    moments = np.array(["2026-05-04", "NaT"], "M8[ns]")
    found = frame_columns(Columns({"n": moments, "w": moments}), [NUMBER, WORD], LIMITS)
    assert found["n"] is moments
    assert found["w"] is moments


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (Columns({"n": [1]}), "Missing columns: 'w'. Expected: 'n', 'w'."),
        (
            Columns({"n": [1], "w": ["a"], "v": [1], "u": [2]}),
            "Unknown columns: 'v', 'u'. Expected: 'n', 'w'.",
        ),
        (Columns({"n": [1, 2], "w": ["a"]}), "The columns are not equally long: n 2, w 1."),
        (Columns({}), "The batch is empty: at least one row is expected, with 'n', 'w'."),
        (
            Columns({"n": [1, [2]], "w": ["a", "b"]}),
            "The column 'n' has a list of 1 at [1]; one value in a row is expected.",
        ),
        (
            Columns({"n": [1, 2], "w": ["a", 3]}),
            "The input 'w': at [1] is 3; expected is [any] of BYTES, text.",
        ),
        (
            Tensors({"n": 5, "w": "a"}),
            "The input 'n' is a single value; expected is [any] of FP64.",
        ),
        (Rows([[1]]), "Got 1 values in row 0; rows of 2 values are expected: 'n', 'w'."),
    ],
    ids=str,
)
def test_columns_that_do_not_fit(content, problem):
    with pytest.raises(SchemaMismatch) as caught:
        frame_columns(content, [NUMBER, WORD], LIMITS)
    assert str(caught.value) == problem


def test_a_column_may_be_left_out_where_the_model_says_so():
    specs = [NUMBER, WORD._replace(optional=True)]
    assert list(frame_columns(Columns({"n": [1]}), specs, LIMITS)) == ["n"]


def test_more_rows_than_the_limit_are_too_many_in_each_column():
    few = Limits(2, 10, 10)
    for content in (
        Columns({"n": [1] * 3, "w": ["a"] * 3}),
        Columns({"n": ["x"] * 3, "w": [""] * 3}),
    ):
        with pytest.raises(InputTooLarge, match="3 rows; at most 2"):
            frame_columns(content, [NUMBER, WORD], few)
