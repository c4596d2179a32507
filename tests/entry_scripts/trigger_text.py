"""Text in; what comes out depends on the text."""

import logging
import time

from azureml.contrib.services.aml_response import AMLResponse

from scoring_runtime import InputError

given = []
log = logging.getLogger("script")


class Recorder(logging.Handler):
    """Notes the invocation of each line where the worker's own log handler looks for it."""

    def emit(self, record):
        from azure_functions_runtime.bindings.context import _invocation_id_local

        given.append(_invocation_id_local.invocation_id)


def init():
    log.addHandler(Recorder())


def refuse():
    raise InputError("not this one")


def fail():
    raise ValueError("the details are for the log")


def sleep():
    time.sleep(2)


def invocation():
    log.warning("a line of the script")
    return given[-1]


ANSWERS = {
    "refuse": refuse,
    "fail": fail,
    "sleep": sleep,
    "invocation": invocation,
    "calls": lambda: len(given),
    "empty": lambda: AMLResponse(b"", 200),
    "large": lambda: AMLResponse(b"-" * 300_000, 200),
}


def run(data):
    given.append(data)
    if data.startswith("status "):
        return AMLResponse(f"answer {data[7:]}", int(data[7:]))
    return ANSWERS[data]() if data in ANSWERS else {"got": data}
