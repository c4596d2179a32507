"""The processors that a quota leaves, and what libraries are told of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scoring_runtime.settings.processors import for_libraries, processors, threads_of

V2, V1 = "0::{}\n", "4:memory:/\n3:cpu,cpuacct:{}\n1:name=systemd:/\n0::/\n"


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A root folder with these control groups."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GROUP = "sys/fs/cgroup"
QUOTAS = {
    "v2": (V2.format("/"), {f"{GROUP}/cpu.max": "250000 100000\n"}, 3),
    "v2 without": (V2.format("/"), {f"{GROUP}/cpu.max": "max 100000\n"}, 8),
    "v2 small": (V2.format("/"), {f"{GROUP}/cpu.max": "20000 100000\n"}, 1),
    "v2 large": (V2.format("/"), {f"{GROUP}/cpu.max": "9900000 100000\n"}, 8),
    "v2 of a group above": (
        V2.format("/a/b"),
        {f"{GROUP}/a/cpu.max": "200000 100000\n", f"{GROUP}/a/b/cpu.max": "400000 100000\n"},
        2,
    ),
    "v1": (
        V1.format("/docker/1a2b"),  # the host's path, of which the container sees the end only
        {f"{GROUP}/cpu/cpu.cfs_quota_us": "150000\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "v1 without": (
        V1.format("/"),
        {f"{GROUP}/cpu/cpu.cfs_quota_us": "-1\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
    "nonsense": (V2.format("/"), {f"{GROUP}/cpu.max": "400000 0\n"}, 8),
    "half": (V2.format("/"), {f"{GROUP}/cpu.max": "400000\n"}, 8),
    "none": ("", {}, 8),
}


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("case", QUOTAS)
def test_processors_are_those_of_affinity_and_quota(case: str, tmp_path: Path) -> None:
    cgroup, files, expected = QUOTAS[case]
    assert processors(write(tmp_path, cgroup, files)) == expected


def test_processors_without_affinity_are_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors(tmp_path) == 1


@pytest.mark.usefixtures("eight")
def test_libraries_are_told_their_share_unless_they_are_told_already() -> None:
    names = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "ORT_INTRA_OP_NUM_THREADS")
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    assert [threads_of(each) for each in (1, 3, 8, 9)] == [8, 2, 1, 1]
    assert for_libraries({}, 3) == {**quiet, **dict.fromkeys(names, "2")}
    assert for_libraries({}, 1) == quiet  # they find eight by themselves
    set_already = {"OMP_NUM_THREADS": "5", "MLFLOW_DISABLE_TELEMETRY": ""}
    assert for_libraries(set_already, 8) == dict.fromkeys(names[1:], "1")


THREADS = """
import json, os
import joblib, numpy, onnxruntime, sklearn, threadpoolctl
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression
rows = numpy.eye(3, dtype="float32")
model = to_onnx(LinearRegression().fit(rows, rows[:, 0]), rows).SerializeToString()
before = len(os.listdir("/proc/self/task"))
session = onnxruntime.InferenceSession(model)
found = {each["user_api"]: each["num_threads"] for each in threadpoolctl.threadpool_info()}
found["joblib"] = joblib.effective_n_jobs(-1)
found["onnxruntime"] = 1 + len(os.listdir("/proc/self/task")) - before
print(json.dumps(found))
"""


@pytest.mark.usefixtures("eight")
def test_libraries_heed_what_they_are_told() -> None:
    """BLAS, OpenMP, joblib, and an onnxruntime session that says nothing of threads."""
    told = {name: each for name, each in for_libraries({}, 2).items() if "MLFLOW" not in name}
    assert set(told.values()) == {"4"}
    environ = {**os.environ, **dict.fromkeys(told, "1")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], env=environ, capture_output=True, text=True, check=True
    )
    names = ("blas", "openmp", "joblib", "onnxruntime")
    assert json.loads(done.stdout) == dict.fromkeys(names, 1)
