"""Targets for atheris (https://github.com/google/atheris), each a program of its own.

A target imports what it tests under ``atheris.instrument_imports``, has a function that takes
bytes, and ends with :func:`atheris.Setup` and :func:`atheris.Fuzz`. Anything but an input error
that comes out of it is a finding, and so are a crash and too much memory.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

RUNS = pytest.mark.parametrize("runs", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
REPOSITORY = Path(__file__).parent.parent.parent


def run_target(
    module: str,
    corpus: Iterable[bytes],
    folder: Path,
    *,
    runs: int,
    most_bytes: int = 4_096,
    most_seconds: int = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``tests/fuzz/<module>.py`` a fixed number of times, from a fixed seed.

    Args:
        module: the name of the target.
        corpus: bodies to start from.
        folder: an empty one, where the corpus and a finding are kept.
        runs: how many inputs are tried.
        most_bytes: the longest of them.
        most_seconds: for a machine that is far too slow; a run that ends so has failed.
    """
    seeds = folder / "corpus"
    seeds.mkdir()
    for number, body in enumerate(corpus):
        (seeds / f"seed-{number}").write_bytes(body)
    options = [
        f"-runs={runs}",
        "-seed=1",
        f"-max_len={most_bytes}",
        "-rss_limit_mb=1024",
        "-malloc_limit_mb=512",
        "-timeout=25",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
    ]
    # By way of a shell: Linux counts the peak of whoever calls exec() as the new program's own.
    by_shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    return subprocess.run(
        [*by_shell, sys.executable, "-m", f"tests.fuzz.{module}", *options, str(seeds)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=most_seconds,
        check=False,
    )
