"""Content types, their parameters and limits; and what is said where a package is missing."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import (
    InputTooLarge,
    SchemaMismatch,
    UndecodableInput,
    UnsupportedContentType,
    UnsupportedMethod,
)
from scoring_runtime.formats import by_content_type
from scoring_runtime.messages import Headers
from scoring_runtime.scoring.runtime import load
from scoring_runtime.values.content import Columns, Limits, Rows, Tensors

LIMITS = Limits(1_000_000, 20_000_000, 100 * 1024 * 1024)
JSON, CSV, LINES, NPY = "application/json", "text/csv", "application/jsonl", "application/x-npy"
OCTETS = "application/octet-stream"
READABLE = (
    "Supported: application/json, text/csv, application/jsonl, application/x-npy, "
    "application/octet-stream with Inference-Header-Content-Length (V2)."
)
ROWS = [[1.5, 2.0], [3.0, 4.0]]


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(values), allow_pickle=False)
    return out.getvalue()


def infer(values: Any) -> bytes:
    array = np.asarray(values, float)
    tensor = {"name": "x", "datatype": "FP64", "shape": array.shape, "data": array.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def infer_binary(values: Any) -> tuple[bytes, int]:
    array = np.asarray(values, float)
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP64", "shape": array.shape}
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + array.tobytes(), len(head)


BODIES = {
    JSON: json.dumps({"input_data": ROWS}).encode(),
    CSV: b"1.5,2.0\n3.0,4.0\n",
    LINES: b"[1.5,2.0]\n[3.0,4.0]\n",
    NPY: npy(ROWS),
}
NAMES = {
    JSON: [
        "application/json", "APPLICATION/JSON", "application/json; charset=utf-8",
        "application/vnd.own+json", "application/ld+json; charset=utf-8", "",
    ],
    CSV: ["text/csv", "application/csv", "Text/CSV", "text/csv ; charset=utf-8", "text/csv;"],
    LINES: [
        "application/jsonl", "application/x-ndjson", "application/jsonlines",
        "application/x-ndjson; charset=utf-8",
    ],
    NPY: ["application/x-npy", "Application/X-NPY", "application/x-npy; own=1"],
}  # fmt: skip
EVERY_NAME = [(kind, name) for kind, names in NAMES.items() for name in names]


def request(content_type: str, body: bytes, path: str = "/score", **lines: str) -> ScoringRequest:
    named = {"content-type": content_type, **lines}
    headers: Headers = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in named.items()
        if value
    ]
    return ScoringRequest(body, headers, path=path)


def read(
    content_type: str, body: bytes, limits: Limits = LIMITS, *, path: str = "/score", **lines: str
) -> by_content_type.Asked:
    return by_content_type.read(request(content_type, body, path, **lines), limits)


def rows_of(asked: by_content_type.Asked) -> list[list[float]]:
    """The values, whether they have names or not."""
    content = asked.content
    if isinstance(content, Rows):
        values: list[list[float]] = np.asarray(content.values).tolist()
        return values
    if isinstance(content, Tensors):
        [tensor] = content.tensors.values()
        return rows_of(by_content_type.Asked(Rows(tensor)))
    columns = [np.asarray(each, float).tolist() for each in content.columns.values()]
    return [list(row) for row in zip(*columns, strict=True)]


# --- content types --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), EVERY_NAME)
def test_each_content_type_is_read_by_each_of_its_names(kind: str, name: str):
    assert rows_of(read(name, BODIES[kind])) == ROWS


@pytest.mark.parametrize("kind", BODIES)
def test_each_content_type_may_be_compressed_up_to_the_limit(kind: str):
    body = BODIES[kind]
    assert rows_of(read(kind, gzip.compress(body), content_encoding="gzip")) == ROWS
    with pytest.raises(InputTooLarge, match=f"larger than {len(body) - 1} bytes once decompressed"):
        read(
            kind, gzip.compress(body), LIMITS._replace(bytes=len(body) - 1), content_encoding="gzip"
        )


def test_v2_is_known_by_its_form_its_path_and_its_header():
    binary, length = infer_binary(ROWS)
    v2, size = "/v2/models/m/infer", str(length)
    packed = gzip.compress(binary)
    for asked in (
        read(JSON, infer(ROWS)),
        read("text/plain", infer(ROWS), path=v2),
        read(OCTETS, binary, path=v2, inference_header_content_length=size),
        read("", binary, inference_header_content_length=size),
        read(JSON, packed, content_encoding="gzip", inference_header_content_length=size),
    ):
        assert rows_of(asked) == ROWS
        assert asked.infer is not None


@pytest.mark.parametrize("kind", BODIES)
def test_an_empty_body_is_said_to_be_empty(kind: str):
    with pytest.raises(UndecodableInput, match="empty"):
        read(kind, b"")


@pytest.mark.parametrize("kind", BODIES)
def test_what_is_not_in_its_content_type_is_the_client_s_fault(kind: str):
    other = {JSON: b"1.5,2.0\n", CSV: b'"a', LINES: b"a,b\n", NPY: b"[1]"}[kind]
    with pytest.raises(UndecodableInput):
        read(kind, other)


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("text/plain", "Content-Type text/plain cannot be read."),
        ("application/xml; charset=utf-8", "Content-Type application/xml; charset=utf-8 cannot"),
        ("x" * 500, f"Content-Type {'x' * 100} cannot be read."),
        (
            "application/x-www-form-urlencoded",
            "Content-Type application/x-www-form-urlencoded cannot be read (curl sends it unless "
            "told otherwise: add -H 'Content-Type: application/json').",
        ),
    ],
)
def test_another_content_type_is_refused_with_the_list(content_type: str, shown: str):
    with pytest.raises(UnsupportedContentType) as raised:
        read(content_type, b"1,2\n")
    assert str(raised.value).startswith(shown)
    assert str(raised.value).endswith(READABLE)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_inputs_are_posted(method: str):
    with pytest.raises(UnsupportedMethod, match=r"^Send the input with POST\.$"):
        by_content_type.read(request(CSV, BODIES[CSV])._replace(method=method), LIMITS)


@pytest.mark.parametrize("length", ["-1", "0", "ten", "1000", "9" * 40])
def test_a_wrong_length_of_the_v2_header_is_refused(length: str):
    binary, _ = infer_binary(ROWS)
    with pytest.raises(UndecodableInput) as raised:
        read(OCTETS, binary, inference_header_content_length=length)
    assert str(raised.value).startswith(
        f"Inference-Header-Content-Length is {length!r}; expected is the length in bytes of the "
        f"JSON that the body begins with, of its {len(binary)}."
    )


# --- parameters of CSV ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/csv", Rows([[1.0, 2.0], [3.0, 4.0]])),
        ("text/csv; header=absent", Rows([[1.0, 2.0], [3.0, 4.0]])),
        ("text/csv; header=present", Columns({"1": ["3"], "2": ["4"]}, typed=False)),
        ('text/csv; header="present"', Columns({"1": ["3"], "2": ["4"]}, typed=False)),
        ("text/csv; charset=utf-8; header=present", Columns({"1": ["3"], "2": ["4"]}, False)),
    ],
)
def test_the_header_parameter_decides(content_type: str, expected: Rows | Columns):
    content = read(content_type, b"1,2\n3,4\n").content
    if isinstance(content, Rows):
        content = Rows(content.values.tolist())
    assert content == expected


def test_without_the_parameter_the_names_of_columns_decide():
    body = b"1,2\n3,4\n"
    found = by_content_type.read(request(CSV, body), LIMITS, names=frozenset({"1", "2"})).content
    assert found == Columns({"1": ["3"], "2": ["4"]}, typed=False)
    found = by_content_type.read(request(CSV, body), LIMITS, csv_header=True).content
    assert found == Columns({"1": ["3"], "2": ["4"]}, typed=False)


# --- limits ---------------------------------------------------------------------------------------

SIX = [[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]]
SIX_BINARY, SIX_LENGTH = infer_binary(SIX)
FORMS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "JSON rows": (JSON, json.dumps({"instances": SIX}).encode(), {}),
    "JSON inputs by name": (JSON, json.dumps({"inputs": {"x": SIX}}).encode(), {}),
    "JSON table": (
        JSON,
        json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": SIX}}).encode(),
        {},
    ),
    "CSV": (CSV, b"1.5,2.5\n3.5,4.5\n5.5,6.5\n", {}),
    "CSV with a header": (CSV, b"a,b\n1.5,2.5\n3.5,4.5\n5.5,6.5\n", {}),
    "JSON Lines": (LINES, b"[1.5,2.5]\n[3.5,4.5]\n[5.5,6.5]\n", {}),
    "npy": (NPY, npy(SIX), {}),
    "V2": (JSON, infer(SIX), {}),
    "V2 binary": (OCTETS, SIX_BINARY, {"inference_header_content_length": str(SIX_LENGTH)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_just_as_much_as_allowed_is_read_and_more_names_the_setting(form: str):
    kind, body, lines = FORMS[form]
    assert rows_of(read(kind, body, Limits(3, 6, 100_000), **lines)) == SIX
    with pytest.raises(InputTooLarge, match="SCORING_MAX_ROWS"):
        read(kind, body, Limits(2, 100, 100_000), **lines)
    with pytest.raises(InputTooLarge, match="SCORING_MAX_VALUES"):
        read(kind, body, Limits(100, 5, 100_000), **lines)


def test_json_of_many_values_is_refused_before_it_is_parsed():
    """Not even whether it is JSON is looked at."""
    with pytest.raises(InputTooLarge) as raised:
        read(JSON, b"," * (1024 * 1024 + 1), Limits(10, 1000, 10_000_000))
    assert str(raised.value) == (
        "The body has 1048578 values; at most 1000 are taken at once (SCORING_MAX_VALUES)."
    )


@pytest.mark.parametrize(
    ("opening", "megabytes"), [(b"[", 92), (b"{", 251), (b'{"":', 251)], ids=["[", "{", "{:"]
)
def test_json_of_many_lists_is_refused_before_it_is_parsed(opening: bytes, megabytes: int):
    body = opening * (1024 * 1024 + 1)
    with pytest.raises(
        InputTooLarge, match=rf"about {megabytes} MB .* SCORING_MAX_BODY_BYTES \(5000000\)"
    ):
        read(JSON, body, Limits(10, 10**9, 5_000_000))


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        ("text/csv", b"a,b,c\n1,2,3\n", "The CSV body has 3 columns"),
        ("application/jsonl", b'{"a":1,"b":2}\n{"c":3}\n', "The JSON Lines body has 3 columns"),
        (JSON, b'{"dataframe_records":[{"a":1},{"b":2},{"c":3}]}', "The input has 3 columns"),
        (JSON, b'{"dataframe_split":{"columns":["a","b","c"],"data":[[1,2,3]]}}', "3 columns"),
        (JSON, b'{"inputs":{"a":[1],"b":[2],"c":[3]}}', "The input has 3 columns"),
    ],
    ids=["CSV", "JSON Lines", "records", "split", "inputs"],
)
def test_columns_are_limited_to_as_many_as_a_model_may_declare(kind: str, body: bytes, what: str):
    few = Limits(100, 100, 100_000, columns=2)
    with pytest.raises(InputTooLarge, match=rf"{what}; at most 2 .*SCORING_MAX_COLUMNS"):
        read(kind, body, few)
    assert len(read(kind, body, few.for_inputs(3)).content[0]) == 3


def test_json_nested_too_deeply_is_refused():
    with pytest.raises(UndecodableInput, match=r"^The body is JSON that is nested too deeply\.$"):
        read(JSON, b"[" * 200_000)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"1", UndecodableInput, "The body is neither a JSON object nor a list of rows."),
        (b'{"instances": [[1]], "method": 1}', SchemaMismatch, "method is 1; expected is a name"),
        (b'{"own": 1}', UndecodableInput, "with exactly one of dataframe_split, dataframe_records"),
        (b"{", UndecodableInput, "The body could not be decoded as JSON"),
    ],
)
def test_other_json_is_refused(body: bytes, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        read(JSON, body)


def test_a_list_is_rows_and_an_object_says_what_it_holds():
    assert read(JSON, b"[[1, 2]]").content == Rows([[1, 2]])
    assert read(JSON, b'[{"a": 1}, {"a": 2}]').content == Columns({"a": [1, 2]})
    asked = read(JSON, b'{"instances": [[1]], "params": {"a": 2}, "method": "m"}')
    assert (asked.params, asked.method, asked.predictions) == ({"a": 2}, "m", True)
    assert read(JSON, b'{"input_data": [[1]]}').predictions is False
    assert repr(read(JSON, b"[[NaN]]").content) == "Rows(values=[[nan]])"


def test_what_is_known_without_being_installed():
    known = [name.encode() for _, name in EVERY_NAME if name]
    assert [name for name in known if not by_content_type.is_known(name)] == []
    assert not by_content_type.is_known(b"")
    assert not by_content_type.is_known(b"text/plain")


# --- scripts with a schema ------------------------------------------------------------------------

SCRIPT = """
    from inference_schema.parameter_types.standard_py_parameter_type import (
        StandardPythonParameterType,
    )
    from inference_schema.schema_decorators import input_schema

    def init():
        pass

    @input_schema("rows", StandardPythonParameterType([[1.0]]))
    def run(rows):
        return rows
"""


@pytest.fixture
def score(write_script: Callable[[str], Path]) -> Callable[[ScoringRequest], bytes]:
    """The body of a script's answer, which is the rows it was given."""
    script = write_script(SCRIPT)
    environ = {"AZUREML_ENTRY_SCRIPT": str(script), "AML_APP_ROOT": str(script.parent)}
    with asyncio.Runner() as runner:
        invocation = load(Settings.from_environ(environ), runner)

    def body(request: ScoringRequest) -> bytes:
        found = invocation(request).body
        assert isinstance(found, bytes)
        return found

    return body


@pytest.mark.parametrize(("kind", "said"), [("", ""), ("a/b", "Content-Type a/b cannot be read. ")])
def test_a_script_refuses_others_with_the_words_that_clients_know(score, kind: str, said: str):
    with pytest.raises(UnsupportedContentType) as raised:
        score(request(kind, b"1,2\n"))
    assert str(raised.value) == f"Expects Content-Type to be application/json. {said}{READABLE}"


def test_a_script_s_csv_in_another_encoding_is_not_blamed_on_its_type(score):
    with pytest.raises(UnsupportedContentType, match=r"^Content-Encoding br cannot be read\. All"):
        score(request(CSV, b"1,2\n", content_encoding="br"))


# --- missing packages -----------------------------------------------------------------------------

WITHOUT = """
import asyncio, json, sys

sys.modules.update(numpy=None, pandas=None)

from scoring_runtime import ScoringRequest, Settings
from scoring_runtime.errors import ScoringRuntimeError
from scoring_runtime.scoring.runtime import load

with asyncio.Runner() as runner:
    invocation = load(Settings.from_environ({"AZUREML_ENTRY_SCRIPT": sys.argv[1]}), runner)
for kind, accept, body in json.loads(sys.argv[2]):
    headers = [(b"content-type", kind.encode()), (b"accept", accept.encode())]
    try:
        print(invocation(ScoringRequest(body.encode(), headers)).body.decode())
    except ScoringRuntimeError as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_without_numpy_a_script_that_needs_none_scores_json(write_script: Callable[[str], Path]):
    """inference-schema needs it for its array types only."""
    by_name, script = '{"rows": [[1.0,2.0]]}', write_script(SCRIPT)
    asked = [(JSON, "", by_name), (JSON, f"{JSON}, */*", '{"input_data": [[1.0,2.0]]}')]
    asked += [(CSV, "", "1,2"), (JSON, NPY, by_name), (JSON, "", infer([[1]]).decode())]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, str(script), json.dumps(asked)],
        capture_output=True,
        text=True,
        cwd=script.parent,
    )
    install = " needs numpy, which is not installed here: pip install 'scoring-runtime[sklearn]'."
    assert done.stdout.splitlines() == [
        "[[1.0,2.0]]",
        "[[1.0,2.0]]",
        f"UnsupportedContentType: {CSV}{install}",
        f"NotAcceptable: {NPY}{install}",
        f"UnsupportedContentType: The Open Inference Protocol{install}",
    ], done.stderr
