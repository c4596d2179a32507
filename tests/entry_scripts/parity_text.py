"""Text in; what comes out depends on the text."""

from werkzeug.exceptions import abort


def init():
    pass


def run(data):
    if data == "fail":
        raise ValueError("the details are for the log")
    if data == "abort":
        abort(418)
    return object() if data == "object" else {"got": data}
