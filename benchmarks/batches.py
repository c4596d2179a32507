"""Batches: one row a request to models without a script, with SCORING_MAX_BATCH_SIZE off and on.

``python -m benchmarks.batches`` measures each model with wrk on the same machine, one worker, off
and on in turn, and prints rows per second and p99 as medians of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.hosts.standalone import clean_environ, free_port

from .http import (
    CONNECTIONS,
    ROOT,
    Figures,
    _make_models,
    _medians,
    _need_wrk,
    _parser,
    _progress,
    _wait,
    _wrk,
)

SIZES = {"off": "1", "on": "64"}


def main() -> None:
    """Measure and print."""
    options = _parser(__doc__).parse_args()
    _need_wrk()
    with tempfile.TemporaryDirectory() as folder:
        models, body = _models(Path(folder))
        results = {name: _measured(name, models[name], body, options) for name in models}
    print(json.dumps(results, indent=2) if options.json else _table(results))


def _models(folder: Path) -> tuple[dict[str, Path], str]:
    """A folder for each model of the digits, and a row."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    body = _make_models(folder)
    names = {"linear": "digits.pkl", "ONNX": "digits.onnx", "random forest": "forest.pkl"}
    forest = RandomForestClassifier(100, random_state=0).fit(*load_digits(return_X_y=True))
    joblib.dump(forest, folder / "forest.pkl")
    for name, file in names.items():
        (folder / name).mkdir()
        (folder / file).rename(folder / name / file)
    return {name: folder / name for name in names}, body


def _measured(name: str, model: Path, body: str, options: argparse.Namespace) -> Figures:
    rounds: dict[str, list[dict[int, dict[str, float]]]] = {each: [] for each in SIZES}
    for number in range(options.rounds):
        for each, size in SIZES.items():
            _progress(f"{name}: round {number + 1} of {options.rounds}, {each}")
            with _serving(model, size) as url:
                rounds[each].append(
                    {c: _wrk(url, c, body, options.seconds, model.parent) for c in CONNECTIONS}
                )
    return {each: _medians(found) for each, found in rounds.items()}


@contextlib.contextmanager
def _serving(model: Path, size: str) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable, "-m", "scoring_runtime", "serve", "--model-dir", str(model),
        "--port", str(port), "--host", "127.0.0.1",
    ]  # fmt: skip
    environ = clean_environ(SCORING_MAX_BATCH_SIZE=size)
    with (model.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log)
        try:
            _wait(port, process, model.parent / "server.log")
            yield f"http://127.0.0.1:{port}/score"
        finally:
            process.terminate()
            process.wait(20)


def _table(results: dict[str, Figures]) -> str:
    lines = [
        "| model | batches | 1 connection | 16 connections | 64 connections |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, sizes in results.items():
        for each, figures in sizes.items():
            cells = [f"{f['rate']:,.0f}/s, p99 {f['p99_ms']:.2f} ms" for f in figures.values()]
            lines.append(f"| {name} | {each} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
