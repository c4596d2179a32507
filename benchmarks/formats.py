"""Formats: 100 rows of 64 numbers to an ONNX model without a script, in every format.

``python -m benchmarks.formats`` measures each with wrk on the same machine, one worker, and
azureml-inference-server-http with a script that does the same by ``json.loads``; requests per
second as medians of three rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from scoring_runtime.formats import csv, json_lines, npy

from . import machine, servers, wrk
from .machine import Quiet, progress
from .servers import AZUREML, LOADS, NO_SCRIPT, running
from .wrk import Request

ROWS, COLUMNS = 100, 64
PEER = "azureml-inference-server-http, JSON"
OURS = "JSON"


def main() -> None:
    """Measure and print."""
    options = _options()
    wrk.needed()
    if said := servers.install("azureml"):
        raise SystemExit(said)
    with tempfile.TemporaryDirectory() as folder, Quiet() as quiet:
        figures = _measured(Path(folder), _cases(), options, quiet)
    progress("")
    print(json.dumps(figures, indent=2) if options.json else tables(figures))


def _options() -> argparse.Namespace:
    parser = machine.options(__doc__, seconds=1)
    parser.add_argument("--connections", type=int, default=8)
    return parser.parse_args()


def _cases() -> dict[str, Request]:
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
    size = (("Inference-Header-Content-Length", str(len(head))),)
    infer = "/v2/models/onnx/infer"
    return {
        OURS: Request("/score", json.dumps({"data": rows.tolist()}).encode()),
        "CSV": Request("/score", csv.encode(columns), "text/csv"),
        "JSON Lines": Request("/score", json_lines.encode(columns), "application/jsonl"),
        "npy": Request("/score", npy.encode({"": rows}), "application/x-npy"),
        "V2 JSON": Request(infer, json.dumps({"inputs": [flat]}).encode()),
        "V2 binary": Request(infer, head + rows.tobytes(), "application/octet-stream", size),
    }


def _measured(
    folder: Path, cases: dict[str, Request], options: argparse.Namespace, quiet: Quiet
) -> dict[str, float]:
    load, models = LOADS["onnx-100"], folder / "models"
    rounds: dict[str, list[wrk.Figures]] = {name: [] for name in (PEER, *cases)}
    with (
        running(AZUREML, load, models, folder / "peer") as peer,
        running(NO_SCRIPT, load, models, folder / "ours") as ours,
    ):
        turns = {PEER: (peer.base, cases[OURS]), **{n: (ours.base, cases[n]) for n in cases}}
        for _ in range(options.rounds + 1):
            for name, (base, request) in turns.items():
                quiet.turn()
                progress(name)
                found = wrk.load(base, request, options.connections, options.seconds)
                rounds[name].append(found)
    return {name: wrk.medians(each[1:])["rate"] for name, each in rounds.items()}


def tables(figures: dict[str, Any]) -> str:
    """In Markdown."""
    rows = [
        [name, f"{rate:,.0f}", f"{rate / figures[PEER]:.1f}x", f"{rate / figures[OURS]:.1f}x"]
        for name, rate in figures.items()
    ]
    head = ["100 rows of 64 numbers", "requests/s", "of the old server", "of our JSON"]
    return machine.table(head, rows)


if __name__ == "__main__":
    main()
