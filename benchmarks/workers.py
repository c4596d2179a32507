"""Several workers: how even connections are, what a second one gains, and what it costs in memory.

``python -m benchmarks.workers`` measures with wrk on the same machine, whose processors it shares:
rates are medians of the rounds, one worker and two in turn. Memory is the proportional set size
(PSS) of all workers together after each has scored.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from tests.hosts.waiting import until
from tests.models_for_tests import ModelHost

from . import machine, wrk
from .wrk import Request

WORKERS = ("1", "2")
UNCAPPED = dict.fromkeys(
    ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "ORT_INTRA_OP_NUM_THREADS"), str(os.cpu_count())
)
# What two workers are compared with: one; two whose libraries each take all processors.
WAYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "one worker": ("1", {}),
    "two workers": ("2", {}),
    "two workers, threads not divided": (
        "2",
        {**UNCAPPED, "SCORING_ONNX_INTRA_OP_THREADS": str(os.cpu_count())},
    ),
}
PRELOAD = {"each loads it": "false", "WORKER_PRELOAD": "true"}
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    options = _options()
    wrk.needed()
    with tempfile.TemporaryDirectory() as folder:
        figures = {part: PARTS[part](Path(folder), options) for part in options.parts}
    print(json.dumps(figures, indent=2) if options.json else tables(figures))


def _options() -> argparse.Namespace:
    parser = machine.options(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


# --- rates ----------------------------------------------------------------------------------------


def rates(folder: Path, options: argparse.Namespace) -> Figures:
    """Requests per second by 64 connections, and p99 in milliseconds."""
    from sklearn.ensemble import RandomForestClassifier

    x, y = _data(2000, 20)
    forest = RandomForestClassifier(100, n_jobs=-1, random_state=0).fit(x, y > 0)
    _joblib(folder / "random forest, n_jobs=-1", forest)
    _onnx(folder / "ONNX, 16 x 512 x 512", 16, 512, external=False)
    found: Figures = {}
    for name, width in (("random forest, n_jobs=-1", 20), ("ONNX, 16 x 512 x 512", 512)):
        data = {"data": _data(8, width)[0].round(3).tolist()}
        request = Request("/score", json.dumps(data).encode())
        rounds: dict[str, list[wrk.Figures]] = {way: [] for way in WAYS}
        for _, (way, (count, environ)) in product(range(options.rounds), WAYS.items()):
            with ModelHost(folder / name, environ={"WORKER_COUNT": count, **environ}) as host:
                _all_ready(host, count)
                rounds[way].append(wrk.load(host.url, request, 64, options.seconds))
        found[name] = {way: wrk.medians(each) for way, each in rounds.items()}
    return found


def spread(folder: Path, options: argparse.Namespace) -> Figures:
    """The connections of each of two workers, most first, for 16 and 64 of wrk."""
    _joblib(folder / "small", _nearest(100, 2))
    body = Request("/score", b'{"data": [[0, 0]]}')
    found: Figures = {}
    with ModelHost(folder / "small", environ={"WORKER_COUNT": "2"}) as host:
        _all_ready(host, "2")
        idle = {pid: _sockets(pid) for pid in _workers(host)}
        for count, _ in product((16, 64), range(options.rounds)):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(wrk.load, host.url, body, count, 1)
                until(lambda: sum(map(_sockets, idle)) - sum(idle.values()) >= count)  # noqa: B023
                each = [_sockets(pid) - before for pid, before in idle.items()]
            found.setdefault(str(count), []).append(sorted(each, reverse=True))
    return found


# --- memory ---------------------------------------------------------------------------------------


def memory(folder: Path, options: argparse.Namespace) -> Figures:
    """MB of all workers, by model, workers and WORKER_PRELOAD."""
    from sklearn.ensemble import RandomForestClassifier

    x, y = _data(30_000, 20)
    forest = RandomForestClassifier(80, n_jobs=-1, random_state=0).fit(x, y > 0)
    widths = {"neighbours": 128, "neighbours, compressed": 128, "random forest": 20}
    widths |= {"ONNX": 4096, "ONNX, external data": 4096}
    nearest = _nearest(200_000, 128)
    _joblib(folder / "neighbours", nearest)
    _joblib(folder / "neighbours, compressed", nearest, 1)
    _joblib(folder / "random forest", forest)
    _onnx(folder / "ONNX", 4, 4096, external=False)
    _onnx(folder / "ONNX, external data", 4, 4096, external=True)
    found: Figures = {}
    for name, count, (way, preload) in product(widths, WORKERS, PRELOAD.items()):
        if (count, preload) == ("1", "true"):
            continue
        environ = {"WORKER_COUNT": count, "WORKER_PRELOAD": preload}
        with ModelHost(folder / name, environ=environ) as host:
            _all_ready(host, count)
            body = {"data": [[0.5] * widths[name]]}
            for _ in range(32):  # each on a connection of its own
                httpx.post(f"{host.url}/score", json=body, timeout=60).raise_for_status()
            processes = {host.process.pid, *_workers(host)}
            found.setdefault(name, {})[f"{count}, {way}"] = round(sum(map(_pss, processes)))
    return found


def _pss(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0]) / 1000


# --- models and processes -------------------------------------------------------------------------


def _data(rows: int, width: int) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    return random.normal(size=(rows, width)), random.normal(size=rows)


def _nearest(rows: int, width: int) -> Any:
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(algorithm="brute").fit(*_data(rows, width))


def _joblib(folder: Path, model: object, compress: int = 0) -> None:
    import joblib

    folder.mkdir()
    joblib.dump(model, folder / "model.joblib", compress=compress)


def _onnx(folder: Path, layers: int, width: int, *, external: bool) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    whole = _data(width, width)[0].astype("float32") / width
    weights = [whole * number for number in range(1, layers + 1)]  # equal ones would be held once
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)],
        "graph",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(each, f"w{i}") for i, each in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    file = folder / "model.onnx"
    onnx.save_model(model, file, save_as_external_data=external, location="weights.bin")


def _all_ready(host: ModelHost, count: str) -> None:
    until(lambda: host.log.count("ready for serving traffic") == int(count))


def _workers(host: ModelHost) -> list[int]:
    pid = host.process.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _sockets(pid: int) -> int:
    return sum("socket:" in os.path.realpath(each) for each in Path(f"/proc/{pid}/fd").iterdir())


def tables(figures: Figures) -> str:
    """As Markdown."""
    lines = []
    for part, found in figures.items():
        lines += ["", f"| {part} | | |", "| --- | --- | --- |"]
        for name, each in found.items():
            cells = each.items() if isinstance(each, dict) else [("most, fewest", each)]
            for way, value in cells:
                shown = value if not isinstance(value, dict) else (
                    f"{value['rate']:,.0f}/s, p99 {value['p99_ms']:.1f} ms"
                )  # fmt: skip
                lines.append(f"| {name} | {way} | {shown} |")
    return "\n".join(lines[1:])


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], Figures]] = {
    "rates": rates,
    "spread": spread,
    "memory": memory,
}

if __name__ == "__main__":
    main()
