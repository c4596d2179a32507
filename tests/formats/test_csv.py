"""CSV (RFC 4180): every record, field and number as it is written, or the record that is wrong."""

from __future__ import annotations

import csv
import io
import math
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from scoring_runtime.errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from scoring_runtime.formats import csv as csv_table
from scoring_runtime.values.content import Columns, Limits, Rows, Spec, TextRows
from scoring_runtime.values.inputs import matrix
from tests.fuzz.mutations import mutated, only_input_errors

LIMITS = Limits(rows=1_000, values=10_000, bytes=1_000_000)


def columns(body: bytes, **options: Any) -> dict[str, list[str]]:
    content = csv_table.decode(body, LIMITS, **options)
    assert type(content) is Columns and content.typed is False
    return content.columns


def rows(body: bytes, **options: Any) -> NDArray[Any]:
    content = csv_table.decode(body, LIMITS, **options)
    assert isinstance(content, Rows)
    values: NDArray[Any] = content.values
    return values


# --- with and without a header --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "names", "is_header"),
    [
        pytest.param(b"age,city\n30,Oslo\n", ("age", "city"), True, id="the names"),
        pytest.param(b"0,1\n5,6\n", ("0", "1"), True, id="names that are numbers"),
        pytest.param(b"years,town\n30,Oslo\n", ("age", "city"), True, id="other names"),
        pytest.param(b"a,b\n1,2\n", (), True, id="no numbers, nothing known"),
        pytest.param(b"30,Oslo\n31,Rome\n", ("age", "city"), False, id="a number"),
        pytest.param(b"a,\n1,2\n", (), False, id="an empty field"),
        pytest.param(b"a, \n1,2\n", (), False, id="a blank field"),
        pytest.param(b"x,y\n\n\n", (), False, id="the only record, then blank lines"),
        pytest.param(b"1_0,x\ny,z\n", (), True, id="digits with an underscore are text"),
        pytest.param(b",a,b\n0,1,x\n", (), True, id="an index"),
        pytest.param(b",Graz,x\n3,Linz,y\n", (), False, id="a missing value and text"),
        pytest.param(b",0,1\n,2,3\n", (), False, id="missing values and numbers"),
        pytest.param(b"0,1\n1,0\n", (), False, id="rows of 0 and 1"),
    ],
)
def test_the_first_record_is_a_header_by_one_rule(
    body: bytes, names: tuple[str, ...], is_header: bool
) -> None:
    content = csv_table.decode(body, LIMITS, names=names)
    assert isinstance(content, Columns if is_header else Rows)


def test_what_the_content_type_says_beats_the_rule() -> None:
    assert columns(b"1,2\n3,4\n", header=True) == {"1": ["3"], "2": ["4"]}
    assert rows(b"a,b\nc,d\n", header=False, names=("a", "b")).tolist() == [["a", "b"], ["c", "d"]]
    assert columns(b"a,b\n", header=True) == {"a": [], "b": []}


def test_columns_keep_their_order_and_every_text_as_it_is() -> None:
    body = b'b,a\n 1 ,007\n"x, ""y""",\n'
    found = columns(body)
    assert list(found) == ["b", "a"]
    assert found == {"b": [" 1 ", 'x, "y"'], "a": ["007", ""]}


def test_long_tables_keep_the_order_of_their_records() -> None:
    limits = Limits(rows=100_000, values=1_000_000, bytes=10_000_000)
    numbers = [str(number) for number in range(70_000)]
    body = "a,b\n" + "\n".join(f"{number},x{number}" for number in numbers)
    content = csv_table.decode(body.encode(), limits)
    assert content[0] == {"a": numbers, "b": [f"x{number}" for number in numbers]}


def test_rows_of_numbers_are_float64_and_empty_fields_nan() -> None:
    read = rows(b'1,2.5,-3e2\n"4", 5 ,\n')
    assert read.dtype == np.float64
    assert np.array_equal(read, [[1, 2.5, -300], [4, 5, math.nan]], equal_nan=True)
    assert read.flags.writeable


def test_rows_are_text_as_soon_as_one_field_is() -> None:
    read = rows(b"1,2\n3,x\n,5\n", header=False)
    assert read.dtype == object
    assert read.tolist() == [["1", "2"], ["3", "x"], ["", "5"]]


@pytest.mark.parametrize("body", [b"1_000\n2\n", b"2\n1_000\n"], ids=["first", "last"])
def test_an_underscore_makes_no_number(body: bytes) -> None:
    assert sorted(rows(body, header=False).reshape(-1)) == ["1_000", "2"]


@pytest.mark.parametrize(
    "text", ["2.2250738585072011e-308", "5e-324", "9007199254740993", "1e400", "-0.0", "inf", "+.5"]
)
def test_numbers_are_rounded_as_python_rounds_them(text: str) -> None:
    (read,) = rows(text.encode(), header=False).reshape(-1)
    assert read.tobytes() == np.float64(float(text)).tobytes()


# --- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("last", [True, False], ids=["with the last", "without the last"])
def test_each_end_of_line_ends_a_record(end: bytes, last: bool) -> None:
    body = end.join([b"a,b", b"1,x", b"2,y"]) + (end if last else b"")
    assert columns(body) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_blank_lines_are_skipped_and_a_quoted_nothing_is_a_missing_value() -> None:
    body = b'\na\n\n1\n""\n\n'
    assert columns(body, names=("a",)) == {"a": ["1", ""]}


def test_quoted_fields_hold_commas_quotes_and_lines() -> None:
    assert columns(b'a,b\n"1,2","x\r\ny ""z"""\n') == {"a": ["1,2"], "b": ['x\r\ny "z"']}


@pytest.mark.parametrize(
    ("charset", "mark"),
    [
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16", b""),
        ("utf-16le", b"\xff\xfe"),
        ("latin1", b""),
        ("windows-1252", b""),
    ],
    ids=str,
)
def test_each_charset_is_read_and_a_byte_order_mark_dropped(charset: str, mark: bytes) -> None:
    body = mark + "größe,n\nü,1\n".encode(charset)
    assert columns(body, charset=charset) == {"größe": ["ü"], "n": ["1"]}


def test_a_byte_order_mark_inside_is_kept() -> None:
    assert columns("a\n\ufeffx\n".encode()) == {"a": ["\ufeffx"]}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"", "The CSV body is empty.", id="empty"),
        pytest.param(b"\r\n\n\n", "The CSV body is empty.", id="blank lines"),
        pytest.param(b'a\n1\n"2\n3\n', "at line 4: unexpected end of data.", id="unclosed quote"),
        pytest.param(b'a\n"1"2\n', "at line 2: ',' expected after '\"'.", id="text after a quote"),
        pytest.param(b"a\n1\n\0\n", "has a NUL character in line 3.", id="NUL"),
        pytest.param(b"a\n" + b"x" * 131_073, "line 2: field larger than field limit", id="field"),
        pytest.param(b"a\n\xff\n", "is not utf-8 soon after line", id="not UTF-8"),
    ],
)
def test_what_is_no_csv_is_named_with_its_line(body: bytes, message: str) -> None:
    with pytest.raises(UndecodableInput) as refused:
        csv_table.decode(body, LIMITS)
    assert message in str(refused.value)


@pytest.mark.parametrize("charset", ["nonsense", "", "zip", "utf-7", "rot13", "utf-32"])
def test_only_known_charsets_are_looked_up(charset: str) -> None:
    with pytest.raises(UndecodableInput) as refused:
        csv_table.decode(b"a\n1\n", LIMITS, charset=charset)
    assert f"The charset {charset!r} of the CSV body is not known. Allowed: utf-8," in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("body", "header", "message"),
    [
        (
            b"a,b\n1,2\n\n3\n",
            True,
            "Record 3 of the CSV body (line 4) has 1 fields; 2 are expected",
        ),
        (b"a,b\n1,2\n\n3\n", True, " are expected, as in the header."),
        (
            b"1,2\n3,4,5\n",
            False,
            "Record 2 of the CSV body (line 2) has 3 fields; 2 are expected, as",
        ),
        (
            b"1,x\n3,4,5\n",
            False,
            "Record 2 of the CSV body (line 2) has 3 fields; 2 are expected, as",
        ),
        (b"1,x\n3,4,5\n", False, " are expected, as in the first record"),
        (b"a,,c\n1,2,3\n", True, "has no name for column 2."),
        (b"a,b,a\n1,2,3\n", True, "has the name 'a' twice; each"),
    ],
    ids=str,
)
def test_records_that_do_not_fit_are_named(body: bytes, header: bool, message: str) -> None:
    with pytest.raises(SchemaMismatch) as refused:
        csv_table.decode(body, LIMITS, header=header)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"12," * 2_000_000, id="one record"),
        pytest.param(b'12,"\n",' * 1_100_000, id="one record of many lines"),
        pytest.param(b"a\n" + b"12\n" * 1_500_000, id="one column"),
        pytest.param(b"xy,z\n" * 1_000_000, id="columns of text"),
    ],
)
def test_counting_comes_before_memory(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InputTooLarge):
        csv_table.decode(body, Limits(rows=1_000, values=500_000, bytes=10_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.parametrize("header", [True, False], ids=["columns", "rows"])
def test_text_may_take_ten_times_the_largest_body_as_objects(header: bool) -> None:
    limits = Limits(rows=1_000_000, values=1_000_000, bytes=1_000)
    assert csv_table.decode(b"x\n" + b"ab\n" * 100, limits, header=header) is not None
    with pytest.raises(InputTooLarge, match=r"10 times SCORING_MAX_BODY_BYTES \(1000\)"):
        csv_table.decode(b"x\n" + b"ab\n" * 200, limits, header=header)


# --- writing --------------------------------------------------------------------------------------


def test_outputs_are_written_as_columns_under_a_header() -> None:
    outputs = {
        "label": np.array(["a,b", 'say "x"', "two\nlines"], dtype=object),
        "proba": np.array([[0.1, 0.9], [0.25, 0.75], [1e-300, 1.0]]),
        "n": np.array([1, -2, 3]),
        "ok": np.array([True, False, True]),
    }
    assert csv_table.encode(outputs) == (
        b"label,proba_0,proba_1,n,ok\r\n"
        b'"a,b",0.1,0.9,1,true\r\n'
        b'"say ""x""",0.25,0.75,-2,false\r\n'
        b'"two\nlines",1e-300,1.0,3,true\r\n'
    )


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        pytest.param(np.array([0.1, np.nan, np.inf, -0.0]), ["0.1", "nan", "inf", "-0.0"], id="f8"),
        pytest.param(np.array([0.1, 1e-45], np.float32), ["0.1", "1e-45"], id="f4"),
        pytest.param(
            np.array([0.1, 65504, 2049], np.float16),
            ["0.099975586", "65504.0", "2048.0"],
            id="f2",
        ),
        pytest.param(np.array([2**64 - 1], np.uint64), ["18446744073709551615"], id="u8"),
        pytest.param(np.array(["2024-01-02", "NaT"], "M8[D]"), ["2024-01-02", ""], id="dates"),
        pytest.param(np.array(["x", None, b"\xff\x00"], object), ["x", "", "/wA="], id="objects"),
        pytest.param(np.array(["ü", ""]), ["ü", ""], id="text"),
        pytest.param(np.array(3), ["3"], id="a scalar"),
    ],
)
def test_each_type_has_its_text(values: NDArray[Any], texts: list[str]) -> None:
    written = csv_table.encode({"y": values}).decode()
    assert [row[0] for row in csv.reader(io.StringIO(written, newline=""))] == ["y", *texts]


THREE = np.zeros((1, 2, 3))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": THREE}, "'y' has the shape [1, 2, 3]; CSV holds at most two dimensions."),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "the outputs are not equally long: a 2, b 3."),
        ({"a": np.zeros((1, 1)), "a_0": np.zeros(1)}, "columns of the CSV would be named 'a_0'."),
        ({"a": np.array(["\ud800"])}, "holds text that CSV cannot"),
    ],
    ids=["3 dimensions", "lengths", "names", "half a pair"],
)
def test_what_csv_cannot_hold_is_not_acceptable(outputs: Any, message: str) -> None:
    with pytest.raises(NotAcceptable) as refused:
        csv_table.encode(outputs)
    assert message in str(refused.value)


# --- any table, any body --------------------------------------------------------------------------

NO_NUL = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAME = st.text(NO_NUL, min_size=1, max_size=8).filter(
    lambda name: name.strip() and name[0] != "\ufeff"
)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_any_floats_come_back_to_the_bit(values: NDArray[Any]) -> None:
    read = rows(csv_table.encode({"y": values}).split(b"\r\n", 1)[1], header=False)
    assert np.array_equal(np.isnan(read), np.isnan(values))
    held = ~np.isnan(values)
    assert read[held].tobytes() == values[held].tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda length: st.dictionaries(
            NAME,
            st.lists(st.text(NO_NUL, max_size=6), min_size=length, max_size=length),
            min_size=1,
        )
    )
)
def test_any_text_comes_back_under_its_name(table: dict[str, list[str]]) -> None:
    outputs = {name: np.array(values, dtype=object) for name, values in table.items()}
    assert columns(csv_table.encode(outputs), header=True) == table


SEEDS = [
    b"a,b\r\n1,x\r\n2,y\r\n",
    b"1,2\n3,4\n",
    b'a,"b ""c"""\n"x\ny",\n',
    "größe,ü\n1,ß\n".encode("utf-16"),
]


@settings(max_examples=400, deadline=None)
@given(
    mutated(SEEDS),
    st.sampled_from([None, True, False]),
    st.sampled_from(["utf-8", "utf-16", "utf-32", "latin1", "gb18030", "shift_jis", "koi8-r"]),
)
def test_a_changed_body_is_read_or_refused_within_memory(
    body: bytes, header: bool | None, charset: str
) -> None:
    only_input_errors(
        lambda each: csv_table.decode(each, LIMITS, header=header, names=("a",), charset=charset),
        body,
        2_000_000,
    )


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize(
    "values", [[[0.5, 1.0], [2.25, float("nan")]], [[0, 1, 5], [2, 1, 0]]], ids=["two", "three"]
)
def test_what_pandas_writes_of_an_array_is_read_as_its_rows(
    values: list[list[float]], index: bool
) -> None:
    """``to_csv`` names columns by their positions, and the index not at all."""
    body = pd.DataFrame(values).to_csv(index=index).encode()
    content = csv_table.decode(body, LIMITS)
    assert isinstance(content, Rows)
    made = matrix(content, Spec("X", "FP64", (-1, -1)), LIMITS)
    assert np.array_equal(made, np.array(values, float), equal_nan=True)


def test_an_index_is_left_out_unless_the_model_knows_it() -> None:
    """``read_csv`` calls it Unnamed: 0, and some models were fitted on it."""
    body = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_csv().encode()
    for known, expected in (
        (("a", "b"), ["a", "b"]),
        (("Unnamed: 0", "a"), ["Unnamed: 0", "a", "b"]),
    ):
        content = csv_table.decode(body, LIMITS, names=known, header=True)
        assert isinstance(content, Columns)
        assert list(content.columns) == expected


def test_numbers_stay_text_for_who_asks() -> None:
    content = csv_table.decode(b"01,2\n", LIMITS, header=False, as_text=True)
    assert isinstance(content, TextRows)
    assert content.values.tolist() == [["01", "2"]]
