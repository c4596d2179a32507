# mypy: ignore-errors
"""Undecorated. Gives its input back; the input `case:NAME` gives the result of that case.

`cases` gives their names; those that end the old server's worker come last.
"""

import datetime
import decimal
import enum
import json
import math
from collections import namedtuple

import flask
import numpy as np
import pandas as pd
import werkzeug
from azureml.contrib.services.aml_response import AMLResponse

Pair = namedtuple("Pair", "left right")


class Colour(enum.StrEnum):
    RED = "red"


def fail(error):
    raise error


def parts():
    yield b"one,"
    yield b"two"


def text_parts():
    yield "eins,"
    yield "zwölf"


RESULTS = {
    "none": lambda: None,
    "true": lambda: True,
    "empty-text": lambda: "",
    "text": lambda: 'Grüße "x" \\ / \u2028 \x7f <b> \U0001f600',
    "json-text": lambda: json.dumps({"a": [1, 2]}),
    "list": lambda: [1, 2.5, "x", None, [], {}],
    "tuple": lambda: (1, (2, 3)),
    "dict": lambda: {"b": {"ü": [True, False, None]}, "a": -0.0},
    "keys": lambda: {1: "int", 2.5: "float", None: "none", False: "bool"},
    "floats": lambda: [0.1, 1e16, 1e22, 1.5e300, 5e-324, 1e-7, 123456789012345680.0, 100.0],
    "big-integers": lambda: [2**63, 2**64, -(2**70), 10**40],
    "named-tuple": lambda: Pair(1, "r"),
    "enum-text": lambda: Colour.RED,
    "lone-surrogate": lambda: "\ud800",
    "np-float64": lambda: np.float64(1.5),
    "nan": lambda: math.nan,
    "infinities": lambda: {"a": [math.inf, -math.inf], "b": float("nan")},
    "array": lambda: np.arange(4.0).reshape(2, 2),
    "np-int64": lambda: {"n": np.int64(7)},
    "frame": lambda: pd.DataFrame({"a": [1, 2]}),
    "moment": lambda: datetime.datetime(2026, 1, 2, 3, 4, 5),
    "decimal": lambda: decimal.Decimal("1.10"),
    "bytes": lambda: b"\x00\xff",
    "set": lambda: {3, 1, 2},
    "generator": lambda: (n for n in range(3)),
    "no-form": object,
}

RESPONSES = {
    **{
        f"status-{status}": lambda status=status: AMLResponse(f"{status}!", status)
        for status in (200, 201, 202, 204, 205, 206, 301, 304, 400, 404, 409, 413, 418, 422, 429)
    },
    **{
        f"status-{status}": lambda status=status: AMLResponse("broken", status)
        for status in (500, 501, 502, 503, 504, 599)
    },
    "odd-status": lambda: AMLResponse("odd", 299),
    "says-failed": lambda: AMLResponse("x", 200, run_function_failed=True),
    "nothing": lambda: AMLResponse(None, 200),
    "nothing-404": lambda: AMLResponse(None, 404, json_str=True),
    "json": lambda: AMLResponse({"ü": [1, None]}, 201, json_str=True),
    "json-text": lambda: AMLResponse("plain", 200, json_str=True),
    "json-nan": lambda: AMLResponse({"a": math.nan}, 200, json_str=True),
    "empty": lambda: AMLResponse("", 200),
    "text": lambda: AMLResponse("Grüße", 200),
    "bytes": lambda: AMLResponse(bytes(range(256)), 200, {"Content-Type": "image/png"}),
    "generator": lambda: AMLResponse(parts(), 200, {"Content-Type": "text/csv"}),
    "text-generator": lambda: AMLResponse(text_parts(), 200),
    "list-of-bytes": lambda: AMLResponse([b"a", b"b"], 200),
    "headers": lambda: AMLResponse("x", 200, {"X-One": "1", "x-two": "a, b,c", "X-One-2": ""}),
    "type-in-lower-case": lambda: AMLResponse("<a/>", 200, {"content-type": "text/xml"}),
    "json-with-type": lambda: AMLResponse({}, 200, {"Content-Type": "text/x"}, json_str=True),
    "location": lambda: AMLResponse("x", 303, {"Location": "/wo/\xfc?a=\xdf"}),
    "unavailable": lambda: AMLResponse("x", 503, {"Retry-After": "7"}),
    "date": lambda: AMLResponse("x", 200, {"Expires": "Thu, 01 Dec 1994 16:00:00 GMT"}),
    "cookie": lambda: AMLResponse("x", 200, {"Set-Cookie": "a=1; Expires=Thu, 01 Dec 1994"}),
    "own-ids": lambda: AMLResponse("x", 200, {"x-request-id": "u", "x-ms-request-id": "v"}),
    "own-client-id": lambda: AMLResponse("x", 200, {"x-ms-client-request-id": "w"}),
    "own-ms-headers": lambda: AMLResponse("x", 200, {"x-ms-run-fn-exec-ms": "9"}),
    "own-version": lambda: AMLResponse("x", 200, {"x-ms-server-version": "mine"}),
    "own-failed": lambda: AMLResponse("x", 200, {"x-ms-run-function-failed": "True"}),
    "own-length": lambda: AMLResponse("x", 200, {"Content-Length": "1"}),
    "flask": lambda: flask.Response("hello", 202, {"X-A": "1"}, "text/plain"),
    "flask-503": lambda: flask.Response("later", 503),
    "werkzeug": lambda: werkzeug.Response("hello", 202),
}

FAILURES = {
    "error": lambda: fail(ValueError("wrong")),
    "timeout-error": lambda: fail(TimeoutError("a database was slow")),
    "abort-418": lambda: flask.abort(418),
    "abort-400-text": lambda: flask.abort(400, "no such flower"),
    "abort-503": lambda: flask.abort(503),
    "abort-response": lambda: flask.abort(AMLResponse("mine", 409)),
    "response-not-json": lambda: AMLResponse(object(), 200, json_str=True),
    "exit": lambda: fail(SystemExit(0)),
}

CASES = {
    **{f"result-{name}": make for name, make in RESULTS.items()},
    **{f"response-{name}": make for name, make in RESPONSES.items()},
    **{f"failure-{name}": make for name, make in FAILURES.items()},
}


def init():
    pass


def run(data):
    if data == "cases":
        return list(CASES)
    return CASES[data[5:]]() if data.startswith("case:") else data
