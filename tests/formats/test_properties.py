"""Properties: no input makes a script that does not raise answer 5xx; JSON is json's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoring_runtime.http.endpoint import create
from scoring_runtime.http.messages import Handle, HttpRequest, Reply
from scoring_runtime.scoring.runtime import Runtime, build
from scoring_runtime.settings.settings import Settings
from scoring_runtime.values.body import parse_json, query_text, query_values
from scoring_runtime.values.json_results import encoder

quick = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# pandas drops all but one of equal columns and says so: no reason to fail.
pytestmark = pytest.mark.filterwarnings("ignore:DataFrame columns are not unique:UserWarning")

# --- scripts that never raise ---------------------------------------------------------------------

TYPES = """
import datetime
import numpy as np
import pandas as pd
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType as Numpy
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType as Pandas
from inference_schema.parameter_types.standard_py_parameter_type import (
    StandardPythonParameterType as Standard,
)
def init(): ...
"""
# name → (sample of data, what run() gives)
TYPED = {
    "numpy": ("Numpy(np.array([[1.0, 2.0]]))", "data"),
    "numpy dates": ("Numpy(np.array(['2024-01-02'], dtype='datetime64[D]'))", "data"),
    "numpy of any shape": (
        "Numpy(np.array([1.0]), enforce_shape=False, enforce_column_type=False)",
        "data.shape",
    ),
    "standard float": ("Standard(1.5)", "data"),
    "standard dict": ("Standard({'a': 1})", "data"),
    "standard moment": ("Standard(datetime.datetime(2024, 1, 2))", "data"),
    "standard bytes": ("Standard(b'a')", "data"),
    "nested": ("Standard({'m': Numpy(np.array([[1.0]])), 's': Standard('a')})", "data"),
    "pandas": (
        "Pandas(pd.DataFrame({'a': [1], 'b': ['x']}))",
        "[list(data.shape), list(map(str, data.columns))]",
    ),
    "pandas split": ("Pandas(pd.DataFrame({'a': [1]}), orient='split')", "len(data)"),
    "pandas of any shape": (
        "Pandas(pd.DataFrame({'a': [1]}), enforce_shape=False, enforce_column_type=False)",
        "data",
    ),
}
SCRIPTS = {
    "text": "def init(): ...\ndef run(data): return data",
    "text as JSON": """
import json
def init(): ...
def run(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
""",
    **{
        name: f"{TYPES}@input_schema('data', {sample})\ndef run(data): return {given}"
        for name, (sample, given) in TYPED.items()
    },
    "several, with defaults": TYPES
    + "@input_schema('data', Numpy(np.array([[1.0]])))\n"
    "@input_schema('scale', Standard(1.0))\n"
    "@output_schema(Numpy(np.array([1.0])))\n"
    "def run(data, scale=1.0, name=None): return [data, scale, name]",
    "raw": """
from scoring_runtime import AMLResponse, rawhttp
def init(): ...
@rawhttp
def run(request):
    seen = [request.method, request.url, dict(request.headers), request.cookies]
    seen += [request.get_data(), request.stream.read(), request.content_type, request.mimetype]
    return AMLResponse(request.get_data(), 200, {"x-seen": len(seen)})
""",
}  # fmt: skip


class Asked:
    """Every script behind its endpoint, all on one event loop."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.runtimes: list[Runtime] = []
        self.handles = {name: self._load(folder, name, source) for name, source in SCRIPTS.items()}

    def _load(self, folder: Path, name: str, source: str) -> Handle:
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        environ = {"AML_APP_ROOT": str(folder), "AZUREML_ENTRY_SCRIPT": f"{name}.py"}
        # One megabyte: what is compressed must not take the machine's memory.
        environ["SCORING_MAX_BODY_BYTES"] = "1000000"
        runtime = build(Settings.from_environ(environ))
        runtime.start()
        self.runner.run(runtime.started())
        self.runtimes.append(runtime)
        return create(runtime)[1]

    def __call__(self, request: HttpRequest) -> dict[str, Reply]:
        """The answer of each script, checked."""
        return self.runner.run(self._answers(request))

    async def _answers(self, request: HttpRequest) -> dict[str, Reply]:
        replies = {name: await handle(request) for name, handle in self.handles.items()}
        for name, reply in replies.items():
            check(name, reply)
        return replies

    def close(self) -> None:
        for runtime in self.runtimes:
            self.runner.run(runtime.stop(5))
        self.runner.close()


def check(script: str, reply: Reply) -> None:
    """An answer, whole, that says nothing of a failure, and whose JSON is JSON."""
    assert reply.status < 500, (script, reply.body)
    assert isinstance(reply.body, bytes), script
    found = dict(reply.headers)
    assert found.get(b"x-ms-run-function-failed", b"False") == b"False", script
    if found.get(b"content-type") == b"application/json":
        value = json.loads(reply.body)
        assert reply.status == 200 or isinstance(value["message"], str), script


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """All scripts, asked as the hosts ask them."""
    asked = Asked(tmp_path_factory.mktemp("scripts"))
    yield asked
    asked.close()


# --- inputs ---------------------------------------------------------------------------------------

numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**30, 1e308, -0.0, 1e-320, 10**400])
)
texts = st.text(max_size=12) | st.sampled_from(
    [
        "2024-01-02",
        "2024-01-02T03:04:05Z",
        "NaT",
        "nan",
        "\ud800",
        "\x00",
        "YWI=",
        "0001-01-01",
        "٣",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
rows = st.lists(st.lists(numbers, min_size=1, max_size=3), max_size=3)
records = st.lists(
    st.fixed_dictionaries({}, optional={"a": numbers | texts | st.none(), "b": texts | values}),
    max_size=3,
)
split = st.fixed_dictionaries(
    {
        "columns": st.just(["a"]),
        "index": st.just([0]),
        "data": st.lists(st.lists(numbers), max_size=2),
    }
)
nested = st.fixed_dictionaries({}, optional={"m": rows | values, "s": texts | values})
inputs = values | rows | records | split | nested | st.lists(numbers | texts, max_size=3)
objects = st.fixed_dictionaries(
    {"data": inputs},
    optional={"scale": numbers | values, "name": values, "more": values, "extra": values},
)


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


json_bodies = objects.map(compact) | objects.map(json.dumps).map(str.encode) | values.map(compact)
other_encodings = st.sampled_from(["utf-16", "utf-32-be", "utf-8-sig"]).flatmap(
    lambda name: objects.map(lambda value: json.dumps(value).encode(name))
)
broken = st.tuples(json_bodies, st.integers(0, 40), st.binary(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
)
strange = st.sampled_from(
    [
        b"",
        b" ",
        b"NaN",
        b'{"data": NaN}',
        b'{"data":1e999}',
        b'{"data": "\xff"}',
        b'{"data": [[1, 2], [3]]}',
        b'{"data": ' + b"9" * 5000 + b"}",
        b'{"data": ' + b"[" * 5000,
        b"[" * 100_000,
    ]
)
bodies = json_bodies | other_encodings | broken | strange | st.binary(max_size=60)
JSON_TYPE = (b"content-type", b"application/json")
header_names = (
    b"content-type content-encoding content-length host origin cookie accept traceid x-a "
    b"x-request-id x-ms-request-id x-ms-client-request-id"
)
header_values = (
    b"application/json; charset=utf-16",
    b"multipart/form-data; boundary=b",
    b"gzip",
    b"deflate",
    b"gzip, gzip",
    b"identity",
    b"br",
    b"a" * 101,
)
lines = st.tuples(
    st.sampled_from(header_names.split()),
    st.binary(max_size=20) | st.sampled_from(header_values),
)
headers = st.lists(lines, max_size=4).map(lambda more: [JSON_TYPE, *more]) | st.lists(
    lines, max_size=5
)
names = st.sampled_from([b"data", b"scale", b"name", b"a", b""])
pairs = st.tuples(names, values.map(json.dumps).map(str.encode) | st.binary(max_size=10))
queries = (
    st.lists(pairs, max_size=4).map(lambda many: b"&".join(b"=".join(each) for each in many))
    | st.binary(max_size=30)
    | st.text(alphabet="data=&%;+[]1\"", max_size=30).map(str.encode)
)  # fmt: skip


def test_each_script_answers_something_with_200(ask: Asked) -> None:
    """The properties would be empty if a script refused everything."""
    table = {"columns": ["a"], "index": [0], "data": [[1]]}
    samples = [5, 1.5, "a", [1, 2], ["2024-01-02"], {"a": 1}, "2024-01-02", "YWI=", table]
    samples += [[[1.0]], [[1.0, 2.0]], {"m": [[1.0]], "s": "a"}, [{"a": 1, "b": "x"}], [{"a": 1}]]
    scored: set[str] = set()
    for sample in samples:
        body = compact({"data": sample, "scale": 1.0})
        replies = ask(HttpRequest("POST", "/score", b"", [JSON_TYPE], body))
        scored |= {name for name, reply in replies.items() if reply.status == 200}
    assert scored == set(SCRIPTS)


@quick
@given(bodies, headers, queries)
def test_no_posted_input_is_a_5xx(
    ask: Asked, body: bytes, lines: list[tuple[bytes, bytes]], query: bytes
) -> None:
    """Whatever the bytes, headers and query: 2xx, or the client is told what is wrong with them."""
    ask(HttpRequest("POST", "/score", query, lines, body))


@quick
@given(queries, headers, st.sampled_from(["GET", "GET", "HEAD", "OPTIONS", "PUT"]))
def test_no_query_is_a_5xx(
    ask: Asked, query: bytes, lines: list[tuple[bytes, bytes]], method: str
) -> None:
    """GET scores; the other methods are refused, or reach a raw script."""
    ask(HttpRequest(method, "/score", query, lines, b""))


# --- conversion -----------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Equal, types and NaN and the sign of zero included."""
    return repr(one) == repr(other)


@quick
@given(
    st.from_regex(
        r"[ \n]?-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
    )
)
def test_parse_json_reads_every_number_as_json_loads_does(number: str) -> None:
    """Alone, in a list and in an object."""
    for template in ("%s", "[%s]", '{"a":%s,"b":[ %s]}'):
        body = template.replace("%s", number).encode()
        assert same(parse_json(body), json.loads(body))


def outcome(parse: Callable[[bytes], Any], body: bytes) -> str:
    try:
        return repr(parse(body))
    except ValueError:
        return "refused"


@quick
@given(
    bodies | st.text(alphabet='{}[]":,0123456789eE+-. \\nultrasfNI', max_size=30).map(str.encode)
)
def test_parse_json_refuses_what_json_loads_refuses(body: bytes) -> None:
    """And reads what it reads, for bytes of any kind."""
    if b"[" * 500 in body:
        return  # both give up, each at a depth of its own
    assert outcome(parse_json, body) == outcome(json.loads, body)


@quick
@given(queries)
def test_any_query_has_values_and_their_text(query: bytes) -> None:
    """Never an error; the text is the JSON of the values."""
    found = query_values(query)
    assert all(isinstance(name, str) for name in found)
    assert same(json.loads(query_text(query)), found)


# --- results --------------------------------------------------------------------------------------


@quick
@given(values.filter(lambda value: value is not None))
def test_strict_compatibility_is_json_dumps(value: Any) -> None:
    """Byte for byte."""
    assert encoder("raw", strict=True)(value) == json.dumps(value).encode()
