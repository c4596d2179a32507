"""The Functions worker library: what the score function takes, to an empty HTTP function.

``python -m benchmarks.functions`` invokes an empty function, a script whose run() returns 1 and an
ONNX model without a script in Microsoft's worker library, in turn and each in a process of its
own, with one in flight and with sixteen; medians of three rounds. The invocation messages are made
beforehand: in the worker they come from its gRPC thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.hosts.functions import Message, Worker
from tests.hosts.standalone import clean_environ

from . import machine
from .machine import Quiet, progress

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "scripts" / "one.py"
EMPTY = """
import azure.functions as func

app = func.FunctionApp()


@app.route(route="score", auth_level="ANONYMOUS")
async def score(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"1")
"""
# What the Functions host sends for a small POST from curl.
HEADERS = {
    "accept": "*/*",
    "host": "127.0.0.1",
    "user-agent": "curl/8.5.0",
    "content-type": "application/json",
    "content-length": "2",
}
CALLS = 5000
IN_FLIGHT = 16
ROWS = b'{"data": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]}'
BODIES = {"empty": b"{}", "script": b"{}", "no script": ROWS}
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        app_dir, kind = options.child
        print(json.dumps(asyncio.run(_measure(Path(app_dir), BODIES[kind]))))
        return
    with tempfile.TemporaryDirectory() as folder, Quiet():
        rounds = []
        for number in range(options.rounds):
            progress(f"functions: round {number + 1} of {options.rounds}")
            rounds.append({kind: _run(Path(folder), kind) for kind in BODIES})
    progress("")
    figures: Figures = {
        kind: {key: statistics.median(r[kind][key] for r in rounds) for key in rounds[0][kind]}
        for kind in BODIES
    }
    print(json.dumps(figures) if options.json else tables(figures))


def _run(folder: Path, kind: str) -> dict[str, float]:
    app_dir, environ = ROOT, clean_environ()
    if kind == "empty":
        app_dir = folder
        (folder / "function_app.py").write_text(EMPTY)
    elif kind == "script":
        environ["AZUREML_ENTRY_SCRIPT"] = str(SCRIPT)
    else:
        environ["AZUREML_MODEL_DIR"] = str(_model(folder / "model"))
    command = [sys.executable, "-m", "benchmarks.functions", "--child", str(app_dir), kind]
    done = subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _model(folder: Path) -> Path:
    """One product of ten numbers: what is left is the server."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(exist_ok=True)
    weights = numpy_helper.from_array(np.ones((10, 1), dtype=np.float32), "weights")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in (("input", 10), ("output", 1))
    ]
    node = helper.make_node("MatMul", ["input", "weights"], ["output"])
    graph = helper.make_graph([node], "linear", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


async def _measure(app_dir: Path, body: bytes) -> dict[str, float]:
    # As the worker does: every line at INFO to one handler. It sends them to the host; here they
    # are formatted and thrown away, as the host's reading of them is not what is measured. The
    # worker writes a line for each invocation; our endpoint adds none on Functions.
    logging.basicConfig(level=logging.INFO, stream=open(os.devnull, "w"))  # noqa: SIM115
    worker = Worker()
    await worker.start(app_dir)
    headers = {**HEADERS, "content-length": str(len(body))}

    def events(count: int) -> list[Message]:
        url = "http://127.0.0.1/score"
        return [worker.http_event("score", "POST", url, headers, body) for _ in range(count)]

    async def many(some: list[Message]) -> list[float]:
        took = []
        for each in some:
            begin = time.perf_counter()
            reply = await asyncio.create_task(worker.invoke(each))  # as the worker does
            took.append(time.perf_counter() - begin)
            assert reply.return_value.http.body.bytes[:1] in b"1[{", reply.failure()
        return took

    await many(events(1000))
    one = await many(events(CALLS))
    several = events(CALLS)
    begin = time.perf_counter()
    await asyncio.gather(*(many(several[n::IN_FLIGHT]) for n in range(IN_FLIGHT)))
    seconds = time.perf_counter() - begin
    return {"p50_us": statistics.median(one) * 1e6, "per_second": CALLS / seconds}


def tables(figures: Figures) -> str:
    """In Markdown."""
    rows = [
        [kind, f"{f['p50_us']:.0f} µs", f"{f['p50_us'] / figures['empty']['p50_us']:.1f}",
         f"{f['per_second']:,.0f}/s", f"{f['per_second'] / figures['empty']['per_second']:.2f}"]
        for kind, f in figures.items()
    ]  # fmt: skip
    return machine.table(["", "one in flight, p50", "times", "16 in flight", "times"], rows)


if __name__ == "__main__":
    main()
