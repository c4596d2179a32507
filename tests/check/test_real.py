"""``check`` on scripts as people write them, and on the examples: nothing is said that is false."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.standalone import clean_environ
from tests.models_for_tests import iris_estimator, matmul_onnx, named_iris_estimator, saved
from tests.script.test_habits import DATES, HABITS, SIGNALS

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tests/entry_scripts").glob("*.py"))
TYPED = {"diff_numpy.py", "diff_pandas.py", "diff_standard.py", "diff_texts.py", "parity_schema.py"}
OLD_NAMES = """
import json, logging, os
from azureml.core import Run, Workspace
from azureml.core.model import Model
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
from azureml.monitoring import ModelDataCollector
from azureml.telemetry import set_diagnostics_collection
try:
    import tensorflow_of_mine as tf
except ImportError:
    tf = None

def init():
    global path
    path = Model.get_model_path("net", version=1)
    print("loaded", path)

@rawhttp
def run(request):
    print("scored")
    return AMLResponse(json.dumps({"size": len(request.get_data())}), 200)
"""
HELPER = """
import os, sys
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import helper

def init(): ...
def run(raw_data):
    import second
    return [helper.NUMBER, second.NUMBER]
"""
ASYNC = """
import asyncio, json
async def init(): await asyncio.sleep(0)
async def run(raw_data):
    await asyncio.sleep(0)
    return json.loads(raw_data)["x"] * 2
"""
SAFE = """
import json, threading
lock, count = threading.Lock(), 0
def init(): ...
def run(raw_data):
    global count
    with lock:
        count += 1
    return json.loads(raw_data)["x"] * 2
"""
BRANCHES = """
import os
if os.environ.get("ON_A_GPU"):
    import cupy_of_mine as xp
else:
    import math as xp
def init(): ...
def run(raw_data): return xp.sqrt(4)
"""
CLOCK = """
import time
def init(): ...
def run(raw_data): return {"at": time.time()}
"""


def report_of(folder: Path, *arguments: str, **environ: str) -> dict[str, Any]:
    """What ``check --json`` says, in this folder."""
    done = subprocess.run(
        [sys.executable, "-m", "scoring_runtime", "check", "--json", *arguments],
        cwd=folder,
        env=clean_environ(PYTHONPATH=str(ROOT), **environ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert (report["findings"], report["unchecked"], done.returncode) == ([], "", 0)
    return report


def script_report(folder: Path, source: str, sample: bytes, **environ: str) -> dict[str, Any]:
    (folder / "score.py").write_text(source)
    (folder / "sample_input.json").write_bytes(sample)
    return report_of(folder, "--entry-script", "score.py", **environ)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.name)
def test_the_scripts_of_the_other_tests(script: Path, tmp_path: Path) -> None:
    """Typed ones are scored with the example of their schema; one answers how many headers it sees,
    which a blob has others of."""
    shutil.copy(script, tmp_path)
    report = report_of(tmp_path, "--entry-script", script.name)
    typed = ["the schema's example"] if script.name in TYPED else []
    assert report["facts"]["samples"] == typed
    sees = ["the schema's example: run() sees headers"] if script.name == "diff_standard.py" else []
    assert [each.partition(",")[0] for each in report["notes"]] == sees


@pytest.mark.parametrize("name", HABITS)
def test_habits(name: str, tmp_path: Path) -> None:
    import textwrap

    report = script_report(tmp_path, textwrap.dedent(HABITS[name][0]), b"[1]")
    assert report["facts"]["runs"] >= 3 and report["notes"] == []


@pytest.mark.parametrize(
    ("source", "sample", "environ"),
    [
        (
            DATES.replace("date.min", "date(2023, 1, 1)"),
            b'{"day": "2024-02-29", "rows": [{"on": "2023-12-01"}]}',
            {},
        ),
        (SIGNALS, b"1", {}),
        (BRANCHES, b"1", {}),
        (ASYNC, b'{"x": 1.5}', {"SCORING_CONCURRENCY": "4"}),
        (SAFE, b'{"x": 1.5}', {"SCORING_CONCURRENCY": "4"}),
        (SAFE, b'{"x": 1.5}', {"CACHE_URL": "memory://", "SCORING_TIMEOUT_MS": "1000"}),
        ("def init(): ...\ndef run(mini_batch): return []\n", b"1", {}),
    ],
    ids=["dates", "signals", "branches", "async", "threads", "cache", "batch endpoint"],
)
def test_other_kinds(source: str, sample: bytes, environ: dict[str, str], tmp_path: Path) -> None:
    script_report(tmp_path, source, sample, **environ)


def test_the_old_names(tmp_path: Path) -> None:
    """What stands in for them is not missing; print() goes nowhere near the report."""
    folder = tmp_path / "azureml-models/net/1"
    folder.mkdir(parents=True)
    (folder / "net.bin").write_bytes(b"weights")
    script_report(tmp_path, OLD_NAMES, b"[1]", AZUREML_MODEL_DIR="azureml-models/net/1")


def test_a_script_that_finds_modules_its_own_way(tmp_path: Path) -> None:
    """Nothing is said of what is imported then: it loads."""
    (tmp_path / "lib").mkdir()
    for name in ("helper", "second"):
        (tmp_path / "lib" / f"{name}.py").write_text("NUMBER = 1\n")
    script_report(tmp_path, HELPER, b"[1]")


def test_an_answer_that_changes_is_a_note_without_a_cache(tmp_path: Path) -> None:
    report = script_report(tmp_path, CLOCK, b"1")
    [note] = report["notes"]
    assert report["facts"]["runs"] >= 3
    assert "sample_input.json: the same input has another answer the second time" in note


@pytest.mark.parametrize(
    ("environ", "notes"),
    [
        ({}, 0),
        ({"SCORING_HOST": "0.0.0.0"}, 1),
        ({"SCORING_HOST": "0.0.0.0", "SCORING_KEYS": "one:0123456789abcdef0123"}, 0),
    ],
)
def test_an_address_that_is_open_to_all_is_a_note(
    environ: dict[str, str], notes: int, tmp_path: Path
) -> None:
    """Nothing else is said with keys: samples need none."""
    report = script_report(tmp_path, CLOCK.replace("time.time()", "1"), b"1", **environ)
    assert (len(report["notes"]), report["facts"]["same"]) == (notes, 1)
    assert all("Every machine that reaches 0.0.0.0 may score" in each for each in report["notes"])


def test_what_is_slow_is_not_taken_for_what_hangs(tmp_path: Path) -> None:
    """Not all is tried then, and that is said."""
    source = "import time\ndef init(): ...\ndef run(raw_data): time.sleep(0.7)\n"
    (tmp_path / "score.py").write_text(source)
    (tmp_path / "sample_input.json").write_text("1")
    report = report_of(tmp_path, "--entry-script", "score.py", "--seconds", "8")
    assert report["notes"] == ["Not all was tried within 8 s (--seconds)."]
    report = report_of(tmp_path, "--entry-script", "score.py", "--seconds", "20")
    assert report["facts"]["p50_ms"] > 700 and "batches" not in report["facts"]


def test_a_slow_start_is_a_note_where_nobody_says_functions(tmp_path: Path) -> None:
    source = "import time\ndef init(): time.sleep(0.3)\ndef run(raw_data): return 1\n"
    [note] = script_report(tmp_path, source, b"1", SCORING_INIT_GRACE_SECONDS="0.2")["notes"]
    assert note.startswith("SCORING_INIT_GRACE_SECONDS: On Azure Functions loading would go on")


def test_samples_of_every_kind(tmp_path: Path) -> None:
    """Answers that are expected, hidden files and other programs are no samples."""
    (tmp_path / "samples").mkdir()
    for name in ("a.json", "a.expected.json", "b.csv", "c.png", "make.py", ".hidden.json"):
        (tmp_path / "samples" / name).write_bytes(b"1")
    report = script_report(tmp_path, "def init(): ...\ndef run(raw_data): return 1\n", b"2")
    names = [Path(each).name for each in report["facts"]["samples"]]
    assert names == ["sample_input.json", "a.json", "b.csv", "c.png"]


# --- models without a script ----------------------------------------------------------------------


def test_what_batches_gain_a_model_and_that_its_answers_stay(tmp_path: Path) -> None:
    """A tree's answers are whole numbers: to the bit, and many times as fast."""
    from sklearn.tree import DecisionTreeClassifier

    from tests.models_for_tests import iris

    saved(tmp_path / "tree", DecisionTreeClassifier(random_state=1).fit(*iris()))
    found = report_of(tmp_path, "--model-dir", "tree")["facts"]["batches"]
    assert (found["differ"], set(found["ms"])) == ([], {"1", "2", "3", "17", "64"})
    assert found["gain"] > 2 and found["setting"] == f"SCORING_MAX_BATCH_SIZE={found['size']}"


def test_answers_that_a_batch_changes_are_told(tmp_path: Path) -> None:
    """This one gives the mean of its rows beside each: nothing that may be batched."""
    (tmp_path / "shifted.py").write_text(
        "import numpy as np\n"
        "from sklearn.base import BaseEstimator, RegressorMixin\n"
        "class Shifted(RegressorMixin, BaseEstimator):\n"
        "    def fit(self, X, y):\n"
        "        self.n_features_in_ = 2\n"
        "        return self\n"
        "    def predict(self, X):\n"
        "        return np.asarray(X).sum(axis=1) - np.asarray(X).mean() / 3\n"
    )
    make = (
        "import joblib, shifted, os; os.mkdir('net');"
        "joblib.dump(shifted.Shifted().fit([[1., 2.]], [1.]), 'net/model.pkl')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    (tmp_path / "net/sample_input.json").write_text('{"data": [[1.5, 2.5]]}')
    found = report_of(tmp_path, "--model-dir", "net")["facts"]["batches"]
    assert found["differ"] == [2, 3, 17, 64]
    assert 0 < found["largest"] < 1


def test_a_batched_script(tmp_path: Path) -> None:
    source = (
        "import json, time\nfrom scoring_runtime import batched\ndef init(): ...\n"
        "@batched(max_size=8)\ndef run(raw_data):\n    time.sleep(0.001)\n"
        "    return [json.loads(each)['x'] * 2 for each in raw_data]\n"
    )
    found = script_report(tmp_path, source, b'{"x": 1.5}')["facts"]["batches"]
    assert found["differ"] == [] and found["setting"].startswith("@batched(max_size=")


def test_a_model_of_a_fixed_number_of_rows(tmp_path: Path) -> None:
    saved(tmp_path / "net", matmul_onnx(rows=2))
    found = report_of(tmp_path, "--model-dir", "net")["facts"]["batches"]
    assert "fixed number of rows" in found["why_not"]


def test_several_models(tmp_path: Path) -> None:
    """Each is scored with its own sample; without a default too."""
    saved(tmp_path / "models/iris/1", iris_estimator())
    saved(tmp_path / "models/named/3", named_iris_estimator())
    (tmp_path / "models/iris/1/sample_input.json").write_text("[[5.1, 3.5, 1.4, 0.2]]")
    names = report_of(tmp_path, "--model-dir", "models")["facts"]["samples"]
    assert any("models/iris/1/sample_input.json" in each for each in names)
    assert "the schema's example of named/3" in names
