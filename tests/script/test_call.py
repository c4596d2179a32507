"""One call of run(): what it is given, what its result becomes, whose fault an error is."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from scoring_runtime import InputError, ScoringResponse
from scoring_runtime.errors import (
    ResponseNotSendable,
    ResultNotSerializable,
    RunFailed,
    UndecodableInput,
    UnsupportedMethod,
)
from scoring_runtime.script.call import joined_stream
from scoring_runtime.telemetry.logs import request_id
from tests.script.loaded import Loaded

JSON = (b"content-type", b"application/json")
NOT_FAILED = (b"x-ms-run-function-failed", b"False")
FAILED = (b"x-ms-run-function-failed", b"True")
RUN_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."


@pytest.fixture(params=["def", "async def"], ids=["sync", "async"])
def script(request: pytest.FixtureRequest, write_script: Any) -> Any:
    """``script(body of run)`` → a loaded script; once with run(), once with async run()."""

    def load_script(body: str, before: str = "", decorator: str = "", **environ: str) -> Loaded:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        return Loaded(
            write_script(
                f"{before}\ndef init():\n    pass\n{decorator}\n{request.param} run(data):\n{lines}"
            ),
            **environ,
        )

    return load_script


def content(response: ScoringResponse) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


# --- what run() is given --------------------------------------------------------------------------


def test_run_gets_the_text_and_its_result_is_json(script):
    response = script("return [data, len(data)]").ask("äö".encode())
    assert content(response) == ["äö", 2]
    assert response.status == 200
    assert tuple(response.headers) == (JSON, NOT_FAILED)


def test_the_time_of_run_alone_is_measured(script):
    """What comes before run(), here a slow hook of the host, is not run()'s time."""
    loaded = script("time.sleep(0.05)", before="import time")
    response = loaded.ask(enter=lambda: threading.Event().wait(0.3))
    assert 50 <= response.run_ms < 250


def test_the_request_id_is_known_to_the_script(script):
    loaded = script(
        "return request_id.get()", before="from scoring_runtime.telemetry.logs import *"
    )
    loaded.module.request_id = request_id
    assert content(loaded.ask(request_id="abc-1")) == "abc-1"
    assert content(loaded.ask(request_id="abc-2")) == "abc-2"


def test_the_host_s_hook_runs_before_run_in_its_thread(script):
    loaded = script(
        "seen.append(threading.get_ident())\nreturn seen", before="import threading\nseen = []"
    )
    seen = loaded.module.seen
    assert content(loaded.ask(enter=lambda: seen.append(threading.get_ident()))) == [
        threading.get_ident(),
        threading.get_ident(),
    ]


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        ({"body": b"\xff"}, UndecodableInput, "Input cannot be decoded as UTF-8: 'utf-8' codec"),
        ({"method": "HEAD"}, UnsupportedMethod, "Method not allowed"),
    ],
    ids=["not UTF-8", "HEAD"],
)
def test_what_cannot_be_given_to_run_is_the_client_s_fault(script, request_, error, text):
    loaded = script("raise AssertionError('run() is not reached')")
    with pytest.raises(error, match=text):
        loaded.ask(**request_)


# --- run() raises ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        "ValueError('secret of the model')",
        "TimeoutError()",
        "KeyboardInterrupt()",
    ],
)
def test_whatever_run_raises_is_a_failed_run_with_the_details_in_the_log(script, caplog, error):
    """Row 39: the caller is told a fixed text; the log has the user's part of the traceback."""
    loaded = script(f"raise {error}", before="import asyncio")
    with pytest.raises(RunFailed) as raised:
        loaded.ask()
    assert str(raised.value) == RUN_FAILED
    name = error.partition("(")[0].rpartition(".")[2]
    assert type(raised.value.__cause__).__name__ == name
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.name == "azmlinfsrv.user_script"
    message = record.getMessage()
    assert message.startswith("Encountered Exception: Traceback (most recent call last):\n")
    assert 'score.py", line ' in message
    assert name in message
    assert "invocation.py" not in message


@pytest.mark.parametrize("name", ["InputError", "InputTooLarge"])
def test_an_input_error_raised_by_the_script_is_the_client_s_fault_in_its_own_words(script, name):
    loaded = script(
        f"raise {name}('the column age is missing')", before="from scoring_runtime.errors import *"
    )
    with pytest.raises(InputError, match=r"^the column age is missing$") as raised:
        loaded.ask()
    assert type(raised.value).__name__ == name


@pytest.mark.parametrize(
    "statement",
    [
        "model_path('nothing', root=folder)",
        "raise errors.RunTimeout(folder)",
    ],
)
def test_other_errors_of_this_package_are_failed_runs_when_run_raises_them(
    script, tmp_path, statement
):
    """Their texts name folders of this machine, which callers must not see."""
    loaded = script(
        statement,
        before=f"from scoring_runtime import errors, model_path\nfolder = {str(tmp_path)!r}",
    )
    with pytest.raises(RunFailed) as raised:
        loaded.ask()
    assert str(raised.value) == RUN_FAILED


# --- run() answers with HTTP ----------------------------------------------------------------------


@pytest.mark.parametrize(("code", "flag"), [(418, NOT_FAILED), (500, FAILED)])
def test_abort_is_an_answer_and_failed_from_500_on(script, code, flag):
    loaded = script(f"abort({code}, 'because')", before="from werkzeug.exceptions import abort")
    response = loaded.ask()
    assert response.status == code
    assert content(response) == {"message": "because"}
    assert tuple(response.headers) == (JSON, flag)
    assert response.run_ms >= 0


@pytest.mark.parametrize(("code", "flag"), [(499, None), (520, b"True")])
def test_abort_with_a_response_answers_with_it(script, code, flag):
    loaded = script(
        f"abort(Response('gone', {code}))",
        before="from werkzeug.exceptions import abort\nfrom werkzeug.wrappers import Response",
    )
    response = loaded.ask()
    assert (response.status, response.body) == (code, b"gone")
    assert dict(response.headers).get(b"x-ms-run-function-failed") == flag


@pytest.mark.parametrize(
    ("status", "argument", "flag"),
    [
        (200, "", b"False"),
        (200, ", run_function_failed=True", b"True"),
        (499, "", b"False"),
        (500, "", b"True"),
    ],
)
def test_an_aml_response_goes_out_as_it_is(script, status, argument, flag):
    loaded = script(
        f"return AMLResponse(bytes(range(256)), {status}, {{'x-mine': 'yes'}}{argument})",
        before="from scoring_runtime import AMLResponse",
    )
    response = loaded.ask()
    assert response.status == status
    assert response.body == bytes(range(256))
    headers = dict(response.headers)
    assert headers[b"x-mine"] == b"yes"
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    assert headers[b"x-ms-run-function-failed"] == flag


def test_a_response_of_a_generator_is_a_stream_that_has_not_begun(script):
    loaded = script(
        "return AMLResponse((made.append(n) or b'%d' % n for n in range(3)), 200)",
        before="from scoring_runtime import AMLResponse\nmade = []",
    )
    response = loaded.ask()
    assert isinstance(response.body, Iterator)
    assert loaded.module.made == []
    assert list(response.body) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("part", ["None", "1"])
def test_a_part_of_a_stream_that_is_no_bytes_is_an_error_and_no_end(script, part, caplog):
    loaded = script(
        f"return AMLResponse((part for part in (b'a', {part}, b'b')), 200)",
        before="from scoring_runtime import AMLResponse",
    )
    with pytest.raises(RunFailed):
        joined_stream(loaded.ask().body)
    assert f"{part}; expected are text or bytes" in caplog.text


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ("None", b"{}"),
        ("(1, 2.5, True)", b"[1,2.5,true]"),
        ("{'a': [1, {'b': None}]}", b'{"a":[1,{"b":null}]}'),
    ],
)
def test_a_result_is_compact_json(script, result, body):
    """Row 31 of the contract."""
    assert script(f"return {result}").ask().body == body


def test_strict_compat_writes_as_the_old_server_did(script):
    """Rows 31 and 33 of the contract."""
    loaded = script("return {'ä': [1, float('nan')]}", SCORING_STRICT_COMPAT="true")
    assert loaded.ask().body == b'{"\\u00e4": [1, NaN]}'


def test_a_result_without_a_json_form_names_type_and_path_also_in_the_log(script, caplog):
    loaded = script("return {'rows': [1, object()]}")
    with pytest.raises(ResultNotSerializable, match=r"result\['rows'\]\[1\] is of type object"):
        loaded.ask()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.name == "azmlinfsrv.user_script"
    assert "result['rows'][1] is of type object" in record.getMessage()


def test_what_a_generator_raises_is_what_run_raises(script, caplog):
    """It is read only after run() has returned."""
    loaded = script(
        "return {'rows': (1 / n for n in json.loads(data)), 'first': map(checked, data)}",
        before="import json\nfrom scoring_runtime import InputError\n"
        "def checked(each):\n    raise InputError('no list of this kind')",
    )
    with pytest.raises(RunFailed):
        loaded.ask(b"[1, 0]")
    assert "ZeroDivisionError: division by zero" in caplog.text
    with pytest.raises(InputError, match=r"^no list of this kind$"):
        loaded.ask(b"[1, 2]")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("AMLResponse('', 100)", "status 100"),
        ("AMLResponse('', 200, {'x': 'a\\r\\nb: c'})", "header 'x'"),
        ("abort(Response('', 101))", "status 101"),
    ],
)
def test_a_response_that_is_none_of_http_says_why_also_in_the_log(script, caplog, made, reason):
    loaded = script(
        "from scoring_runtime import AMLResponse; from werkzeug.wrappers import Response; "
        f"from werkzeug.exceptions import abort; return {made}"
    )
    with pytest.raises(ResponseNotSendable, match=rf"^run\(\) answered with the {reason}"):
        loaded.ask()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert reason in record.getMessage()


# --- schemas --------------------------------------------------------------------------------------

NUMPY_SCHEMA = """
    import numpy as np
    from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
    from inference_schema.schema_decorators import input_schema
    def init():
        pass
    @input_schema('rows', NumpyParameterType(np.zeros((1, 3))))
    def run(rows):
        if rows[0][0] == 99:
            raise ValueError("no such patient")
        return rows.sum()
    """


def post_json(loaded: Loaded, body: bytes) -> ScoringResponse:
    return loaded.ask(body, headers=(JSON,))


def test_an_error_of_a_script_with_a_schema_is_still_its_own(write_script):
    """Only the conversion before run() blames the client."""
    loaded = Loaded(write_script(NUMPY_SCHEMA))
    with pytest.raises(RunFailed) as raised:
        post_json(loaded, b'{"rows": [[99, 2, 3]]}')
    assert str(raised.value.__cause__) == "no such patient"


def test_strict_compat_calls_a_mismatch_a_failed_run(write_script):
    loaded = Loaded(write_script(NUMPY_SCHEMA), SCORING_STRICT_COMPAT="true")
    with pytest.raises(RunFailed):
        post_json(loaded, b'{"rows": [[1, 2], [3, 4]]}')
