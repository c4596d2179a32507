"""The bytes of the input; they say what comes back, or come back themselves."""

import numpy as np
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


def broken():
    yield b"a part"
    raise ValueError("the details are for the log")


ANSWERS = {
    b"stream": lambda: AMLResponse((bytes([n]) * 3 for n in range(5)), 200),
    b"broken stream": lambda: AMLResponse(broken(), 200),
    b"nothing": lambda: AMLResponse(b"", 200),
    b"204": lambda: AMLResponse(b"", 204),
    b"json": lambda: AMLResponse({"grüße": [1.5, None]}, 200, json_str=True),
    b"value": lambda: {"a": np.arange(3), "nan": float("nan")},
    b"csv": lambda: AMLResponse("a,b\n1,2\n", 200, {"Content-Type": "text/csv"}),
}


@rawhttp
def run(request: AMLRequest):
    body = request.get_data()
    if body in ANSWERS:
        return ANSWERS[body]()
    if body.startswith(b"status "):
        return AMLResponse("chosen: ü", int(body[7:]), {"Location": "/elsewhere"})
    return AMLResponse(body, 200, {"Content-Type": "application/octet-stream"})
