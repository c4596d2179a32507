"""A raw script that does what the query asks: ``/score?do=stream&parts=3&size=10``."""

import hashlib
import time
from pathlib import Path

from scoring_runtime import AMLResponse, rawhttp

made = {"parts": 0, "closed": 0}


def init():
    pass


@rawhttp
def run(request):
    return ACTIONS[request.args.get("do", "echo")](request)


def echo(request):
    headers = {"content-type": "application/octet-stream"}
    return AMLResponse(request.get_data(), 200, headers)


def describe(request):
    body = request.get_data()
    return {
        "method": request.method,
        "path": request.path,
        "args": request.args.to_dict(flat=False),
        "headers": dict(request.headers),
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


def sleep(request):
    time.sleep(float(request.args["seconds"]))
    return request.args.get("name")


def big(request):
    return AMLResponse(b"x" * int(request.args["size"]), 200)


def stream(request):
    parts, size = int(request.args["parts"]), int(request.args["size"])
    made["parts"] = made["closed"] = 0
    return AMLResponse(_parts(parts, size, request.args), 200)


def _parts(parts, size, args):
    then = args.get("then")
    try:
        for number in range(parts):
            while number and then == "wait" and not Path(args["file"]).exists():
                time.sleep(0.005)
            if number and then == "fail":
                raise ValueError("half-way")
            if number and then == "exit":
                raise SystemExit(3)
            made["parts"] += 1
            yield bytes([number % 256]) * size
    finally:
        made["closed"] += 1


def status(request):
    code = int(request.args["code"])
    body = iter([b"part"]) if "streamed" in request.args else b"whole"
    return AMLResponse(body, code)


def framing(request):
    mine = {"Content-Length": "999", "Transfer-Encoding": "chunked", "Connection": "upgrade"}
    return AMLResponse(b"exactly this", 200, mine)


def counts(request):
    return made


ACTIONS = {
    "echo": echo,
    "describe": describe,
    "sleep": sleep,
    "big": big,
    "stream": stream,
    "status": status,
    "framing": framing,
    "counts": counts,
}
