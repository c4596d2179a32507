"""The V2 codec under atheris: a bounded run, from requests as clients send them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).parent / "fuzz" / "fuzz_open_inference.py"
RUNS = 40_000


def seeds(folder: Path) -> None:
    """One request of each kind: JSON, binary, text, and a request that asks for outputs."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [None, 4]]},
        {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
    ]
    tails = [b"", b"", b"\0\1", b"\1\0\0\0a"]
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    for index, (each, tail) in enumerate(zip(inputs, tails, strict=True)):
        header = json.dumps({"id": "i", "inputs": [each], "outputs": outputs}).encode()
        seed = b"\0" + struct.pack("<h", len(header)) + header + tail
        (folder / f"request{index}").write_bytes(seed)


def test_any_bytes_are_a_request_or_an_input_error(tmp_path: Path) -> None:
    """No crash, no other error, no memory beyond the limit; what is read is written as it was."""
    seeds(tmp_path)
    finished = subprocess.run(
        [
            sys.executable,
            str(TARGET),
            str(tmp_path),
            f"-runs={RUNS}",
            "-seed=1",
            "-max_len=600",
            "-rss_limit_mb=1024",
            f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=TARGET.parent.parent.parent,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"Done {RUNS} runs" in finished.stderr
