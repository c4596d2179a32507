"""Formats: 100 rows of 64 numbers to an ONNX model without a script, in every format.

``python -m benchmarks.formats`` measures each with wrk on the same machine, one worker, and
azureml-inference-server-http with a script that does the same by ``json.loads``; requests per
second as medians of three rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scoring_runtime.formats import csv, json_lines, npy
from tests.hosts.standalone import clean_environ, free_port

from .http import ROOT, SCRIPTS, _make_models, _need_wrk, _peer, _wait

ROWS, COLUMNS = 100, 64
PEER = "azureml-inference-server-http, JSON"
OURS = "JSON"


class Case(NamedTuple):
    """One request: path, headers, body."""

    path: str
    headers: dict[str, str]
    body: bytes


def main() -> None:
    """Measure and print."""
    options = _options()
    _need_wrk()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        models.mkdir()
        _make_models(models)
        (models / "digits.pkl").unlink()
        cases = _cases()
        figures = {PEER: _measured("peer", {PEER: cases[OURS]}, models, options)[PEER]}
        figures |= _measured("ours", cases, models, options)
    print(json.dumps(figures, indent=2) if options.json else _table(figures, cases))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser.parse_args()


def _cases() -> dict[str, Case]:
    rows = np.random.default_rng(1).random((ROWS, COLUMNS), dtype=np.float32)
    columns = {f"c{index}": rows[:, index] for index in range(COLUMNS)}
    v2 = {"name": "input", "shape": [ROWS, COLUMNS], "datatype": "FP32"}
    flat = {**v2, "data": rows.reshape(-1).tolist()}
    head = json.dumps(
        {
            "inputs": [{**v2, "parameters": {"binary_data_size": rows.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    octets = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    json_type = {"Content-Type": "application/json"}
    infer = "/v2/models/models/infer"
    lists = json.dumps({"data": rows.tolist()}).encode()
    return {
        OURS: Case("/score", json_type, lists),
        "CSV": Case("/score", {"Content-Type": "text/csv"}, csv.encode(columns)),
        "JSON Lines": Case(
            "/score", {"Content-Type": "application/jsonl"}, json_lines.encode(columns)
        ),
        "npy": Case("/score", {"Content-Type": "application/x-npy"}, npy.encode({"": rows})),
        "V2 JSON": Case(infer, json_type, json.dumps({"inputs": [flat]}).encode()),
        "V2 binary": Case(infer, octets, head + rows.tobytes()),
    }


def _measured(
    kind: str, cases: dict[str, Case], models: Path, options: argparse.Namespace
) -> dict[str, float]:
    with _serving(kind, models) as port:
        rounds = [
            {name: _rate(port, case, models, options) for name, case in cases.items()}
            for _ in range(options.rounds)
        ]
    return {name: statistics.median(each[name] for each in rounds) for name in cases}


@contextlib.contextmanager
def _serving(kind: str, models: Path) -> Iterator[int]:
    port = free_port()
    commands = {
        "peer": [
            str(_peer() / "azmlinfsrv") if kind == "peer" else "", "--entry_script",
            str(SCRIPTS / "onnx_batch.py"), "--model_dir", str(models), "--port", str(port),
        ],
        "ours": [
            sys.executable, "-m", "scoring_runtime", "serve", "--model-dir", str(models),
            "--port", str(port), "--host", "127.0.0.1",
        ],
    }  # fmt: skip
    log = models.parent / "server.log"
    environ = clean_environ(AZUREML_MODEL_DIR=str(models), AML_APP_ROOT=str(models.parent))
    with log.open("wb") as output:
        process = subprocess.Popen(
            commands[kind], env=environ, cwd=ROOT, stdout=output, stderr=output
        )
        try:
            _wait(port, process, log)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _rate(port: int, case: Case, models: Path, options: argparse.Namespace) -> float:
    body, script = models.parent / "body", models.parent / "post.lua"
    body.write_bytes(case.body)
    headers = "".join(f'wrk.headers["{n}"] = "{v}"\n' for n, v in case.headers.items())
    script.write_text(
        f'wrk.method = "POST"\nlocal file = io.open("{body}", "rb")\n'
        f'wrk.body = file:read("*all")\nfile:close()\n{headers}'
    )
    url = f"http://127.0.0.1:{port}{case.path}"
    command = ["wrk", "-t1", f"-c{options.connections}", "-s", str(script), url]
    subprocess.run([*command, "-d1"], check=True, capture_output=True)
    done = subprocess.run(
        [*command, f"-d{options.seconds}"], check=True, capture_output=True, text=True
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"errors under load ({case.path}):\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate is not None, done.stdout
    return float(rate[1])


def _table(figures: dict[str, Any], cases: dict[str, Case]) -> str:
    lines = [
        "| 100 rows of 64 numbers | body | requests/s | of the old server | of our JSON |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, rate in figures.items():
        size = len(cases.get(name, cases[OURS]).body) / 1000
        of_peer, of_json = rate / figures[PEER], rate / figures[OURS]
        lines.append(f"| {name} | {size:.0f} kB | {rate:,.0f} | {of_peer:.1f}x | {of_json:.1f}x |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
