"""A script with a schema sees the same value in whatever form the body holds it.

What run() sees for JSON by parameter names, where inference-schema makes the value, is what it has
to see for every other form. About 15 s.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from scoring_runtime import ScoringResponse
from scoring_runtime.errors import (
    InputError,
    InputTooLarge,
    SchemaMismatch,
    UndecodableInput,
)
from scoring_runtime.values.content import DATATYPES
from tests.script import loaded as loaded_script

JSON, CSV, LINES, NPY = "application/json", "text/csv", "application/jsonl", "application/x-npy"
OCTETS = "application/octet-stream"
HEAD = """
import datetime
import numpy as np
import pandas as pd
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema

Numpy, Pandas, Python = NumpyParameterType, PandasParameterType, StandardPythonParameterType
seen = []

def init():
    pass
"""


class Loaded(loaded_script.Loaded):
    """The same, asked with what is sent."""

    def __call__(self, sent: Sent, **headers: str) -> ScoringResponse:
        lines = {"content-type": sent.content_type, **sent.headers, **headers}
        return self.ask(
            sent.body,
            headers=[(k.replace("_", "-").encode(), v.encode()) for k, v in lines.items()],
            path=sent.path,
            query=sent.query,
        )

    def sees(self, sent: Sent) -> Any:
        """What run() is given."""
        self.module.seen.clear()
        self(sent)
        [value] = self.module.seen
        return value


class Sent(NamedTuple):
    """A body and what is said of it."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}
    path: str = "/score"
    query: bytes = b""


def script(types: Mapping[str, str]) -> str:
    """A run() that keeps what it is given."""
    lines = [HEAD]
    lines += [f"@input_schema({name!r}, {each})" for name, each in types.items()]
    names = ", ".join(types)
    given = f"dict({', '.join(f'{name}={name}' for name in types)})" if len(types) > 1 else names
    lines += [f"def run({names}):", f"    seen.append({given})"]
    return "\n".join(lines)


# --- the forms ------------------------------------------------------------------------------------


def as_json(value: Any, content_type: str = JSON) -> Sent:
    return Sent(content_type, json.dumps(value).encode())


def as_npy(array: NDArray[Any]) -> Sent:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return Sent(NPY, out.getvalue())


def as_lines(values: list[Any]) -> Sent:
    return Sent(LINES, "\n".join(map(json.dumps, values)).encode())


def as_csv(rows: list[list[Any]], names: list[str] | None = None) -> Sent:
    """``names`` as its header line."""
    lines = [",".join("" if v is None else str(v) for v in row) for row in rows]
    header = [",".join(names)] if names else []
    said = "present" if names else "absent"
    return Sent(f"{CSV}; header={said}", "\n".join([*header, *lines, ""]).encode())


def tensors(arrays: Mapping[str, NDArray[Any]], **more: Any) -> dict[str, Any]:
    """A V2 request."""
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES.get(str(array.dtype), "BYTES"),
            "shape": list(array.shape),
            "data": array.reshape(-1).tolist(),
        }
        for name, array in arrays.items()
    ]
    return {"inputs": inputs, **more}


def as_v2(arrays: Mapping[str, NDArray[Any]], path: str = "/v2/models/model/infer") -> Sent:
    return as_json(tensors(arrays))._replace(path=path)


def as_v2_binary(arrays: Mapping[str, NDArray[Any]], path: str = "/score") -> Sent:
    request, parts = tensors(arrays), []
    for each, array in zip(request["inputs"], arrays.values(), strict=True):
        if each["datatype"] == "BYTES":
            texts = [str(value).encode() for value in array.reshape(-1)]
            part = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        else:
            part = array.tobytes()
        del each["data"]
        each["parameters"] = {"binary_data_size": len(part)}
        parts.append(part)
    head = json.dumps(request).encode()
    length = {"inference-header-content-length": str(len(head))}
    return Sent(OCTETS, head + b"".join(parts), length, path)


def v2_forms(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Sent]:
    return {
        "V2": as_v2(arrays),
        "V2 at /score": as_v2(arrays, "/score"),
        "V2 binary": as_v2_binary(arrays),
        "V2 binary at its path": as_v2_binary(arrays, "/v2/models/model/infer"),
    }


def array_forms(array: NDArray[Any]) -> dict[str, Sent]:
    """An array in every form that can hold it, for a parameter ``x``."""
    rows = array.tolist()
    forms = {
        "data": as_json({"data": rows}),
        "input_data": as_json({"input_data": rows}),
        "instances": as_json({"instances": rows}),
        "instances by name": as_json({"instances": [{"x": row} for row in rows]}),
        "inputs": as_json({"inputs": rows}),
        "inputs by name": as_json({"inputs": {"x": rows}}),
        "JSON Lines": as_lines(rows),
        "npy": as_npy(array),
        "npy in Fortran's order": as_npy(np.asfortranarray(array)),
        "npy of the other byte order": as_npy(array.astype(array.dtype.newbyteorder(">"))),
    }
    if array.dtype.kind in "biuf":
        forms |= v2_forms({"x": array})
    if array.ndim == 2:
        forms |= matrix_forms(array)
    if array.ndim == 1:
        forms |= vector_forms(array)
    return forms


def matrix_forms(array: NDArray[Any]) -> dict[str, Sent]:
    rows = array.tolist()
    names = [f"c{at}" for at in range(array.shape[1])]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    columns = {name: array[:, at] for at, name in enumerate(names)}
    forms = {
        "dataframe_split": as_json({"dataframe_split": {"columns": names, "data": rows}}),
        "dataframe_split without names": as_json({"dataframe_split": {"data": rows}}),
        "dataframe_records": as_json({"dataframe_records": records}),
        "inputs of columns": as_json({"inputs": {name: v.tolist() for name, v in columns.items()}}),
        "JSON Lines of objects": as_lines(records),
        "CSV": as_csv(rows),
        "CSV with a header": as_csv(rows, names),
    }
    return forms


def vector_forms(array: NDArray[Any]) -> dict[str, Sent]:
    rows = [[value] for value in array.tolist()]
    return {
        "dataframe_split": as_json({"dataframe_split": {"columns": ["c"], "data": rows}}),
        "dataframe_split without names": as_json({"dataframe_split": {"data": rows}}),
        "dataframe_records": as_json({"dataframe_records": [{"c": row[0]} for row in rows]}),
        "JSON Lines of objects": as_lines([{"c": row[0]} for row in rows]),
        "CSV": as_csv(rows),
        "CSV with a header": as_csv(rows, ["c"]),
        "npy of one column": as_npy(array[:, np.newaxis]),
    }


# --- arrays ---------------------------------------------------------------------------------------

F8 = np.array([[0.1, 2.0], [-3.5, 4e300], [1e-9, 0.0]])
ARRAYS: dict[str, tuple[str, NDArray[Any]]] = {
    "1-D float64": ("Numpy(np.array([0.5, 1.5]))", F8[:, 0]),
    "1-D int64": ("Numpy(np.array([1, 2]))", np.array([1, -2, 2**53 - 1])),
    "1-D text": ("Numpy(np.array(['a']))", np.array(["x", "yyy", "zäz"])),
    "1-D bool": ("Numpy(np.array([True]))", np.array([True, False, True])),
    "2-D float64": ("Numpy(np.array([[0.5, 1.5]]))", F8),
    "2-D float32": (
        "Numpy(np.array([[0.5, 1.5]], dtype='float32'))",
        np.array([[0.1, 2.0], [-3.5, 4e30]], dtype="float32"),
    ),
    "2-D int64": ("Numpy(np.array([[1, 2]]))", np.array([[1, -2], [3, 2**53 - 1]])),
    "2-D of one column": ("Numpy(np.array([[1.0]]))", np.array([[1.5], [2.5]])),
    "2-D text": ("Numpy(np.array([['a', 'b']]))", np.array([["x", "y"], ["zz", "ä"]])),
    "3-D float64": ("Numpy(np.zeros((1, 2, 3)))", np.arange(24.0).reshape(4, 2, 3) / 7),
    "any shape": ("Numpy(np.zeros((1, 2)), enforce_shape=False)", np.arange(12.0).reshape(2, 6)),
    "any type, floats": ("Numpy(np.array([[1, 2]]), enforce_column_type=False)", F8),
}


def cases_of(table: Mapping[str, Any], forms: Callable[[Any], dict[str, Sent]]) -> list[Any]:
    return [
        pytest.param(declared, value, sent, id=f"{name}: {form}")
        for name, (declared, value) in table.items()
        for form, sent in forms(value).items()
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    """``loaded(source)``: each source once."""
    folder, numbers = tmp_path_factory.mktemp("scripts"), itertools.count()
    known: dict[str, Loaded] = {}

    def of(source: str) -> Loaded:
        if source not in known:
            path = folder / f"{next(numbers)}" / "score.py"
            path.parent.mkdir()
            path.write_text(source, encoding="utf-8")
            known[source] = Loaded(path)
        return known[source]

    return of


@pytest.mark.parametrize(("declared", "array", "sent"), cases_of(ARRAYS, array_forms))
def test_run_sees_the_array_that_it_sees_for_json_by_name(
    loaded: Callable[..., Loaded], declared: str, array: NDArray[Any], sent: Sent
):
    """The same dtype, shape, order in memory and values, and it may be written to."""
    calls = loaded(script({"x": declared}))
    named, seen = calls.sees(as_json({"x": array.tolist()})), calls.sees(sent)
    assert (seen.dtype, seen.shape) == (named.dtype, named.shape)
    assert seen.tobytes() == named.tobytes()
    assert seen.flags.c_contiguous
    assert seen.flags.writeable


@pytest.mark.parametrize("nested", [False, True])
def test_text_longer_than_the_sample_s_stays_whole(loaded: Callable[..., Loaded], nested: bool):
    """numpy would cut it to the sample's length, and say nothing."""
    declared, given = "Numpy(np.array(['ab']))", ["abcdef", "gh"]
    if nested:
        calls = loaded(script({"x": f"Python({{'t': {declared}}})"}))
        assert calls.sees(as_json({"x": {"t": given}}))["t"].tolist() == given
    else:
        calls = loaded(script({"x": declared}))
        assert calls.sees(as_json({"x": given})).tolist() == given
        with pytest.raises(SchemaMismatch, match=r"an array of text with the shape \(any\)"):
            calls(as_json({"x": [given]}))


def test_integers_keep_all_their_digits(loaded: Callable[..., Loaded]):
    """Floats hold 53 bits only."""
    array = np.array([[2**53 + 1, -(2**63)], [2**63 - 1, 0]])
    calls = loaded(script({"x": "Numpy(np.array([[1, 2]]))"}))
    forms = array_forms(array)
    for form in ("input_data", "JSON Lines", "npy", "dataframe_records", "CSV with a header", "V2"):
        assert calls.sees(forms[form]).tolist() == array.tolist(), form


# --- data frames ----------------------------------------------------------------------------------

PLAIN = {"size": [0.1, -2.5, 4e300], "petals": [3, -1, 2**53 - 1]}
MIXED = {**PLAIN, "name": ["rose", "tülip, red", 'a "b"'], "fresh": [True, False, True]}
GAPS = {"size": [0.1, None, 3.0], "name": ["rose", None, "tulip"]}
DAYS = {"day": ["2024-05-01", "1999-12-31", "2024-02-29"], "size": [1.0, 2.0, 3.0]}
FRAME = "Pandas(pd.DataFrame({}){})"
MIXED_SAMPLE = "{'size': [1.5], 'petals': [3], 'name': ['rose'], 'fresh': [True]}"
PLAIN_SAMPLE = "{'size': [1.5], 'petals': [3]}"
DAYS_SAMPLE = "{'day': pd.to_datetime(['2024-01-01']), 'size': [1.5]}"
FRAMES: dict[str, tuple[str, Any]] = {
    "numbers": (FRAME.format(PLAIN_SAMPLE, ""), PLAIN),
    "mixed": (FRAME.format(MIXED_SAMPLE, ""), MIXED),
    "missing values": (FRAME.format("{'size': [1.5], 'name': ['rose']}", ""), GAPS),
    "dates": (FRAME.format(DAYS_SAMPLE, ""), DAYS),
    "nullable integers": (
        "Pandas(pd.DataFrame({'n': pd.array([1], dtype='Int64')}))",
        {"n": [1, 2, -3]},
    ),
    "categories": (
        "Pandas(pd.DataFrame({'c': pd.Categorical(['a', 'b']), 'n': pd.Categorical([1, 2])}))",
        {"c": ["b", "a", "b"], "n": [2, 1, 1]},
    ),
    "one column": (FRAME.format("{'size': [1.5]}", ""), {"size": [0.5, 1.5]}),
    "names that are numbers": ("Pandas(pd.DataFrame([[1.5, 2.5]]))", {"0": [0.5], "1": [1.5]}),
    "names put on": (
        FRAME.format(PLAIN_SAMPLE, ", apply_column_names=True"),
        {"a": [0.5, 1.5], "b": [1, 2]},
    ),
    "types not enforced": (FRAME.format(MIXED_SAMPLE, ", enforce_column_type=False"), MIXED),
    "shape not enforced": (FRAME.format(MIXED_SAMPLE, ", enforce_shape=False"), PLAIN),
}


def numpy_columns(columns: Mapping[str, list[Any]]) -> dict[str, NDArray[Any]]:
    made = {name: np.array(values) for name, values in columns.items()}
    return {name: v.astype(object) if v.dtype.kind == "U" else v for name, v in made.items()}


def frame_forms(columns: Mapping[str, list[Any]]) -> dict[str, Sent]:
    """A table in every form that can hold it."""
    names = list(columns)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    named = {"columns": names, "data": rows}
    quoted = [[f'"{v.replace(chr(34), 2 * chr(34))}"' if isinstance(v, str) else v for v in row]
              for row in rows]  # fmt: skip
    forms = {
        "dataframe_split": as_json({"dataframe_split": named}),
        "dataframe_records": as_json({"dataframe_records": records}),
        "input_data as split": as_json({"input_data": named}),
        "input_data as records": as_json({"input_data": records}),
        "instances of objects": as_json({"instances": records}),
        "inputs of columns": as_json({"inputs": columns}),
        "JSON Lines of objects": as_lines(records),
        "CSV with a header": as_csv(quoted, names),
    }
    if not any(value is None for row in rows for value in row):
        forms |= v2_forms(numpy_columns(columns))
    return forms


def row_forms(columns: Mapping[str, list[Any]]) -> dict[str, Sent]:
    """The forms without names: the columns are in the order of the sample."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    forms = {
        "data": as_json({"data": rows}),
        "input_data": as_json({"input_data": rows}),
        "instances": as_json({"instances": rows}),
        "inputs": as_json({"inputs": rows}),
        "JSON Lines": as_lines(rows),
        "dataframe_split without names": as_json({"dataframe_split": {"data": rows}}),
    }
    if all(isinstance(value, int | float) for row in rows for value in row):
        forms["CSV"] = as_csv(rows)
        forms["npy"] = as_npy(np.array(rows, dtype=float))
    return forms


def all_frame_forms(columns: Mapping[str, list[Any]]) -> dict[str, Sent]:
    return frame_forms(columns) | ({} if columns is PLAIN else row_forms(columns))


@pytest.mark.filterwarnings("ignore:apply_column_names:DeprecationWarning")
@pytest.mark.parametrize(("declared", "columns", "sent"), cases_of(FRAMES, all_frame_forms))
def test_run_sees_the_table_that_it_sees_for_json_by_name(
    loaded: Callable[..., Loaded],
    declared: str,
    columns: dict[str, list[Any]],
    sent: Sent,
):
    """The same columns, in order, their types and values."""
    calls = loaded(script({"table": declared}))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    named, seen = calls.sees(as_json({"table": rows})), calls.sees(sent)
    pd.testing.assert_frame_equal(seen, named, check_exact=True, check_column_type=True)
    seen.iloc[0, 0] = seen.iloc[-1, 0]  # as from JSON, it may be written to


@pytest.mark.parametrize("orient", ["records", "split", "values", "index", "columns"])
def test_the_orient_of_json_by_name_matters_to_no_other_form(
    loaded: Callable[..., Loaded], orient: str
):
    calls = loaded(script({"table": FRAME.format(PLAIN_SAMPLE, f", orient={orient!r}")}))
    frame = pd.DataFrame({"size": [0.5, 1.5], "petals": [3, 4]})
    by_name = as_json({"table": json.loads(frame.to_json(orient=orient))})
    named = calls.sees(by_name)
    if orient == "values":  # without names, the library has no types for the columns
        frame = named
    pd.testing.assert_frame_equal(named.reset_index(drop=True), frame, check_index_type=False)
    for form, sent in frame_forms({"size": [0.5, 1.5], "petals": [3, 4]}).items():
        pd.testing.assert_frame_equal(calls.sees(sent), frame, obj=form)


def test_columns_beyond_the_sample_come_last_where_the_shape_is_not_enforced(
    loaded: Callable[..., Loaded],
):
    """Those of the sample are told by their names, and come in its order."""
    calls = loaded(script({"table": FRAME.format(PLAIN_SAMPLE, ", enforce_shape=False")}))
    for form, sent in frame_forms({"own": ["x"], "petals": [3], "size": [0.5]}).items():
        assert list(calls.sees(sent).columns) == ["size", "petals", "own"], form


def test_moments_with_and_without_a_zone_and_durations(loaded: Callable[..., Loaded]):
    sample = (
        "{'t': pd.to_datetime(['2024-01-01']), 'z': pd.to_datetime(['2024-01-01'], utc=True),"
        " 'd': pd.to_timedelta(['1 days'])}"
    )
    calls = loaded(script({"table": FRAME.format(sample, "")}))
    moment = pd.Timestamp("2024-05-01T10:11:12.000013").to_pydatetime()
    texts = [moment.isoformat(), "2024-05-01T12:11:12.000013+02:00", "2 days 00:00:01"]
    named = calls.sees(as_json({"table": [dict(zip("tzd", texts, strict=True))]}))
    assert [str(kind.kind) for kind in named.dtypes] == ["M", "M", "m"]
    for sent in (as_csv([texts], list("tzd")), as_lines([texts])):
        pd.testing.assert_frame_equal(calls.sees(sent), named)


# --- Python's own types ---------------------------------------------------------------------------

PEOPLE = [{"name": "a", "age": 3}, {"name": "ö", "age": 4}]
PERSON = {"name": "x", "age": 4, "sizes": [1.5, 2.5]}
ROSE = {"name": "x", "age": 4, "size": 1.0, "fresh": False}
TEXTS = ["b", "1", "ö"]
AS_ARRAYS = {
    "name": np.array(["x"], dtype=object),
    "age": np.array([4]),
    "sizes": np.array([1.5, 2.5]),
}
NESTED = {"a": {"b": [1, 2]}, "c": [{"d": 2}]}
SENT: dict[str, tuple[str, Any, dict[str, Sent]]] = {
    "object": (
        "Python({'name': 'n', 'age': 3, 'sizes': [1.0]})",
        PERSON,
        {
            "input_data": as_json({"input_data": PERSON}),
            "inputs": as_json({"inputs": {"name": ["x"], "age": [4], "sizes": [1.5, 2.5]}}),
            "V2": as_v2(AS_ARRAYS),
            "V2 binary": as_v2_binary(AS_ARRAYS),
        },
    ),
    "object of scalars": (
        "Python({'name': 'n', 'age': 3, 'size': 0.5, 'fresh': True})",
        ROSE,
        {
            "dataframe_records": as_json({"dataframe_records": [ROSE]}),
            "CSV": as_csv([["x", 4, 1.0, "false"]], [*ROSE]),
        },
    ),
    "nested object": (
        "Python({'a': {'b': [1]}, 'c': [{'d': 1}]})",
        NESTED,
        {"input_data": as_json({"input_data": NESTED})},
    ),
    "list of objects": (
        "Python([{'name': 'n', 'age': 3}])",
        PEOPLE,
        {
            "input_data": as_json({"input_data": PEOPLE}),
            "dataframe_split": as_json(
                {"dataframe_split": {"columns": ["name", "age"], "data": [["a", 3], ["ö", 4]]}}
            ),
            "JSON Lines": as_lines(PEOPLE),
            "CSV": as_csv([["a", 3], ["ö", 4]], ["name", "age"]),
            "V2": as_v2({"name": np.array(["a", "ö"], dtype=object), "age": np.array([3, 4])}),
        },
    ),
    "list of lists": (
        "Python([[1, 2]])",
        [[1, 2], [3, 4]],
        array_forms(np.array([[1, 2], [3, 4]])),
    ),
    "list of numbers": ("Python([1.5])", [1.5, 2.0], array_forms(np.array([1.5, 2.0]))),
    "list of texts": (
        "Python(['a'])",
        TEXTS,
        {
            "input_data": as_json({"input_data": TEXTS}),
            "CSV": as_csv([[each] for each in TEXTS], ["any"]),
            "CSV without a header": as_csv([[each] for each in TEXTS]),
            "npy": as_npy(np.array(TEXTS)),
            "V2": as_v2({"x": np.array(TEXTS, dtype=object)}),
        },
    ),
    "text": (
        "Python('a')",
        "b ö",
        {
            "input_data": as_json({"input_data": "b ö"}),
            "JSON Lines": as_lines(["b ö"]),
            "CSV": as_csv([["b ö"]]),
            "V2": as_v2({"x": np.array(["b ö"], dtype=object)}),
        },
    ),
    "integer": (
        "Python(1)",
        7,
        {
            "CSV": as_csv([[7]], ["x"]),
            "npy": as_npy(np.array([7.0])),
            "V2": as_v2({"x": np.array([7])}),
        },
    ),
    "number": ("Python(0.5)", 7.5, {"CSV": as_csv([[7.5]], ["x"])}),
    "boolean": (
        "Python(True)",
        False,
        {"CSV": as_csv([["false"]], ["x"]), "npy": as_npy(np.array([False]))},
    ),
    "arrays inside": (
        "Python({'x': Numpy(np.array([[1.0, 2.0]])), 'n': 1})",
        {"x": [[1.5, 2.0]], "n": 2},
        {"V2": as_v2({"x": np.array([[1.5, 2.0]]), "n": np.array([2])})},
    ),
}


def described(value: Any) -> Any:
    """A value with the types of everything in it."""
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    if isinstance(value, list):
        return [described(each) for each in value]
    return type(value).__name__, value


@pytest.mark.parametrize(
    ("declared", "value", "sent"),
    [
        pytest.param(declared, value, sent, id=f"{name}: {form}")
        for name, (declared, value, forms) in SENT.items()
        for form, sent in forms.items()
    ],
)
def test_run_sees_the_python_value_that_it_sees_for_json_by_name(
    loaded: Callable[..., Loaded], declared: str, value: Any, sent: Sent
):
    calls = loaded(script({"x": declared}))
    assert described(calls.sees(sent)) == described(calls.sees(as_json({"x": value})))


# --- several parameters ---------------------------------------------------------------------------

TWO = {"a": "Numpy(np.array([[1.0, 2.0]]))", "b": "Numpy(np.array([1]))", "name": "Python('n')"}
A, B = np.array([[1.5, 2.0], [3.0, 4.0]]), np.array([5, 6])
NAMED = {"a": A.tolist(), "b": B.tolist(), "name": "ö"}
TEXT = np.array(["ö"], dtype=object)


@pytest.mark.parametrize(
    "sent",
    [
        as_v2({"name": TEXT, "b": B, "a": A}),
        as_v2_binary({"a": A, "b": B, "name": TEXT}),
        as_json({"inputs": NAMED}),
        as_json({"inputs": A.tolist(), "params": {"b": [5, 6], "name": "ö"}}),
        as_json({"dataframe_split": {"data": A.tolist()}, "b": [5, 6], "name": "ö"}),
        as_json({"input_data": A.tolist(), "params": {"b": [5, 6]}, "name": "ö"}),
        as_json(tensors({"a": A}, parameters={"name": "ö"}))._replace(query=b"b=[5,6]"),
        as_npy(A)._replace(query=b"b=[5,6]&name=%C3%B6"),
    ],
)
def test_several_parameters_by_name_and_beside_the_data(loaded: Callable[..., Loaded], sent: Sent):
    """Arrays by their names; else data go to the first array, others come from ``params``, V2
    parameters, the object's own keys or the query."""
    calls = loaded(script(TWO))
    assert described(calls.sees(sent)) == described(calls.sees(as_json(NAMED)))


def test_a_table_and_other_parameters(loaded: Callable[..., Loaded]):
    calls = loaded(script({"n": "Python(1)", "table": FRAME.format(PLAIN_SAMPLE, "")}))
    columns = {"size": np.array([0.5, 1.5]), "petals": np.array([3, 4])}
    for sent in (
        as_v2({"n": np.array([7]), **columns}),
        as_v2(columns)._replace(query=b"n=7"),
        as_json({"dataframe_records": pd.DataFrame(columns).to_dict("records"), "n": 7}),
        as_json({"inputs": {name: each.tolist() for name, each in columns.items()} | {"n": 7}}),
    ):
        seen = calls.sees(sent)
        assert seen["n"] == 7
        pd.testing.assert_frame_equal(seen["table"], pd.DataFrame(columns))


@pytest.mark.parametrize(
    ("sent", "error", "message"),
    [
        (as_npy(A), UndecodableInput, "^A value is not provided for the 'b' parameter. Data of"),
        (as_v2({"a": A, "name": TEXT}), UndecodableInput, "for the 'b' parameter"),
        (
            as_v2({"a": A, "b": B, "c": B}),
            SchemaMismatch,
            "^Unknown inputs: 'c'. Expected: 'a', 'b', 'name'.$",
        ),
        (
            as_v2({"a": A, "b": A.astype(int), "name": TEXT}),
            SchemaMismatch,
            r"^The input 'b' has the shape \[2, 2\]; expected is \[any\] of INT64.$",
        ),
    ],
)
def test_what_is_missing_or_unknown_is_named(
    loaded: Callable[..., Loaded], sent: Sent, error: type[InputError], message: str
):
    calls = loaded(script(TWO))
    with pytest.raises(error, match=message):
        calls(sent)


def numbers(response: ScoringResponse) -> Any:
    """The result, plain or V2."""
    assert isinstance(response.body, bytes)
    value = json.loads(response.body)
    if isinstance(value, list):
        return value
    [output] = value["outputs"]
    return np.array(output["data"]).reshape(output["shape"]).tolist()


OPTIONAL = f"""{HEAD}
@input_schema("x", Numpy(np.array([[1.0, 2.0]])))
@input_schema("factor", Python(1.5), optional=True)
{{}} run(x, factor=None, request_headers=None, note="none"):
    seen.append((x.tolist(), factor, (request_headers or {{{{}}}}).get("X-Own"), note))
    return (x * (factor or 1)).tolist()
"""


@pytest.mark.parametrize("run", ["def", "async def"])
@pytest.mark.parametrize(
    ("sent", "factor", "note"),
    [
        (as_json({"x": [[1, 2]]}), None, "none"),
        (as_json({"x": [[1, 2]], "factor": 3.0, "note": "n"}), 3.0, "n"),
        (as_json({"input_data": [[1, 2]], "factor": 3.0}), 3.0, "none"),
        (as_json({"instances": [[1, 2]], "params": {"factor": 3, "note": "n"}}), 3, "n"),
        (as_csv([[1, 2]]), None, "none"),
        (as_csv([[1, 2]])._replace(query=b"factor=3.0&note=n"), 3.0, "n"),
        (as_v2({"x": np.array([[1.0, 2.0]])}), None, "none"),
        (as_v2({"x": np.array([[1.0, 2.0]]), "factor": np.array([3.0])}), 3.0, "none"),
    ],
)
def test_optional_parameters_defaults_and_headers(
    loaded: Callable[..., Loaded], run: str, sent: Sent, factor: float | None, note: str
):
    calls = loaded(OPTIONAL.format(run))
    calls.module.seen.clear()
    response = calls(sent, x_own="yes")
    assert calls.module.seen == [([[1.0, 2.0]], factor, "yes", note)]
    assert numbers(response) == ([[3.0, 6.0]] if factor else [[1.0, 2.0]])


def test_where_every_parameter_has_a_default_other_kinds_are_still_seen(
    loaded: Callable[..., Loaded],
):
    source = f"""{HEAD}
@input_schema("x", Numpy(np.array([[1.0, 2.0]])), optional=True)
def run(x=None, y=1):
    seen.append((None if x is None else x.tolist(), y))
"""
    calls = loaded(source)
    assert calls.sees(as_json({"instances": [[1, 2]]})) == ([[1.0, 2.0]], 1)
    assert calls.sees(as_json({"instances": [[1, 2]], "y": 2})) == ([[1.0, 2.0]], 2)
    assert calls.sees(as_json({"x": [[1, 2]], "instances": [[3, 4]]})) == ([[1.0, 2.0]], 1)
    assert calls.sees(as_json({})) == (None, 1)
    assert calls.sees(as_json({"own": 1})) == (None, 1)
    assert calls.sees(as_json({"y": 2})) == (None, 2)


def test_optional_arrays_and_tables(loaded: Callable[..., Loaded]):
    """The library asks whether they are true, which an array or a table does not answer."""
    source = f"""{HEAD}
@input_schema("x", Numpy(np.array([[1.0, 2.0]], dtype="float32")), optional=True)
@input_schema("t", Pandas(pd.DataFrame({{"d": pd.to_datetime(["2024-01-01"]), "n": [1.5]}}),
              orient="ORIENT"), optional=True)
def run(x=None, t=None):
    seen.append((x, t))
"""
    frame = pd.DataFrame({"d": pd.to_datetime(["2024-05-01", None]), "n": [0.5, None]})
    records = [{"d": "2024-05-01", "n": 0.5}, {"d": None, "n": None}]
    for orient in ("records", "split", "index", "columns"):
        calls = loaded(source.replace("ORIENT", orient))
        x, t = calls.sees(as_json({"inputs": A.tolist(), "n": 1}))
        assert (x.dtype, x.tolist(), t) == (np.float32, A.tolist(), None)
    table = source.replace("x=None, t=None", "t=None").replace("(x, t)", "t")
    table = table.replace('@input_schema("x", Numpy', "#")
    for orient in ("records", "split", "index", "columns"):
        calls = loaded(table.replace("ORIENT", orient))
        seen = calls.sees(as_json({"dataframe_records": records})).reset_index(drop=True)
        pd.testing.assert_frame_equal(seen, frame, check_index_type=False, check_dtype=False)


def test_what_the_library_is_not_to_convert_stays_json(loaded: Callable[..., Loaded]):
    source = f"""{HEAD}
@input_schema("x", Numpy(np.array([[1.0, 2.0]])), convert_to_provided_type=False)
def run(x):
    seen.append(x)
"""
    calls = loaded(source)
    for form, sent in array_forms(A).items():
        assert described(calls.sees(sent)) == described(A.tolist()), form


@pytest.mark.parametrize("kind", ["data", "inputs", "instances", "input_data"])
def test_a_parameter_named_like_a_kind_is_that_parameter(loaded: Callable[..., Loaded], kind: str):
    calls = loaded(script({kind: "Python([[1]])"}))
    assert calls.sees(as_json({kind: [[1], [2]]})) == [[1], [2]]
    v2 = tensors({kind: np.array([[1]])})
    if kind == "inputs":
        assert calls.sees(as_json(v2)) == v2["inputs"]
    else:
        assert calls.sees(as_json(v2)) == [[1]]
    assert calls.sees(as_json(v2)._replace(path="/v2/models/model/infer")) == [[1]]


def test_a_script_with_an_output_schema_alone_takes_json_by_name_only(
    loaded: Callable[..., Loaded],
):
    calls = loaded(
        f"{HEAD}\n@output_schema(Numpy(np.array([1.0])))\ndef run(x):\n    seen.append(x)"
    )
    assert calls.sees(as_json({"x": [[1], "a"]})) == [[1], "a"]
    for sent in (as_csv([[1]]), as_npy(A), as_v2({"x": A})):
        with pytest.raises(UndecodableInput, match=r"^run\(\) declares no @input_schema"):
            calls(sent)
    with pytest.raises(UndecodableInput, match=r"for the 'x' parameter\.$"):
        calls(as_json({"instances": [[1]]}))


# --- what does not fit ----------------------------------------------------------------------------

MATRIX = {"x": "Numpy(np.array([[1.0, 2.0]]))"}
INTEGERS = {"x": "Numpy(np.array([[1, 2]]))"}
TABLE = {"table": FRAME.format(MIXED_SAMPLE, "")}
ROW = {"size": 1.5, "petals": 3, "name": "n", "fresh": True}
COLUMNS = "'size', 'petals', 'name', 'fresh'"
WIDE = r"The input 'x' has the shape \[1, 3\]; expected is \[any, 2\] of FP64"
OF_X = "^The value of the 'x' parameter does not fit its schema: expected an array of"
OF_TABLE = "^The value of the 'table' parameter does not fit .* a data frame as records with"
LISTS = rf"{OF_X} float64 with the shape \(any, 2\), got a list of"


def without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


MISFITS: list[tuple[str, Mapping[str, str], Sent, str]] = [
    ("wide rows", MATRIX, as_json({"input_data": [[1, 2, 3]]}), rf"{LISTS} 1 x 3 \(int inside\)"),
    ("wide npy", MATRIX, as_npy(np.zeros((1, 3))), WIDE),
    ("wide CSV", MATRIX, as_csv([[1, 2, 3]]), WIDE),
    ("wide V2", MATRIX, as_v2({"x": np.zeros((1, 3))}), WIDE),
    ("wide table", MATRIX, as_csv([[1, 2, 3]], ["a", "b", "c"]), f"{LISTS} 1 x 3"),
    ("deep", MATRIX, as_npy(np.zeros((1, 2, 2))),
     r"the shape \[1, 2, 2\]; expected is \[any, 2\]"),
    ("ragged", MATRIX, as_lines([[1, 2], [3]]), LISTS),
    ("text", MATRIX, as_json({"input_data": [[1, "a"]]}), f"{LISTS}.* to float: 'a'"),
    ("text in CSV", MATRIX, as_csv([[1, "a"]]), r"The input 'x': at \[0\]\[1\] is text 'a'"),
    ("text in a column", MATRIX, as_csv([[1, "a"]], ["p", "q"]),
     r"The input 'q': at \[0\] is text 'a'"),
    ("fraction in CSV", INTEGERS, as_csv([[1.5, 2]], ["p", "q"]), r"'p'.*'1\.5'.*INT64"),
    ("missing in CSV", INTEGERS, as_csv([[None, 2]], ["p", "q"]), r"The input 'p'.*INT64"),
    ("complex", MATRIX, as_npy(np.array([[1j, 2]])), "'x'.*complex128"),
    ("no rows", MATRIX, as_json({"input_data": []}), f"{LISTS} 0"),
    ("no rows in npy", MATRIX, as_npy(np.zeros((0, 2))), r"The batch is empty \(x\)"),
    ("table for a vector", {"x": "Numpy(np.array([1.0]))"}, as_csv([[1, 2]], ["a", "b"]),
     rf"{OF_X} float64 with the shape \(any\), got a list of 1 x 2"),
    (
        "missing column",
        TABLE,
        as_json({"dataframe_records": [without(ROW, "name")]}),
        f"^Missing columns: 'name'. Expected: {COLUMNS}.$",
    ),
    (
        "misspelt column",
        TABLE,
        as_csv([[1.5, 3, "n", "true"]], ["size", "petal", "name", "fresh"]),
        f"^Missing columns: 'petals'. Unknown columns: 'petal'. Expected: {COLUMNS}.$",
    ),
    ("text in floats", TABLE, as_lines([{**ROW, "size": "big"}]), f"{OF_TABLE}.*'big'"),
    ("null in integers", TABLE, as_lines([{**ROW, "petals": None}]), f"{OF_TABLE}.*'petals'"),
    ("wide rows of a table", TABLE, as_json({"input_data": [[1, 2]]}),
     f"Got 2 values in row 0; rows of 4 values are expected: {COLUMNS}"),
    ("wide npy of a table", TABLE, as_npy(np.zeros((2, 3))),
     f"Got shape \\(2, 3\\); rows of 4 values are expected: {COLUMNS}"),
    ("no day", {"table": FRAME.format(DAYS_SAMPLE, "")}, as_lines([{"day": "soon", "size": 1}]),
     f"{OF_TABLE} the columns day.*: soon"),
    ("columns of other lengths", TABLE,
     as_v2({"size": np.zeros(2), "petals": np.zeros(1, int), "name": np.array(["a"], object),
            "fresh": np.array([True])}),
     "'size' 2, 'petals' 1"),
    ("rows for an object", {"x": "Python({'a': 1})"}, as_npy(A),
     "^The parameter 'x' takes an object with 'a'; got rows without names.$"),
    ("two rows for an object", {"x": "Python({'a': 1})"}, as_lines([{"a": 1}, {"a": 2}]),
     "^'a' takes one value, such as 1; got 2.$"),
    ("two values for one", {"x": "Python('a')"}, as_lines(["a", "b"]),
     "^The parameter 'x' takes one value, such as text 'a'; got 2.$"),
    ("a table for a list", {"x": "Python([1])"}, as_csv([[1, 2]], ["a", "b"]),
     "^The parameter 'x' takes a list of single values; got a table of 2 columns.$"),
    ("another type", {"x": "Python(1)"}, as_json({"input_data": "a"}),
     "The value of the 'x' parameter does not fit its schema: expected a value of type int"),
    ("text in a list of numbers", {"x": "Python([1])"}, as_csv([["a"]], ["c"]),
     r"The input 'x': at \[0\] is text 'a'.*INT64"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("types", "sent", "message"),
    [pytest.param(*case, id=name) for name, *case in MISFITS],
)
def test_a_misfit_names_the_place_what_is_there_and_what_is_expected(
    loaded: Callable[..., Loaded], types: Mapping[str, str], sent: Sent, message: str
):
    calls = loaded(script(types))
    calls.module.seen.clear()
    with pytest.raises(SchemaMismatch, match=message):
        calls(sent)
    assert calls.module.seen == []


DECLARED: dict[str, str] = {
    name: each[0] for table in (ARRAYS, FRAMES, SENT) for name, each in table.items()
}


@pytest.fixture(scope="module")
def every_form() -> dict[str, Sent]:
    """Every form of every value of the tables above."""
    tables: list[tuple[Mapping[str, Any], Callable[[Any], dict[str, Sent]]]] = [
        (ARRAYS, array_forms),
        (FRAMES, all_frame_forms),
        ({name: (types, forms) for name, (types, _, forms) in SENT.items()}, dict),
    ]
    return {
        f"{name}: {form}": sent
        for table, forms in tables
        for name, (_, value) in table.items()
        for form, sent in forms(value).items()
    }


@pytest.mark.filterwarnings("ignore:apply_column_names:DeprecationWarning")
@pytest.mark.parametrize("declared", DECLARED)
def test_whatever_comes_is_scored_or_the_client_s_fault(
    loaded: Callable[..., Loaded], every_form: dict[str, Sent], declared: str
):
    calls = loaded(script({"x": DECLARED[declared]}))
    broken = {}
    for form, sent in every_form.items():
        try:
            calls(sent)
        except InputError as error:
            assert str(error)
        except Exception as error:
            broken[form] = repr(error)
    assert len(every_form) > 400
    assert broken == {}


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b'{"y": 1}', UndecodableInput, "A value is not provided for the 'x' parameter."),
        (b'{"params": {}}', UndecodableInput, "A value is not provided for the 'x' parameter."),
        (
            b'{"x": [[1, 2, 3]]}',
            SchemaMismatch,
            "The value of the 'x' parameter does not fit its schema: expected an array of float64 "
            "with the shape (any, 2), got a list of 1 x 3 (int inside). (Invalid input array: "
            "array has size 3 on dimension #1, while expected value is 2)",
        ),
    ],
)
def test_json_by_name_has_its_own_errors_as_before(
    loaded: Callable[..., Loaded], body: bytes, error: type[InputError], message: str
):
    calls = loaded(script(MATRIX))
    with pytest.raises(error) as raised:
        calls(Sent(JSON, body))
    assert str(raised.value) == message


@pytest.mark.parametrize("rows", [4, 3], ids=["too many", "just as many"])
@pytest.mark.parametrize(
    "types",
    [
        MATRIX,
        {"x": "Pandas(pd.DataFrame({'a': [1.0], 'b': [2.0]}))"},
        {"x": "Python([[1]])"},
    ],
    ids=["array", "table", "lists"],
)
def test_more_rows_than_allowed_are_refused_naming_the_setting(
    write_script: Callable[[str], Path], types: Mapping[str, str], rows: int
):
    calls = Loaded(write_script(script(types)), SCORING_MAX_ROWS="3")
    array = np.ones((rows, 2), int)
    for sent in (
        as_json({"input_data": array.tolist()}),
        as_json({"dataframe_split": {"columns": ["a", "b"], "data": array.tolist()}}),
        as_lines(array.tolist()),
        as_npy(array),
        as_csv(array.tolist()),
        as_v2({"x": array}),
    ):
        if rows > 3:
            with pytest.raises(InputTooLarge, match="SCORING_MAX_ROWS"):
                calls(sent)
        else:
            assert len(calls.sees(sent)) == 3


# --- how results are written ----------------------------------------------------------------------

RESULTS = {
    "np.array([[0.1, 2.0], [3.0, 4.0]])": "output_0,output_1 0.1,2.0 3.0,4.0",
    "np.array([0.1], dtype='float32')": "output 0.1",
    "np.array(['2024-05-01T10:00'], dtype='M8[us]')": "output 2024-05-01T10:00:00.000000",
    "[dict(a='x', b=0.25), dict(a='y', b=0.5)]": "a,b x,0.25 y,0.5",
    "pd.DataFrame(dict(a=['x', 'y'], b=[0.25, 0.5]))": "a,b x,0.25 y,0.5",
    "pd.Series([0.25, 0.5])": "output 0.25 0.5",
    "Answer(['x', 'y'], [0.25, 0.5])": "label,score x,0.25 y,0.5",
    "Pair(0.25, 0.5)": "output 0.25 0.5",
    "{3, 1}": "output 1 3",
    "[datetime.datetime(2024, 5, 1, 10)]": "output 2024-05-01T10:00:00",
    "[uuid.UUID(int=1)]": "output 00000000-0000-0000-0000-000000000001",
    "'rose'": "output rose",
    "dict(a=[1.5], b=None)": "a,b 1.5,",
}


def returning(result: str) -> str:
    """A script whose run() returns this."""
    return f"""{HEAD}
import dataclasses, uuid
from typing import NamedTuple

@dataclasses.dataclass
class Answer:
    label: list
    score: list

class Pair(NamedTuple):
    first: float
    second: float

@input_schema("x", Python(1))
def run(x):
    return {result}
"""


ONE = as_json({"x": 1})


@pytest.mark.parametrize(("result", "lines"), RESULTS.items())
def test_other_formats_hold_what_json_holds(loaded: Callable[..., Loaded], result: str, lines: str):
    """Whatever Python has it as; how each format is written is tested with the format."""
    assert answer(loaded(returning(result)), ONE, CSV).decode().split() == lines.split()


def answer(calls: Loaded, sent: Sent, accept: str) -> bytes:
    response = calls(sent, accept=accept)
    assert (b"content-type", accept.encode()) in response.headers
    assert isinstance(response.body, bytes)
    return response.body


def test_no_result_is_an_empty_object_and_no_rows(loaded: Callable[..., Loaded]):
    calls = loaded(returning("None"))
    answers = [answer(calls, ONE, accept) for accept in (JSON, LINES, CSV)]
    assert answers == [b"{}", b"", b"\r\n"]


@pytest.mark.parametrize(
    ("policy", "written"),
    [("null", b"[null,null]"), ("string", b'["NaN","Infinity"]'), ("raw", b"[NaN,Infinity]")],
)
def test_v2_json_has_nan_as_json_has_it(
    write_script: Callable[[str], Path], policy: str, written: bytes
):
    calls = Loaded(write_script(returning("[np.nan, np.inf]")), SCORING_NAN=policy)
    assert answer(calls, ONE, JSON) == written
    body = calls(as_v2({"x": np.array([1])})).body
    assert isinstance(body, bytes)
    assert b'"data":' + written in body


def test_a_result_with_nan_is_written_whatever_json_makes_of_it(
    write_script: Callable[[str], Path],
):
    """JSON with bare NaN is not JSON, but is on the way of what has no form but its JSON."""
    calls = Loaded(write_script(returning("Answer([np.nan], [np.inf])")), SCORING_NAN="raw")
    assert answer(calls, ONE, JSON) == b'{"label":[NaN],"score":[Infinity]}'
    assert answer(calls, ONE, CSV) == b"label,score\r\nnan,inf\r\n"
