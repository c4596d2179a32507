"""Text in; what comes out depends on the text."""

import sys

from werkzeug.exceptions import abort

from scoring_runtime import InputError


def init():
    pass


def run(data):
    if data == "fail":
        raise ValueError("the details are for the log")
    if data == "refuse":
        raise InputError("not this one")
    if data == "exit":
        sys.exit(4)
    if data == "abort":
        abort(418)
    return object() if data == "object" else {"got": data}
