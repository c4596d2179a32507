"""``make``: what it says at once, what it says meanwhile, and every example served."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.hosts.redis import RedisServer
from tests.hosts.standalone import clean_environ, reserved_port
from tests.hosts.waiting import until

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/requirements.txt"))


def make(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """As typed at a terminal, not as a part of the make that runs the tests."""
    environ = {**clean_environ(**environ), "MAKEFLAGS": "", "MAKELEVEL": "0"}
    return subprocess.run(
        ["make", *words],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):(?!=)", text, re.MULTILINE)}
    targets -= {"help", "prepare", "prepare-long"}
    lines = re.findall(r"^make ((?:[a-z-]+ )+) *\w", make("help").stdout, re.MULTILINE)
    named = {name for line in lines for name in line.split()}
    assert targets <= named
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize("target", ["serve", "image"])
def test_an_unknown_example_lists_those_there_are(target: str, tmp_path: Path) -> None:
    done = make(target, "EXAMPLE=nope", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    listed = re.search(r"There is no example nope\. Examples: (.*)\.  Stop", done.stderr)
    assert listed is not None and sorted(listed[1].split()) == EXAMPLES
    assert not (tmp_path / "venv").exists()


def test_a_port_that_is_no_number_is_refused_at_once(tmp_path: Path) -> None:
    done = make("serve", "PORT=x1", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2 and done.stdout == ""
    assert "PORT is x1, and a number is needed: make serve PORT=5002." in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("said", "works"),
    [("3.10.12", False), ("2.7.18", False), ("3.11.0", True), ("3.14.0", True), ("", False)],
)
def test_a_python_that_is_too_old_is_said_at_once(said: str, works: bool, tmp_path: Path) -> None:
    """Before anything is installed with it."""
    if said:
        (tmp_path / "python3.10").write_text(f"#!/bin/sh\necho Python {said} $2\n")
        (tmp_path / "python3.10").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    words = ("PYTHON=python3.10", f"VENV={tmp_path / 'venv'}")
    done = make("serve", *words, PATH=path if said else "/usr/bin:/bin")
    problem = f"python3.10 is {f'Python {said} ' if said else 'not to be found'}"
    if works:
        assert "Making" in done.stdout and problem.strip() not in done.stderr
    else:
        advice = "and Python 3.11 or newer is needed: make serve PYTHON=python3.12"
        assert f"{problem.strip()}, {advice}" in done.stderr
        assert done.stdout == ""


@contextmanager
def served(
    example: str, venv: Path, port: int, **environ: str
) -> Iterator[list[tuple[float, str]]]:
    """What ``make serve`` writes, with the time of each piece, until it is ready."""
    process = subprocess.Popen(
        ["make", "serve", f"EXAMPLE={example}", f"VENV={venv}", f"PORT={port}"],
        cwd=ROOT,
        env=clean_environ(**environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    pieces = [(time.monotonic(), "")]
    try:
        while "Documentation: " not in (piece := os.read(process.stdout.fileno(), 65536).decode()):
            assert piece, "".join(text for _, text in pieces)
            pieces.append((time.monotonic(), piece))
        pieces.append((time.monotonic(), piece))
        until(is_ready, port)
        yield pieces
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.stdout.close()
        process.wait(30)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.long
def test_every_example_is_served_and_answers_what_it_says_to_try(tmp_path: Path) -> None:
    """In one new environment; nothing takes ten seconds without a sign of life."""
    venv = tmp_path / "venv"
    for example in EXAMPLES:
        with RedisServer() as redis, reserved_port() as reserved:
            for number in (1, 2):
                redis.client().set(f"patient:{number}", "[1,2,3,4,5,6,7,8,9,10]")
            port = int(reserved.getsockname()[1])
            place = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "REDIS_SSL": "false"}
            place = place if example == "redis-cache" else {}  # it would turn on a cache
            with served(example, venv, port, PYTHON=sys.executable, **place) as pieces:
                text = "".join(piece for _, piece in pieces)
                times = [at for at, _ in pieces]
                assert max(b - a for a, b in pairwise(times)) < 10, text
                activate = f"\nTo use it in a shell: . {venv}/bin/activate\n"
                assert (activate in text) is (example == EXAMPLES[0])
                [curl] = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
                done = subprocess.run([*shlex.split(curl), "-sf"], cwd=ROOT, capture_output=True)
                assert done.returncode == 0 and done.stdout, (example, text)
