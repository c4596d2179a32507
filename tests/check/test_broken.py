"""``scoring-runtime check`` on what is broken: its class, and the line or setting at fault."""

from __future__ import annotations

import json
import pickle
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scoring_runtime.check.report import CLASSES
from scoring_runtime.cli.main import main
from tests.models_for_tests import iris_estimator

FINE = "def init(): ...\ndef run(raw_data): return raw_data\n"
SCHEMA = """
import numpy as np
from inference_schema.schema_decorators import input_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType

def init(): ...

@input_schema("data", NumpyParameterType(np.array([[0.5, 1.5]])))
def run(data):
"""
SHARED = """
import json
import time
def init(): ...
def run(raw_data):
    global number
    number = json.loads(raw_data)["x"]
    time.sleep(0.002)
    return number * 2
"""
CHANGING = """
import itertools
numbers = itertools.count()
def init(): ...
def run(raw_data): return next(numbers)
"""
HOST = {"version": "2.0", "functionTimeout": "00:05:00"}
BUS = {"extensions": {"serviceBus": {"maxAutoLockRenewalDuration": "00:05:00"}}}
KEEPING = """
kept = []
def init(): ...
def run(raw_data): kept.append(b"x" * (1 << 20))
"""


def new_pickle() -> bytes:
    """A model as this scikit-learn writes it."""
    return pickle.dumps(iris_estimator(), protocol=4)


def old_pickle() -> bytes:
    """The same of another one, by what it says."""
    import sklearn

    installed = sklearn.__version__.encode()
    return new_pickle().replace(installed, b"0.0.9".ljust(len(installed), b"9")[: len(installed)])


@dataclass(frozen=True)
class Broken:
    """A script with a fault; ``where`` and ``text`` are patterns of what is said."""

    name: str
    kind: str
    where: str
    text: str
    script: str | None = FINE
    files: dict[str, Any] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    environ: dict[str, str] = field(default_factory=dict)
    others: Sequence[str] = ()
    """Settings that are named too."""


def script(*lines: str) -> str:
    return "\n".join(lines) + "\n"


RUN = "def run(raw_data): return raw_data"
SAMPLE = {"sample_input.json": '{"x": 1.5}'}
BROKEN = (
    # --- it cannot be loaded
    Broken("a mistake of syntax", "load", r"score\.py:3", "SyntaxError", script(
        "def init():", "    pass", "def run(raw_data)", "    pass")),
    Broken("no init()", "load", r"score\.py", r"does not have a init\(\) function", RUN),
    Broken("no run()", "load", r"score\.py", r"does not have a run\(\) function",
           "def init(): ...\n"),
    Broken("a parameter that nobody gives", "load", r"score\.py:2", "threshold", script(
        "def init(): ...", "def run(data, threshold): ...")),
    Broken("init() raises", "load", r"score\.py:2 in init", "ZeroDivisionError", script(
        "def init():", "    1 / 0", RUN)),
    Broken("a model's file is not there", "load", r"score\.py:4 in init", "model/net.pkl", script(
        "import os", "", "def init():",
        "    open(os.path.join(os.environ['AZUREML_MODEL_DIR'], 'model/net.pkl'))", RUN),
        {"model/other.pkl": "x"}, ("--model-dir", "model")),
    Broken("sys.exit() in init()", "load", r"score\.py:3 in init", "SystemExit: 5", script(
        "import sys", "def init():", "    sys.exit(5)", RUN)),
    Broken("the process ends in init()", "load", r"score\.py:3$", "with exit code 7", script(
        "import os", "def init():", "    os._exit(7)", RUN)),
    Broken("init() hangs", "load", r"score\.py:3 in init", r"not ended after [12] s", script(
        "import threading", "def init():", "    threading.Event().wait()", RUN),
        arguments=("--seconds", "2")),
    Broken("a model without a script is damaged", "load", r"model", r"cannot load model/net\.onnx",
           None, {"model/net.onnx": "x"}, ("--model-dir", "model")),
    Broken("neither script nor model", "load", r"model", "neither an entry script", None,
           {"model/readme.txt": "x"}, ("--model-dir", "model")),
    # --- packages
    Broken("a package that the script imports", "package", r"score\.py:1",
           r"No module named 'lightgbm_of_mine'.* pip install lightgbm-of-mine",
           script("import lightgbm_of_mine", FINE)),
    Broken("a package that run() imports", "package", r"score\.py:3",
           r"imports cv2_of_mine, which is not installed here\. pip install cv2-of-mine", script(
               "def init(): ...", "def run(raw_data):", "    import cv2_of_mine")),
    Broken("a package that a module beside it imports", "package", r"helper\.py:2",
           "imports cv2_of_mine", script("import helper", FINE),
           {"helper.py": "def see():\n    import cv2_of_mine\n"}),
    Broken("a pickle of another version", "package", "scikit-learn",
           r"net\.pkl was written with scikit-learn 0\.0\.", FINE, {"model/net.pkl": old_pickle},
           ("--model-dir", "model")),
    # --- settings
    Broken("a value that is not allowed", "setting", "SCORING_NAN", "has the value 'never'",
           environ={"SCORING_NAN": "never"}),
    Broken("a name that is none", "setting", "SCORING_TIMEOUT_M",
           "the nearest setting is SCORING_TIMEOUT_MS", environ={"SCORING_TIMEOUT_M": "5"}),
    Broken("a path without a placeholder", "setting", "BLOB_INPUT_PATH", "no placeholder",
           environ={"BLOB_INPUT_PATH": "input/a.json"}),
    Broken("a default model that is not there", "setting", "SCORING_DEFAULT_MODEL", "'wine'", None,
           {"models/iris/1/net.pkl": new_pickle, "models/iris/2/net.pkl": new_pickle},
           ("--model-dir", "models", "--set", "SCORING_DEFAULT_MODEL=wine")),
    Broken("a host.json that is none", "setting", r"host\.json", "no JSON",
           files={"host.json": "{"}),
    Broken("a function ends before run()", "setting", "functionTimeout", "after 300 s",
           files={"host.json": json.dumps(HOST)}, arguments=("--set", "SCORING_TIMEOUT_MS=400000"),
           others=("SCORING_TIMEOUT_MS",)),
    Broken("a lock ends before run()", "setting", "maxAutoLockRenewalDuration", "for 300 s",
           files={"host.json": json.dumps(BUS)},
           environ={"SCORING_TRIGGERS": "service_bus"}),
    Broken("HTTP ends before run()", "setting", "SCORING_TIMEOUT_MS", "after 230 s",
           arguments=("--set", "SCORING_TIMEOUT_MS=600000", "--target", "functions")),
    Broken("a worker ends before run()", "setting", "WORKER_TIMEOUT", "600 s, and WORKER_TIMEOUT",
           arguments=("--set", "SCORING_TIMEOUT_MS=600000")),
    Broken("a grace that is none", "setting", "SCORING_INIT_GRACE_SECONDS", "after 10 s",
           arguments=("--set", "SCORING_INIT_GRACE_SECONDS=20", "--target", "functions")),
    Broken("less memory than the model takes", "setting", "SCORING_MAX_RSS_MB", "at once",
           environ={"SCORING_MAX_RSS_MB": "5"}),
    Broken("metrics that are open anyway", "setting", "SCORING_METRICS_OPEN", "Nobody is asked",
           environ={"SCORING_METRICS_OPEN": "true"}),
    Broken("batches of a script", "setting", "SCORING_MAX_BATCH_SIZE", "@batched",
           environ={"SCORING_MAX_BATCH_SIZE": "8"}),
    Broken("more deliveries than the queue's", "setting", "SERVICEBUS_MAX_ATTEMPTS", "after 10 del",
           environ={"SERVICEBUS_MAX_ATTEMPTS": "20"}),
    Broken("a cache for each process", "setting", "CACHE_URL", "of one process",
           environ={"CACHE_URL": "memory://", "WORKER_COUNT": "2"}),
    # --- run()
    Broken("run() raises", "run", r"score\.py:3 in run", r"sample_input\.json: KeyError: 'rows'",
           script("import json", "def init(): ...",
                  "def run(raw_data): return json.loads(raw_data)['rows']"), SAMPLE),
    Broken("a result that is no JSON", "run", r"score\.py:2", "object",
           script("def init(): ...", "def run(raw_data): return object()"), SAMPLE),
    Broken("run() hangs", "run", r"score\.py:3 in run", r"input\.json has not ended after [23] s",
           script("import threading", "def init(): ...",
                  "def run(raw_data): threading.Event().wait()"), SAMPLE, ("--seconds", "3")),
    Broken("run() breaks the process", "run", r"score\.py:3 in run", "the signal SIGSEGV",
           script("import ctypes", "def init(): ...",
                  "def run(raw_data): ctypes.string_at(0)"), SAMPLE),
    Broken("a batch of another length", "run", r"score\.py:4", "given a list of 1",
           script("from scoring_runtime import batched", "def init(): ...", "@batched",
                  "def run(raw_data): return []"), SAMPLE),
    # --- samples
    Broken("a sample that is no JSON", "sample", r"sample_input\.json", "It is no JSON: .*line 2",
           files={"sample_input.json": "{\n  x: 1\n}"}),
    Broken("a sample that is too large", "sample", r"sample_input\.json", "413: .*_MAX_BODY_BYTES",
           files={"sample_input.json": "[1, 2, 3]"}, environ={"SCORING_MAX_BODY_BYTES": "5"}),
    Broken("a sample that run() refuses", "sample", r"samples/a\.json", "400: .*too small",
           script("from scoring_runtime import InputError", "def init(): ...",
                  "def run(raw_data): raise InputError('too small')"), {"samples/a.json": "1"}),
    Broken("a sample that does not fit the schema", "sample", r"sample_input\.json", "400: .*data",
           f"{SCHEMA}    return data.sum()\n", {"sample_input.json": '{"rows": [[1, 2]]}'}),
    Broken("an example of the schema that run() cannot score", "run", r"score\.py:9 in run",
           "the schema's example: ValueError", f"{SCHEMA}    return data.reshape(7)\n"),
    # --- answers
    Broken("a cache, and another answer each time", "answers", "CACHE_URL", "for 3600 s",
           CHANGING, SAMPLE, environ={"CACHE_URL": "memory://"}),
    Broken("a run() that is not thread-safe", "answers", "SCORING_CONCURRENCY", "not thread-safe",
           SHARED, SAMPLE, environ={"SCORING_CONCURRENCY": "2"}),
    # --- limits
    Broken("init() is slower than Functions waits", "limit", "SCORING_INIT_GRACE_SECONDS",
           "in the background", script("import time", "def init(): time.sleep(0.6)", RUN),
           arguments=("--set", "SCORING_INIT_GRACE_SECONDS=0.5", "--target", "functions")),
    Broken("run() is slower than its deadline", "limit", "SCORING_TIMEOUT_MS", "_TIMEOUT_MS is 20",
           script("import time", "def init(): ...", "def run(raw_data): time.sleep(0.1)"), SAMPLE,
           environ={"SCORING_TIMEOUT_MS": "20"}),
    Broken("run() is slower than a stop", "limit", "SCORING_SHUTDOWN_SECONDS", "SIGTERM waits 0.05",
           script("import time", "def init(): ...", "def run(raw_data): time.sleep(0.1)"), SAMPLE,
           environ={"SCORING_SHUTDOWN_SECONDS": "0.05"}),
    Broken("more processes than memory", "limit", "WORKER_COUNT", "1000000 processes",
           environ={"WORKER_COUNT": "1000000"}),
    Broken("memory that run() keeps", "limit", r"score\.py:3", "150 calls of run", KEEPING, SAMPLE),
)  # fmt: skip

Check = Callable[[Broken], tuple[int, dict[str, Any]]]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Check:
    """``check(broken)`` → exit code and report."""
    monkeypatch.chdir(tmp_path)

    def run(broken: Broken) -> tuple[int, dict[str, Any]]:
        arguments = ["check", "--json", *broken.arguments]
        if broken.script is not None:
            Path("score.py").write_text(textwrap.dedent(broken.script).lstrip("\n"))
            arguments += ["--entry-script", "score.py"]
        for name, content in broken.files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content() if callable(content) else content.encode())
        for name, value in broken.environ.items():
            monkeypatch.setenv(name, value)
        code = main(arguments)
        return code, json.loads(capfd.readouterr().out)

    return run


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.name)
def test_what_is_broken_is_named(check: Check, broken: Broken) -> None:
    """By its class, with its exit code, where it is; and nothing else is said."""
    code, report = check(broken)
    found = report["findings"]
    [finding] = [each for each in found if each["where"] not in broken.others] or found
    said = json.dumps(found, indent=1)
    assert finding["kind"] == broken.kind, said
    assert re.search(broken.where, finding["where"]), said
    assert re.search(broken.text, finding["text"]), said
    assert code == report["exit_code"] == CLASSES[broken.kind]


def test_every_class_has_its_exit_code() -> None:
    """They are those of ``score`` where it has them, and every class is seen above."""
    assert (CLASSES["sample"], CLASSES["load"], CLASSES["run"]) == (2, 3, 4)
    assert len(set(CLASSES.values())) == len(CLASSES)
    assert {each.kind for each in BROKEN} == set(CLASSES)
    assert len(BROKEN) >= 25
