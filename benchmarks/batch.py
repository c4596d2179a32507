"""A big CSV by ``scoring-runtime batch``, and the same rows one by one over HTTP.

``python -m benchmarks.batch`` makes the rows, scores some over HTTP, all by a batch that is killed
three times and repeated, and all by one that is not. It says rows a second, the quotient, the most
memory of the batch's processes together, and whether each row is there once. The model is
scikit-learn's Ridge on its diabetes data, without a script; wrk is the client.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from tests.hosts.standalone import clean_environ, reserved_port

from . import machine, wrk
from .machine import Quiet, memory_mb

KILLS = 3
LIMITS = {"quotient": 15.0, "memory_mb": 500.0}
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the file")
    parser.add_argument("--seconds", type=int, default=5, help="over HTTP")
    options = parser.parse_args()
    wrk.needed()
    with tempfile.TemporaryDirectory() as room, Quiet():
        found = measured(Path(room), options.rows, options.seconds)
        figures = {"machine": machine.name(), "date": str(date.today()), **found}
    print(json.dumps(figures) if options.json else table(figures))


def measured(room: Path, count: int, seconds: int) -> Figures:
    """All figures; ``room`` is an empty folder."""
    data, target = load_diabetes(return_X_y=True, as_frame=True)
    (room / "model").mkdir()
    joblib.dump(Ridge(alpha=0.4).fit(data, target), room / "model" / "model.joblib")
    values = np.random.default_rng(0).normal(size=(count, data.shape[1]))
    with (room / "rows.csv").open("w") as file:
        file.write(",".join(data.columns) + "\n")
        np.savetxt(file, values, delimiter=",", fmt="%.5g")
    figures: Figures = {"rows": count, "over_http": over_http(room, values[0].tolist(), seconds)}
    killed = [killed_batch(room) for _ in range(KILLS)]
    figures["killed_at"] = killed
    took, _ = batch(room, "killed.csv")
    figures["rows_after_kills"] = rows_in(room / "killed.csv")
    took, memory = batch(room, "scored.csv")
    figures |= {"seconds": took, "per_second": count / took, **memory}
    figures["quotient"] = figures["per_second"] / figures["over_http"]["1"]
    same = (room / "killed.csv").read_bytes() == (room / "scored.csv").read_bytes()
    figures["same_bytes_after_kills"] = same
    return figures


def over_http(room: Path, row: list[float], seconds: int) -> dict[str, float]:
    """Rows a second, one in each request, by the number of connections."""
    request = wrk.Request("/score", json.dumps({"data": [row]}).encode())
    with reserved_port() as reserved, served(room, reserved.getsockname()[1]) as url:
        return {str(n): wrk.load(url, request, n, seconds)["rate"] for n in (1, 16)}


@contextlib.contextmanager
def served(room: Path, port: int) -> Iterator[str]:
    """The model behind HTTP, with two workers."""
    words = ["serve", "--model-dir", str(room / "model"), "--port", str(port), "--workers", "2"]
    command = [sys.executable, "-m", "scoring_runtime", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=clean_environ(), **quiet) as process:  # type: ignore[call-overload]
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            time.sleep(0.05)
        yield url
        process.terminate()


def command(room: Path, target: str) -> list[str]:
    """Of a batch with two workers."""
    words = ("-m", "scoring_runtime", "batch", "--workers", "2", "--model-dir", room / "model")
    return [sys.executable, *map(str, words), "--input", str(room / "rows.csv"), "--output",
            str(room / target)]  # fmt: skip


def batch(room: Path, target: str) -> tuple[float, dict[str, float]]:
    """How long it takes, start and end included, and the most memory of its processes."""
    began, most = time.monotonic(), {"memory_mb": 0.0, "rss_mb": 0.0}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(room, target), env=clean_environ(), **quiet) as process:  # type: ignore[call-overload]
        while process.poll() is None:
            with contextlib.suppress(OSError):
                now = memory_mb(process.pid)
                most["memory_mb"] = max(most["memory_mb"], now["pss_mb"])
                most["rss_mb"] = max(most["rss_mb"], now["rss_mb"])
            time.sleep(0.2)
    assert process.returncode == 0
    return time.monotonic() - began, most


def killed_batch(room: Path) -> float:
    """Kill a batch, all of it, at some moment; the share of its parts that were done then."""
    parts = room / "killed.csv.parts"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        command(room, "killed.csv"),
        env=clean_environ(),
        start_new_session=True,
        **quiet,  # type: ignore[call-overload]
    )
    before = len([*parts.glob("*.out")])
    while len([*parts.glob("*.out")]) <= before + 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return float(len([*parts.glob("*.out")]))


def rows_in(path: Path) -> int:
    """Rows of a result, all with a number."""
    with path.open(newline="") as file:
        return sum(1 for row in csv.DictReader(file) if float(row["predict"]) is not None)


def table(figures: Figures) -> str:
    """For a page."""
    http = figures["over_http"]
    lines = [
        f"{machine.name()}",
        "",
        "| | |",
        "| --- | --- |",
        f"| over HTTP, a row a request, 1 connection | {http['1']:,.0f} rows/s |",
        f"| over HTTP, a row a request, 16 connections | {http['16']:,.0f} rows/s |",
        f"| `batch`, {figures['rows']:,} rows, 2 workers | {figures['per_second']:,.0f} rows/s, "
        f"{figures['seconds']:.1f} s with start and end |",
        f"| times as many as over HTTP (at least {LIMITS['quotient']:.0f}) "
        f"| {figures['quotient']:.1f} |",
        f"| most memory of all its processes (below {LIMITS['memory_mb']:.0f} MB) "
        f"| {figures['memory_mb']:.0f} MB ({figures['rss_mb']:.0f} MB if shared pages count "
        "for each) |",
        f"| rows after {KILLS} kills and a repetition | {figures['rows_after_kills']:,}"
        f"{', the same bytes' if figures['same_bytes_after_kills'] else ', OTHER BYTES'} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
