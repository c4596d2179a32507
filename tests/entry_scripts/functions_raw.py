"""One raw script for the Functions host; ``do`` says what."""

import logging
import sys
import time
from pathlib import Path

from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

from scoring_runtime.telemetry.logs import request_id

log = logging.getLogger("script")
invocations = []
request_ids = []


class Recorder(logging.Handler):
    """Notes the invocation of each line where the worker's own log handler looks for it."""

    def emit(self, record):
        from azure_functions_runtime.bindings.context import _invocation_id_local

        invocations.append(getattr(_invocation_id_local, "invocation_id", None))


def init():
    log.addHandler(Recorder())


def see(request):
    return {
        "method": request.method,
        "url": request.url,
        "path": request.path,
        "args": request.args.to_dict(flat=False),
        "own": request.headers.get("X-Own"),
        "client": request.remote_addr,
    }


def invocation(request):
    log.warning("a line")
    return invocations.pop()


def streamed_invocation(request):
    """The invocations of a line of run() and of one of its stream."""
    log.warning("a line of run()")
    own = invocations.pop()
    time.sleep(0.02)

    def parts():
        log.warning("a line of the stream")
        yield f"{own} {invocations.pop()}".encode()

    return AMLResponse(parts(), 200)


def busy(request):
    """Compute until a file is there, a minute at most; another file says that it has begun."""
    Path(request.args["began"]).touch()
    until = time.monotonic() + 60
    while time.monotonic() < until and not Path(request.args["until"]).exists():
        pass
    return echo(request)


def echo(request):
    return AMLResponse(request.get_data(), 200, {"Content-Type": "application/octet-stream"})


def stream(request):
    return AMLResponse((bytes([n]) * 1000 for n in range(100)), 200)


def broken(request):
    request_ids.append(request_id.get())

    def parts():
        yield b"the beginning"
        raise ValueError("the details are for the log")

    return AMLResponse(parts(), 200)


def last_request_id(request):
    return request_ids[-1]


def cookies(request):
    response = AMLResponse("", 200)
    response.headers.add("Set-Cookie", "a=1; Max-Age=60; Path=/p; Secure; SameSite=Lax")
    response.set_cookie("b", "2", httponly=True, domain="a.example")
    response.headers.add("Set-Cookie", "c=3; Expires=Wed, 01 Jan 2031 00:00:00 GMT; Path=/")
    return response


def repeated(request):
    return AMLResponse("", 200, {"X-Many": "a, b", "x-many": "c"})


def leave(request):
    sys.exit(1)


DO = {
    each.__name__: each
    for each in (
        see,
        invocation,
        streamed_invocation,
        busy,
        echo,
        stream,
        broken,
        last_request_id,
        cookies,
        repeated,
        leave,
    )
}


@rawhttp
def run(request, request_headers):
    if request.args["do"] == "headers":
        return request_headers
    return DO[request.args["do"]](request)
