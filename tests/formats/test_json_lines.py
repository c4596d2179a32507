"""JSON Lines: each line is one row, and a line that is none is named."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scoring_runtime.errors import InputTooLarge, NotAcceptable, SchemaMismatch, UndecodableInput
from scoring_runtime.formats import json_lines
from scoring_runtime.values.content import Columns, Limits, Rows
from tests.fuzz.mutations import mutated, only_input_errors

LIMITS = Limits(rows=1_000, values=10_000, bytes=1_000_000)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        pytest.param(
            b'{"a": 1, "b": "x"}\n{"a": 2.5, "b": null}\n',
            Columns({"a": [1, 2.5], "b": ["x", None]}),
            id="objects",
        ),
        pytest.param(
            b'{"b": 1}\n{"a": 2}\n{"c": 3, "b": 4}\n',
            Columns({"b": [1, None, 4], "a": [None, 2, None], "c": [None, None, 3]}),
            id="keys in the order of their first line",
        ),
        pytest.param(b'{"a": [1, {"b": 2}]}', Columns({"a": [[1, {"b": 2}]]}), id="nested"),
        pytest.param(b"{}\n{}\n", Columns({}), id="objects without keys"),
        pytest.param(b"[1, 2]\n[3, 4]\n", Rows([[1, 2], [3, 4]]), id="arrays"),
        pytest.param(b"[1]\n[1, 2]\n", Rows([[1], [1, 2]]), id="uneven arrays are rows"),
        pytest.param(b'1\n"x"\nnull\ntrue\n', Rows([1, "x", None, True]), id="scalars"),
        pytest.param(b"\n \n1\r\n\t\n2\n\n", Rows([1, 2]), id="blank lines"),
        pytest.param(b"\xef\xbb\xbf1\n2", Rows([1, 2]), id="byte order mark"),
        pytest.param('"é\u2028ü"\n'.encode(), Rows(["é\u2028ü"]), id="other ends of lines"),
        pytest.param(b"Infinity\n-Infinity", Rows([math.inf, -math.inf]), id="infinity"),
    ],
)
def test_each_line_is_a_row(body: bytes, content: Any) -> None:
    read = json_lines.decode(body, LIMITS)
    assert type(read) is type(content) and read == content


def test_nan_is_read_as_in_json_bodies() -> None:
    content = json_lines.decode(b'{"a": NaN}\n{"a": 1}', LIMITS)
    assert math.isnan(content[0]["a"][0]) and content[0]["a"][1] == 1


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        pytest.param(b"", UndecodableInput, "The JSON Lines body is empty.", id="empty"),
        pytest.param(
            b"1\n\n{a}\n", UndecodableInput, "Line 3 of the JSON Lines body is not", id="no JSON"
        ),
        pytest.param(b"1 2\n", UndecodableInput, "Line 1 of the", id="two values in a line"),
        pytest.param(b"[" * 200_000, InputTooLarge, "of memory once read", id="many lists"),
        pytest.param(b"[" * 5_000, UndecodableInput, "Line 1 of the", id="deep"),
        pytest.param(
            b'{"a": 1}\n\n[1]\n',
            SchemaMismatch,
            "Line 3 of the JSON Lines body is an array; an object is expected, as in the lines",
            id="object, array",
        ),
        pytest.param(b"[1]\n2\n", SchemaMismatch, "a single value; an array", id="array, scalar"),
        pytest.param(b"1\n{}\n", SchemaMismatch, "is an object; a single", id="scalar, object"),
        pytest.param(
            b"".join(b'{"k%d": 1}\n' % n for n in range(101)),
            InputTooLarge,
            "has 10201 values; at most 10000",
            id="a key a line",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    body: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as refused:
        json_lines.decode(body, LIMITS)
    assert message in str(refused.value)


def test_values_within_objects_within_arrays_are_counted() -> None:
    body = b'[{"a": [%s1]}]\n' % (b"1," * 9_999)
    assert type(json_lines.decode(body, LIMITS)) is Rows
    with pytest.raises(InputTooLarge, match="has 10001 values"):
        json_lines.decode(body + b"[1]", LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" + b"[]," * 1_000_000 + b"[]]", id="lists"),
        pytest.param(b"[" + b"{}," * 1_000_000 + b"{}]", id="objects"),
        pytest.param(b"[]\n" * 1_000_000, id="lines"),
        pytest.param(b"".join(b'{"%d":1}\n' % n for n in range(20_000)), id="keys"),
    ],
)
def test_counting_comes_before_memory(body: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InputTooLarge):
        json_lines.decode(body, Limits(rows=100_000, values=100_000, bytes=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


# --- writing --------------------------------------------------------------------------------------


def test_each_row_is_an_object_of_the_outputs() -> None:
    outputs = {
        'a"b': np.array(["a", "żółw", 'x"\n'], dtype=object),
        "proba": np.array([[0.1, 0.9], [0.25, 0.75], [np.nan, 1.0]], np.float32),
        "n": np.array([1, -2, 3]),
        "ok": np.array([True, False, True]),
    }
    assert json_lines.encode(outputs).decode() == (
        '{"a\\"b":"a","proba":[0.1,0.9],"n":1,"ok":true}\n'
        '{"a\\"b":"żółw","proba":[0.25,0.75],"n":-2,"ok":false}\n'
        '{"a\\"b":"x\\"\\n","proba":[null,1.0],"n":3,"ok":true}\n'
    )


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        pytest.param(
            np.array([1.0, np.nan, np.inf, -0.0]), ["1.0", "null", "null", "-0.0"], id="f8"
        ),
        pytest.param(np.arange(6)[::2], ["0", "2", "4"], id="a view"),
        pytest.param(np.zeros((2, 0)), ["[]", "[]"], id="no values"),
        pytest.param(np.zeros((2, 1, 2), int), ["[[0,0]]", "[[0,0]]"], id="3 dimensions"),
        pytest.param(
            np.array(["x", None, b"\xff"], object), ['"x"', "null", '"/w=="'], id="objects"
        ),
        pytest.param(
            np.array(["2024-01-02", "NaT"], "M8[D]"), ['"2024-01-02T00:00:00"', "null"], id="date"
        ),
        pytest.param(np.array(["\ud800"]), ['"\\ud800"'], id="half a pair"),
        pytest.param(np.array(3), ["3"], id="a scalar"),
        pytest.param(np.array([]), [], id="no rows"),
    ],
)
def test_each_type_is_written_as_in_json_answers(values: NDArray[Any], lines: list[str]) -> None:
    written = json_lines.encode({"y": values}).decode()
    assert written.splitlines() == [f'{{"y":{line}}}' for line in lines]


def test_outputs_of_different_lengths_are_not_acceptable() -> None:
    with pytest.raises(NotAcceptable) as refused:
        json_lines.encode({"a": np.zeros(2), "b": np.zeros(3)})
    assert "the outputs are not equally long: a 2, b 3." in str(refused.value)


# --- any table, any body --------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(TEXT, SCALARS), min_size=1, max_size=5))
def test_what_the_standard_library_writes_is_read(records: list[dict[str, Any]]) -> None:
    body = "\n".join(map(json.dumps, records)).encode()
    keys = list(dict.fromkeys(key for record in records for key in record))
    expected = {key: [record.get(key) for record in records] for key in keys}
    content = json_lines.decode(body, LIMITS)
    assert type(content) is Columns
    assert list(content.columns) == keys
    assert repr(content.columns) == repr(expected)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.data(),
)
def test_what_is_written_is_read_to_the_bit(floats: list[float], data: st.DataObject) -> None:
    texts = data.draw(st.lists(TEXT, min_size=len(floats), max_size=len(floats)))
    name = data.draw(TEXT.filter(lambda each: each != "x"))
    outputs = {"x": np.array(floats), name: np.array(texts, dtype=object)}
    content = json_lines.decode(json_lines.encode(outputs), LIMITS)
    assert type(content) is Columns
    assert np.array(content.columns["x"]).tobytes() == np.array(floats).tobytes()
    assert content.columns[name] == texts


SEEDS = [
    b'{"a": 1, "b": "x"}\n{"a": NaN, "b": null}\n',
    b"[1, 2.5]\n[3, 4e300]\n",
    b'1\n"\\ud83d\\ude00"\n123456789012345678901234567890\n',
]


@settings(max_examples=400, deadline=None)
@given(mutated(SEEDS))
def test_a_changed_body_is_read_or_refused_within_memory(body: bytes) -> None:
    only_input_errors(lambda each: json_lines.decode(each, LIMITS), body, 2_000_000)
