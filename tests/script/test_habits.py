"""What people do in entry scripts beside scoring, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hosts.standalone import StandaloneHost, clean_environ

DATES = """
from datetime import date, datetime
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.standard_py_parameter_type import (
    StandardPythonParameterType as Standard,
)
def init(): ...
@input_schema("day", Standard(date(2024, 1, 31)))
@input_schema("rows", Standard([Standard({"on": Standard(date.min)})]))
def run(day, rows):
    return [type(day).__name__, day, type(rows[0]["on"]).__name__, rows[0]["on"]]
"""
SIGNALS = """
import signal
def init(): signal.signal(signal.SIGTERM, lambda *_: None)
def run(data): ...
"""
HABITS: dict[str, tuple[str, Any]] = {
    "a function through joblib's processes": (
        """
        import joblib
        factor = 3
        def times(number): return number * factor
        def init(): ...
        def run(data):
            return joblib.Parallel(n_jobs=2)(joblib.delayed(times)(each) for each in (1, 2))
        """,
        [3, 6],
    ),
    "cloudpickle itself": (
        """
        import cloudpickle, subprocess, sys
        def one(): return 1
        def init(): ...
        def run(data):
            code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)())"
            return subprocess.run(
                [sys.executable, "-c", code], input=cloudpickle.dumps(one), capture_output=True
            ).stdout.decode().strip()
        """,
        "1",
    ),
    "the current event loop in init() and run()": (
        """
        import asyncio
        async def after(value):
            await asyncio.sleep(0)
            return value
        def init():
            global loop, first
            loop = asyncio.get_event_loop()
            first = loop.run_until_complete(after(1))
        def run(data):
            second = asyncio.get_event_loop().run_until_complete(after(2))
            return [first, second, asyncio.get_event_loop() is loop]
        """,
        [1, 2, True],
    ),
    "flask's request and jsonify": (
        """
        from flask import g, jsonify, request
        def init(): ...
        def run(data):
            g.seen = request.get_json()
            return jsonify(seen=g.seen, type=request.headers["Content-Type"], got=data)
        """,
        {"got": "[1]", "seen": [1], "type": "application/json"},
    ),
}


def scored(folder: Path, source: str, body: bytes) -> subprocess.CompletedProcess[bytes]:
    (folder / "score.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-m", "scoring_runtime", "score", "--entry-script", "score.py"],
        input=body,
        capture_output=True,
        cwd=folder,
        env=clean_environ(),
        timeout=120,
    )


@pytest.mark.parametrize("name", HABITS)
def test_habits_of_scripts(name: str, tmp_path: Path) -> None:
    """Each works as it did where the script was the program's own code."""
    source, answer = HABITS[name]
    done = scored(tmp_path, source, b"[1]")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == answer


def test_a_signal_handler_is_a_warning_and_the_host_still_ends_on_sigterm(tmp_path: Path) -> None:
    """Python lets the main thread alone set handlers; the host's own stays."""
    script = tmp_path / "score.py"
    script.write_text(textwrap.dedent(SIGNALS))
    with StandaloneHost(script) as host:
        assert "signal.signal(15) has no effect: the host handles the signals" in host.log
        assert host.stop() == 0


def test_every_scoring_thread_has_an_open_current_loop(tmp_path: Path) -> None:
    """With SCORING_CONCURRENCY too, where other threads than that of init() call run()."""
    script = tmp_path / "score.py"
    script.write_text(textwrap.dedent(HABITS["the current event loop in init() and run()"][0]))
    with StandaloneHost(script, environ={"SCORING_CONCURRENCY": "3"}) as host:
        for _ in range(6):
            assert httpx.post(f"{host.url}/score", timeout=60).json()[:2] == [1, 2]


@pytest.mark.fix
def test_dates_of_inference_schema_convert(tmp_path: Path) -> None:
    """Row 28's kind: the library calls date.strptime, which Python has since 3.14 only."""
    done = scored(tmp_path, DATES, b'{"day": "2024-02-29", "rows": [{"on": "2023-12-01"}]}')
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == ["date", "2024-02-29", "date", "2023-12-01"]


def test_what_is_no_date_is_refused_by_the_name_of_its_element(tmp_path: Path) -> None:
    """A nested value too: the element is named, with what it should be and what came."""
    done = scored(
        tmp_path, DATES, b'{"day": "2024-02-29", "rows": [{"on": "2023-12-01"}, {"on": 5}]}'
    )
    assert done.returncode == 2
    assert (
        "The value of the 'rows' parameter does not fit its schema: [1]['on']: expected a value of "
        "type date such as datetime.date(1, 1, 1), got int 5."
    ) in done.stderr.decode()


def test_a_batch_script_is_told_what_it_is_for(tmp_path: Path) -> None:
    """run(mini_batch) gets files in a batch endpoint, not here."""
    done = scored(tmp_path, "def init(): ...\ndef run(mini_batch): return []", b"")
    assert b"run(mini_batch) looks like a script of a batch endpoint" in done.stderr
