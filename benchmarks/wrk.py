"""wrk: one load on one server, and what it says."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

Figures = dict[str, float]
_SCALE = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Request(NamedTuple):
    """What is sent again and again; ``lua`` is added to wrk's script."""

    path: str
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    lua: str = ""


def needed() -> None:
    """SystemExit without wrk."""
    if shutil.which("wrk") is None:
        raise SystemExit("benchmarks need wrk: apt-get install wrk")


def parsed(text: str) -> Figures:
    """Requests per second, p50 and p99 in milliseconds, and how many failed.

    Those that got another status than 2xx or 3xx, and errors of sockets, are not requests per
    second.
    """
    found: Figures = {}
    for percent in (50, 99):
        latency = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m) *\n", text)
        assert latency is not None, text
        found[f"p{percent}_ms"] = float(latency[1]) * _SCALE[latency[2]]
    rate = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m),", text)
    assert rate is not None, text
    seconds = float(rate[2]) * _SCALE[rate[3]] / 1000
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    failed = int(refused[1]) if refused else 0
    found["rate"] = (int(rate[1]) - failed) / seconds
    found["errors"] = failed + (sum(map(int, sockets.groups())) if sockets else 0)
    return found


def load(base: str, request: Request, connections: int, seconds: int = 2) -> Figures:
    """Send ``request`` over so many connections for so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body"), Path(folder, "post.lua")
        body.write_bytes(request.body)
        headers = (("Content-Type", request.content_type), *request.headers)
        lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers]
        script.write_text(
            f'wrk.method = "POST"\nlocal file = io.open("{body}", "rb")\n'
            'wrk.body = file:read("*all")\nfile:close()\n' + "\n".join([*lines, request.lua])
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency"]
        command += ["--timeout", "30s", "-s", str(script), base + request.path]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return parsed(done.stdout)


def medians(rounds: Sequence[Figures]) -> Figures:
    """Of each figure; the fewest errors are not hidden: their sum."""
    found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    return found | {"errors": sum(each["errors"] for each in rounds)}
