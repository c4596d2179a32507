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
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import httpx

from tests.hosts.waiting import until
from tests.models_for_tests import ModelHost

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
    if shutil.which("wrk") is None:
        raise SystemExit("benchmarks need wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        figures = {part: PARTS[part](Path(folder), options) for part in options.parts}
    print(json.dumps(figures, indent=2) if options.json else tables(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--json", action="store_true", help="machine-readable")
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
        body = json.dumps({"data": _data(8, width)[0].round(3).tolist()})
        rounds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _, (way, (count, environ)) in product(range(options.rounds), WAYS.items()):
            with ModelHost(folder / name, environ={"WORKER_COUNT": count, **environ}) as host:
                _all_ready(host, count)
                rounds[way].append(_wrk(f"{host.url}/score", 64, options.seconds, folder, body))
        found[name] = {
            way: {"rate": statistics.median(r for r, _ in each),
                  "p99_ms": statistics.median(p for _, p in each)}
            for way, each in rounds.items()
        }  # fmt: skip
    return found


def spread(folder: Path, options: argparse.Namespace) -> Figures:
    """The connections of each of two workers, most first, for 16 and 64 of wrk."""
    _joblib(folder / "small", _nearest(100, 2))
    body = json.dumps({"data": [[0, 0]]})
    found: Figures = {}
    with ModelHost(folder / "small", environ={"WORKER_COUNT": "2"}) as host:
        _all_ready(host, "2")
        idle = {pid: _sockets(pid) for pid in _workers(host)}
        for count, _ in product((16, 64), range(options.rounds)):
            command = _command(f"{host.url}/score", count, 1, folder, body)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL):
                until(lambda: sum(map(_sockets, idle)) - sum(idle.values()) >= count)  # noqa: B023
                each = [_sockets(pid) - before for pid, before in idle.items()]
            found.setdefault(str(count), []).append(sorted(each, reverse=True))
    return found


def _wrk(url: str, connections: int, seconds: int, folder: Path, body: str) -> tuple[float, float]:
    command = _command(url, connections, seconds, folder, body)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"errors under load:\n{out}")
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s) *\n", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert p99 is not None and rate is not None, out
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]


def _command(url: str, connections: int, seconds: int, folder: Path, body: str) -> list[str]:
    script = folder / "post.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = [==[{body}]==]\n')
    how = [f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "30s"]
    return ["wrk", "-t1", *how, "-s", str(script), url]


# --- memory ---------------------------------------------------------------------------------------


def memory(folder: Path, options: argparse.Namespace) -> Figures:
    """MB of all workers, by model, workers and WORKER_PRELOAD."""
    from sklearn.ensemble import RandomForestClassifier

    x, y = _data(30_000, 20)
    forest = RandomForestClassifier(80, n_jobs=-1, random_state=0).fit(x, y > 0)
    widths = {"neighbours, 205 MB": 128, "random forest": 20, "ONNX": 4096, "ONNX, external": 4096}
    _joblib(folder / "neighbours, 205 MB", _nearest(200_000, 128))
    _joblib(folder / "random forest", forest)
    _onnx(folder / "ONNX", 4, 4096, external=False)
    _onnx(folder / "ONNX, external", 4, 4096, external=True)
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


def _joblib(folder: Path, model: object) -> None:
    import joblib

    folder.mkdir()
    joblib.dump(model, folder / "model.joblib")


def _onnx(folder: Path, layers: int, width: int, *, external: bool) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [_data(width, width)[0].astype("float32") / width for _ in range(layers)]
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
