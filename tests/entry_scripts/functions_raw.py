"""One raw script for the Functions host; ``do`` says what."""

import sys
import time

from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


def see(request):
    return {
        "method": request.method,
        "path": request.path,
        "args": request.args.to_dict(flat=False),
        "own": request.headers.get("X-Own"),
        "client": request.remote_addr,
    }


def invocation(request):
    # Where the worker's own log handler looks.
    from azure_functions_runtime.bindings.context import _invocation_id_local

    return getattr(_invocation_id_local, "invocation_id", None)


def busy(request):
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass
    return echo(request)


def echo(request):
    return AMLResponse(request.get_data(), 200, {"Content-Type": "application/octet-stream"})


def stream(request):
    return AMLResponse((bytes([n]) * 1000 for n in range(100)), 200)


def broken(request):
    def parts():
        yield b"the beginning"
        raise ValueError("the details are for the log")

    return AMLResponse(parts(), 200)


def cookies(request):
    response = AMLResponse("", 200)
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


def leave(request):
    sys.exit(1)


DO = {
    "see": see,
    "invocation": invocation,
    "busy": busy,
    "echo": echo,
    "stream": stream,
    "broken": broken,
    "cookies": cookies,
    "exit": leave,
}


@rawhttp
def run(request):
    return DO[request.args["do"]](request)
