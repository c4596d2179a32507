"""atheris finds no bytes that crash the readers of binary formats, or that take much memory."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
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


def infer_corpus() -> Iterator[bytes]:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [None, 4]]},
        {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
    ]
    tails = [b"", b"", b"\0\1", b"\1\0\0\0a"]
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    for each, tail in zip(inputs, tails, strict=True):
        header = json.dumps({"id": "i", "inputs": [each], "outputs": outputs}).encode()
        yield b"\0" + struct.pack("<h", len(header)) + header + tail


@RUNS
def test_any_bytes_are_a_v2_request_or_an_input_error(runs: int, tmp_path: Path) -> None:
    finished = run_target(
        "fuzz_open_inference", infer_corpus(), tmp_path, runs=runs, most_bytes=600
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"Done {runs} runs" in finished.stderr


def test_a_target_that_fails_is_seen(tmp_path: Path) -> None:
    """The runner would notice: a body that the target does not survive ends it with an error."""
    done = run_target("fuzz_failing", [b"boom"], tmp_path, runs=100)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert [path.name[:6] for path in tmp_path.iterdir() if path.is_file()] == ["crash-"]
