"""HTTP: the old server, a bare app that calls run() in its event loop, and this runtime.

``python -m benchmarks.http`` runs the same scripts on each in turn, one worker, with wrk on the
same machine, and prints requests per second and p99 as medians of three rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.hosts.peer import ensure_peer
from tests.hosts.standalone import clean_environ, free_port

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parent.parent
SERVERS = ("azureml-inference-server-http", "bare uvicorn app", "scoring-runtime")
CONNECTIONS = (1, 16, 64)
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    options = _options()
    _need_wrk()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        body = _make_models(models)
        results = [
            _measure_script(SCRIPTS / f"{name}.py", models, body, options)
            for name in options.scripts
        ]
    print(json.dumps(results, indent=2) if options.json else _table(results))


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=int, default=4, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


def _need_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("benchmarks need wrk: apt-get install wrk")


def _options() -> argparse.Namespace:
    parser = _parser(__doc__)
    parser.add_argument("--scripts", nargs="+", default=["one", "sklearn_row", "onnx_row"])
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    return parser.parse_args()


def _make_models(folder: Path) -> str:
    """Train the pipeline on the digits data, and write it as pickle and as ONNX."""
    import joblib
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, digits = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(rows, digits)
    joblib.dump(model, folder / "digits.pkl")
    onnx = to_onnx(
        model,
        initial_types=[("input", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=15,
    )
    (folder / "digits.onnx").write_bytes(onnx.SerializeToString())
    return json.dumps({"data": rows[:1].tolist()})


def _measure_script(script: Path, models: Path, body: str, options: argparse.Namespace) -> Figures:
    environ = clean_environ(AZUREML_MODEL_DIR=str(models), BENCH_SCRIPT=str(script))
    figures: Figures = {"script": script.stem, "alone": _alone(script, body, environ)}
    rounds: dict[str, list[dict[int, dict[str, float]]]] = {name: [] for name in options.servers}
    for number in range(options.rounds):
        for name in options.servers:
            _progress(f"{script.stem}: round {number + 1} of {options.rounds}, {name}")
            with _serving(name, script, models, environ) as url:
                rounds[name].append(
                    {c: _wrk(url, c, body, options.seconds, models) for c in CONNECTIONS}
                )
    figures["servers"] = {name: _medians(each) for name, each in rounds.items()}
    return figures


def _alone(script: Path, body: str, environ: dict[str, str]) -> float:
    """Calls per second of run() with nothing around it."""
    command = [sys.executable, str(Path(__file__).parent / "alone.py"), body]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextlib.contextmanager
def _serving(name: str, script: Path, models: Path, environ: dict[str, str]) -> Iterator[str]:
    port = free_port()
    commands = {
        "azureml-inference-server-http": [
            str(_peer() / "azmlinfsrv"), "--entry_script", str(script),
            "--model_dir", str(models), "--port", str(port),
        ],
        "bare uvicorn app": [
            sys.executable, "-m", "uvicorn", "benchmarks.bare_app:app", "--port", str(port),
            "--no-access-log", "--log-level", "warning",
        ],
        "scoring-runtime": [
            sys.executable, "-m", "scoring_runtime", "serve", "--entry-script", str(script),
            "--port", str(port), "--host", "127.0.0.1",
        ],
    }  # fmt: skip
    with (models / "server.log").open("wb") as log:
        process = subprocess.Popen(commands[name], env=environ, cwd=ROOT, stdout=log, stderr=log)
        try:
            _wait(port, process, models / "server.log")
            yield f"http://127.0.0.1:{port}/score"
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", method="GET")
            urllib.request.urlopen(request, timeout=10).read()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server on port {port} did not start:\n{log.read_text()}")


def _peer() -> Path:
    """The old server's programs, with the same scikit-learn and onnxruntime as here."""
    programs = ensure_peer() / "bin"
    wanted = [f"{name}=={version(name)}" for name in ("scikit-learn", "joblib", "onnxruntime")]
    pip = [str(programs / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True, capture_output=True)
    return programs


def _wrk(url: str, connections: int, body: str, seconds: int, folder: Path) -> dict[str, float]:
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [==[{body}]==]\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    command = ["wrk", "-t1", f"-c{connections}", "--latency", "--timeout", "30s"]
    command += ["-s", str(script), url]
    subprocess.run([*command, "-d1"], check=True, capture_output=True)
    out = subprocess.run(
        [*command, f"-d{seconds}"], check=True, capture_output=True, text=True, env=os.environ
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"errors under load:\n{out}")
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s) *\n", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert p99 is not None and rate is not None, out
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]
    return {"rate": float(rate[1]), "p99_ms": float(p99[1]) * scale}


def _medians(rounds: list[dict[int, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        str(c): {key: statistics.median(r[c][key] for r in rounds) for key in ("rate", "p99_ms")}
        for c in CONNECTIONS
    }


def _table(results: list[Figures]) -> str:
    lines = [
        "| run() | server | 1 connection | 16 connections | 64 connections |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results:
        lines.append(f"| {result['script']} | run() alone | {result['alone']:,.0f}/s | | |")
        for name, figures in result["servers"].items():
            cells = [f"{f['rate']:,.0f}/s, p99 {f['p99_ms']:.2f} ms" for f in figures.values()]
            lines.append(f"| {result['script']} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
