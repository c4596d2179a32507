"""The V2 codec under atheris: a bounded run, from requests as clients send them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import RUNS, run_target


def seeds() -> Iterator[bytes]:
    """A request of each kind, in JSON and binary, numbers and text; it asks for an output."""
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
def test_any_bytes_are_a_request_or_an_input_error(runs: int, tmp_path: Path) -> None:
    """No crash, no other error, no memory beyond the limit; what is read is written as it was."""
    finished = run_target("fuzz_open_inference", seeds(), tmp_path, runs=runs, most_bytes=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"Done {runs} runs" in finished.stderr
