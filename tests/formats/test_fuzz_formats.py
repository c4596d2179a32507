"""atheris finds no bytes that crash the readers of binary formats, or that take much memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from scoring_runtime.formats import npy
from tests.fuzz import RUNS, run_target


def npy_corpus() -> list[bytes]:
    """One body for each kind of array."""
    kinds = ("?", "i1", ">i4", "f2", ">f8", "c16", "U3", ">U2", "S3", "M8[s]", "m8[25us]")
    bodies = [npy.encode({"y": np.arange(6).reshape(2, 3).astype(kind)}) for kind in kinds]
    for values in (np.asfortranarray(np.eye(3)), np.zeros((0, 2))):
        out = io.BytesIO()
        np.lib.format.write_array(out, values, (2, 0))
        bodies.append(out.getvalue())
    return bodies


@RUNS
def test_npy_survives_so_many_bodies(runs: int, tmp_path: Path) -> None:
    done = run_target("fuzz_npy", npy_corpus(), tmp_path, runs=runs)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert f"stat::number_of_executed_units: {runs}" in done.stderr


def test_a_target_that_fails_is_seen(tmp_path: Path) -> None:
    """The runner would notice: a body that the target does not survive ends it with an error."""
    done = run_target("fuzz_failing", [b"boom"], tmp_path, runs=100)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert [path.name[:6] for path in tmp_path.iterdir() if path.is_file()] == ["crash-"]
