"""What one hostile or odd input takes, and what stays of it: each in a process of its own."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hostile import BODIES
from tests.hosts.standalone import StandaloneHost, clean_environ
from tests.leaks import KINDS, MEGABYTE, REQUESTS
from tests.models_for_tests import saved, sum_estimator

PATIENCE = 60.0
SECONDS = 10.0
SCHEMA = """
import gc
import numpy as np
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
def init(): gc.disable()
@input_schema("x", NumpyParameterType(np.array([[1.0]]), enforce_shape=False))
def run(x): return float(x.sum())
"""


def run_module(name: str, *arguments: str) -> str:
    """The standard output of ``python -m name``."""
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resident(process: int) -> float:
    """The megabytes of memory that a process has."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


# --- what stays -----------------------------------------------------------------------------------


def some(names: Iterable[str], quick: set[str]) -> list[Any]:
    """The names; all but the quick ones are for the long tests."""
    return [each if each in quick else pytest.param(each, marks=pytest.mark.long) for each in names]


@pytest.fixture(scope="module")
def left(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, int]]:
    """For each kind of request the bytes that stay and the requests that can be reached."""
    calls = (getattr(each, "callspec", None) for each in request.session.items)
    chosen = [call.params["kind"] for call in calls if call and call.params.get("kind") in KINDS]
    folder = tmp_path_factory.mktemp("leaks")
    saved(folder / "m", sum_estimator())
    told = run_module("tests.leaks", str(folder), *chosen).splitlines()
    lines = [line.split("\t") for line in told]
    return {name: (int(size), int(alive)) for name, size, alive in lines}


QUICK_KINDS = {"answered", "not text", "run() raises", "timeout", "async raises", "batched raises"}


@pytest.mark.parametrize("kind", some(KINDS, QUICK_KINDS))
def test_nothing_of_a_request_stays_after_its_answer(kind: str, left: dict[str, Any]) -> None:
    size, alive = left[kind]
    assert alive == 0
    assert size < REQUESTS * MEGABYTE / 8


# --- what is taken --------------------------------------------------------------------------------


SLOW_BODIES = {"CSV of line ends", "CSV of carriage returns", "CSV of quoted line ends",
               "CSV of spaces"}  # fmt: skip


@pytest.mark.parametrize("name", some(BODIES, {*BODIES} - SLOW_BODIES))
def test_a_small_body_takes_neither_long_nor_much_memory(name: str) -> None:
    seconds, megabytes, refusal = json.loads(run_module("tests.hostile", name))
    assert re.search(BODIES[name].refusal, refusal), refusal
    assert seconds < SECONDS
    assert megabytes < 1500


@pytest.mark.parametrize("times", [4, pytest.param(40, marks=pytest.mark.long)])
def test_json_that_grows_does_not_reach_a_schema_script(write_script: Any, times: int) -> None:
    """So many times 96 kB that would be 2.6 GB each; health is answered meanwhile."""
    body = gzip.compress(b'{"x":[' + b"{}," * 33_000_000 + b"{}]}")
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    slowest, answered = 0.0, threading.Event()
    with StandaloneHost(write_script(SCHEMA)) as host:

        def look() -> None:
            nonlocal slowest
            with httpx.Client(base_url=host.url, timeout=PATIENCE) as client:
                while not answered.is_set():
                    began = time.monotonic()
                    assert client.get("/health/live").status_code == 200
                    slowest = max(slowest, time.monotonic() - began)
                    time.sleep(0.01)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            for _ in range(times):
                reply = httpx.post(
                    f"{host.url}/score", content=body, headers=headers, timeout=PATIENCE
                )
                assert reply.status_code == 413
                assert "10 times SCORING_MAX_BODY_BYTES (104857600)" in reply.json()["message"]
            assert resident(host.process.pid) < 1000
        finally:
            answered.set()
            looking.join(PATIENCE)
        values = json.dumps({"x": [[1.5, 2.5]]})
        headers["content-encoding"] = "identity"
        good = httpx.post(f"{host.url}/score", content=values, headers=headers, timeout=PATIENCE)
        assert good.json() == 4.0
    assert slowest < 5  # 20 s before; on a quiet machine a tenth of a second
