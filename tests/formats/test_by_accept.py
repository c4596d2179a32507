"""Accept and Content-Type: what a client asks for and what it gets (RFC 9110 §12.5.1).

Undecorated and raw scripts, and strict compatibility, do not look at Accept at all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime import ScoringRequest, ScoringResponse, Settings
from scoring_runtime.errors import NotAcceptable, UnsupportedContentType
from scoring_runtime.formats.by_accept import negotiated
from scoring_runtime.scoring.runtime import load
from scoring_runtime.script.call import Invocation

JSON = "application/json"
CSV = "text/csv"
LINES = "application/jsonl"
NPY = "application/x-npy"
THERE = ", ".join((JSON, CSV, LINES, NPY))

SCHEMA = """
    import numpy as np
    from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
    from inference_schema.schema_decorators import input_schema

    calls = []

    def init():
        pass

    @input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
    def run(data):
        calls.append(data)
        return data.sum(axis=1)
"""
TEXT = """
    calls = []

    def init():
        pass

    def run(data):
        calls.append(data)
        return {"got": data}
"""
RAW = """
    from azureml.contrib.services.aml_request import rawhttp
    from azureml.contrib.services.aml_response import AMLResponse

    calls = []

    def init():
        pass

    @rawhttp
    def run(request):
        calls.append(request)
        return AMLResponse(request.get_data(), 200, {"Content-Type": "image/png"})
"""
ANSWERS_ITSELF = """
    import numpy as np
    from azureml.contrib.services.aml_response import AMLResponse
    from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
    from inference_schema.schema_decorators import input_schema

    def init():
        pass

    @input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
    def run(data):
        if data[0, 0] < 0:
            return data.tolist()
        return AMLResponse(b"picture", 201, {"Content-Type": "image/png", "X-Own": "yes"})
"""
BODY = b'{"data": [[1, 2], [3, 4.5]]}'
WRITTEN = {
    JSON: b"[3.0,7.5]",
    CSV: b"output\r\n3.0\r\n7.5\r\n",
    LINES: b'{"output":3.0}\n{"output":7.5}\n',
}
NOT_FAILED = (b"x-ms-run-function-failed", b"False")


class Loaded:
    """A script loaded as a host does, called as its scoring thread does."""

    def __init__(self, path: Path, **environ: str) -> None:
        settings = Settings.from_environ(
            {"AZUREML_ENTRY_SCRIPT": str(path), "AML_APP_ROOT": str(path.parent), **environ}
        )
        with asyncio.Runner() as runner:
            self._invocation: Invocation = load(settings, runner)
        self.module: Any = sys.modules["entry_module"]

    def __call__(self, body: bytes, *accept: str, **lines: str) -> ScoringResponse:
        headers = [(b"content-type", lines.get("content_type", JSON).encode())]
        headers += [(b"accept", each.encode("latin-1")) for each in accept]
        return self._invocation(ScoringRequest(body, [line for line in headers if line[1]]))


@pytest.fixture
def schema(write_script) -> Loaded:
    return Loaded(write_script(SCHEMA))


def kind_of(response: ScoringResponse) -> str:
    [kind] = [value for name, value in response.headers if name == b"content-type"]
    return kind.decode()


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        (", ,", JSON),
        ("*/*", JSON),
        ("*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        ("application/json", JSON),
        ("text/csv", CSV),
        ("application/x-npy", NPY),
        ("application/x-ndjson", "application/x-ndjson"),
        ("TEXT/CSV", CSV),
        ("text/csv; header=present", CSV),
        ('application/json;profile="a,b;q=0"', JSON),
        ("text/csv ; Q=0.5 , application/json ; q=0.4", CSV),
        ("application/json;q=0.1, text/csv;q=0.9", CSV),
        ("application/json;q=0, */*", CSV),
        ("text/csv;q=0, text/*", None),
        # several of the same weight: the first of the table
        ("text/csv, application/json", JSON),
        ("application/x-npy, text/csv", CSV),
        # the more exact range decides, wherever it stands
        ("*/*;q=0.9, application/json;q=0.2", CSV),
        ("application/json;q=0.2, */*;q=0.9", CSV),
        ("text/*;q=0.9, text/csv;q=0.1, application/json;q=0.5", JSON),
        # as well-known clients send them
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
        # what there is not
        ("image/png", None),
        ("*/*;q=0", None),
        ("*/csv", None),
        ("application/json;q=0.0, text/csv;q=0.000", None),
        # malformed: what cannot be read counts for nothing
        ("json", None),
        ("text/csv;q=high", None),
        ("text/csv;q=2, application/json;q=0.5", JSON),
        ("text/csv;q=, application/json;q=0.5", CSV),
        (";q=1, text/csv", CSV),
        ('text/csv;x="unclosed, application/json', None),
        ("\xe4\xf6/\xfc", None),
    ],
)
def test_accept_chooses_the_format(accept: str, chosen: str | None):
    if chosen is not None:
        assert negotiated(accept.encode("latin-1")) == chosen
        return
    with pytest.raises(NotAcceptable) as raised:
        negotiated(accept.encode("latin-1"))
    shown = f"Accept {accept} names no format that there is. Supported: {THERE}."
    assert str(raised.value) == shown


def test_a_long_accept_is_shown_in_part():
    with pytest.raises(NotAcceptable, match=f"^Accept {'x' * 100} names no format"):
        negotiated(b"x" * 5000)


# --- scripts with a schema ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_result_is_written_as_asked_under_the_name_that_was_asked_for(
    schema: Loaded, kind: str
):
    response = schema(BODY, kind)
    assert (response.status, response.body) == (200, WRITTEN[kind])
    assert tuple(response.headers) == ((b"content-type", kind.encode()), NOT_FAILED)


def test_several_lines_are_one_list(schema: Loaded):
    assert kind_of(schema(BODY, "text/csv;q=0.5", "application/jsonl")) == LINES
    assert kind_of(schema(BODY, "image/png", "text/csv")) == CSV
    assert schema(BODY, "image/png", "application/json;q=0.5").body == WRITTEN[JSON]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BODY, JSON),
        (b"1,2\n", CSV),
        (b"not,numbers\nat,all\n", CSV),
    ],
    ids=["by name", "csv", "csv that does not fit"],
)
def test_what_cannot_be_answered_is_refused_before_run(schema: Loaded, body: bytes, kind: str):
    with pytest.raises(NotAcceptable, match=f"Supported: {THERE}"):
        schema(body, "image/png", content_type=kind)
    assert schema.module.calls == []


def test_a_result_that_the_format_cannot_hold_is_not_acceptable(write_script):
    loaded = Loaded(write_script(SCHEMA.replace("data.sum(axis=1)", "[[1], [1, 2]]")))
    assert loaded(BODY).body == b"[[1],[1,2]]"
    with pytest.raises(NotAcceptable, match="'output' has rows of different lengths"):
        loaded(BODY, CSV)


TENSOR = {"name": "data", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}
V2 = json.dumps({"inputs": [TENSOR]}).encode()


@pytest.mark.parametrize("accept", ["application/json", "application/octet-stream", ""])
def test_v2_is_answered_as_v2(schema: Loaded, accept: str):
    response = schema(V2, *filter(None, [accept]))
    assert kind_of(response) == JSON
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["outputs"] == [
        {"name": "output", "datatype": "FP64", "shape": [1], "data": [3.0]}
    ]


def test_v2_has_no_other_form(schema: Loaded):
    with pytest.raises(NotAcceptable) as raised:
        schema(V2, CSV)
    assert str(raised.value) == (
        "Accept text/csv names no format that there is. "
        "Supported: application/json, application/octet-stream."
    )
    assert schema.module.calls == []


# --- scripts that answer themselves ---------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "image/png", "text/csv"])
def test_an_amlresponse_goes_out_as_it_is_whatever_accept_says(write_script, accept: str):
    response = Loaded(write_script(ANSWERS_ITSELF))(BODY, *filter(None, [accept]))
    assert (response.status, response.body) == (201, b"picture")
    assert kind_of(response) == "image/png"
    assert (b"x-own", b"yes") in [(name.lower(), value) for name, value in response.headers]


def test_another_result_of_such_a_script_is_refused_when_it_is_there(write_script):
    loaded = Loaded(write_script(ANSWERS_ITSELF))
    assert loaded(b'{"data": [[-1, 2]]}', CSV).body == b"output_0,output_1\r\n-1.0,2.0\r\n"
    with pytest.raises(NotAcceptable, match=f"Accept image/png .* Supported: {THERE}"):
        loaded(b'{"data": [[-1, 2]]}', "image/png")


# --- who does not look at them --------------------------------------------------------------------

ACCEPTS = ["", "text/csv", "image/png"]
TYPES = ["", JSON, NPY, "application/x-www-form-urlencoded"]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("accept", ACCEPTS)
def test_an_undecorated_script_gets_text_and_answers_json(
    write_script, accept: str, content_type: str
):
    loaded = Loaded(write_script(TEXT))
    response = loaded(b'{"data": [[1, 2]]}', *filter(None, [accept]), content_type=content_type)
    assert loaded.module.calls == ['{"data": [[1, 2]]}']
    assert response.body == b'{"got":"{\\"data\\": [[1, 2]]}"}'
    assert tuple(response.headers) == ((b"content-type", b"application/json"), NOT_FAILED)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("accept", ACCEPTS)
def test_a_raw_script_gets_the_bytes_and_answers_itself(
    write_script, accept: str, content_type: str
):
    loaded = Loaded(write_script(RAW))
    response = loaded(b"\x00\xff", *filter(None, [accept]), content_type=content_type)
    [request] = loaded.module.calls
    assert request.headers.get("Content-Type", "") == content_type
    assert (response.status, response.body, kind_of(response)) == (200, b"\x00\xff", "image/png")


@pytest.mark.parametrize("accept", ACCEPTS)
def test_strict_compatibility_ignores_accept(write_script, accept: str):
    """azureml-inference-server-http answers JSON, spaced as ``json.dumps`` does."""
    script = write_script(SCHEMA.replace("data.sum(axis=1)", "data.sum(axis=1).tolist()"))
    response = Loaded(script, SCORING_STRICT_COMPAT="true")(BODY, *filter(None, [accept]))
    assert response.body == b"[3.0, 7.5]"
    assert tuple(response.headers) == ((b"content-type", b"application/json"), NOT_FAILED)


@pytest.mark.parametrize("content_type", [each for each in TYPES if each != JSON])
def test_strict_compatibility_takes_json_only(write_script, content_type: str):
    loaded = Loaded(write_script(SCHEMA), SCORING_STRICT_COMPAT="true")
    with pytest.raises(UnsupportedContentType) as raised:
        loaded(BODY, content_type=content_type)
    assert str(raised.value) == "Expects Content-Type to be application/json"
    assert loaded.module.calls == []
