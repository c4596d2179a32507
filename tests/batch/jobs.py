"""``scoring-runtime batch`` as a process, and scripts for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hosts.standalone import clean_environ

MODULE = (sys.executable, "-m", "scoring_runtime", "batch")

# A line of CSV in, its sum out; the answers of a part are as many as its rows.
SUMS = '''
"""Sums of rows, and what cannot be summed."""
import os
import time

from scoring_runtime import InputError


def init():
    pass


def run(data):
    header, *lines = data.splitlines()
    time.sleep(float(os.environ.get("TEST_SECONDS", "0")))
    return {"result": [total(line) for line in lines if line.strip()]}


def total(line):
    if "refuse" in line:
        raise InputError("not to be summed")
    if "die" in line:
        os._exit(9)
    return sum(float(each) for each in line.split(","))
'''


def command(*arguments: str | Path) -> list[str]:
    """The command line."""
    return [*MODULE, *map(str, arguments)]


def batch(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A batch that ends by itself."""
    return subprocess.run(
        command(*arguments),
        env=clean_environ(**environ),
        capture_output=True,
        text=True,
        timeout=240,
    )


def summary(*arguments: str | Path, code: int = 0, **environ: str) -> dict[str, Any]:
    """The summary of a batch that ends with this code."""
    done = batch(*arguments, "--json", **environ)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
