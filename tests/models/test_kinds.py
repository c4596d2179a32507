"""Which kind a model is of, told by names, and the versions that matter for it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from scoring_runtime.models.kinds import (
    candidates,
    installed_version,
    kind_of,
    libraries,
    mlflow_versions,
)


def touch(root: Path, *names: str) -> Path:
    """``root`` with these empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["m.pkl"], ["scikit-learn m.pkl"]),
        (["m.pickle"], ["scikit-learn m.pickle"]),
        (["m.joblib"], ["scikit-learn m.joblib"]),
        (["m.sav"], ["scikit-learn m.sav"]),
        (["m.onnx", "weights.data"], ["onnx m.onnx"]),
        (["model/MLmodel", "model/model.pkl"], ["mlflow model"]),
        (["model/MLmodel", "other.onnx"], ["mlflow model", "onnx other.onnx"]),
        (["a.pkl", "b.onnx", "below/c.onnx"], ["scikit-learn a.pkl", "onnx b.onnx"]),
        (["x/m.onnx", "y/z/n.onnx"], ["onnx x/m.onnx"]),
        ([".hidden.pkl", ".h/m.pkl", "m.onnx"], ["onnx m.onnx"]),
        (["MLmodel/x", "m.txt", "pkl"], []),
        ([], []),
    ],
)
def test_candidates(files: list[str], found: list[str], tmp_path: Path) -> None:
    """The outermost files of a known kind, sorted by name; an MLflow folder is one."""
    touch(tmp_path, *files)
    there = [f"{kind} {path.relative_to(tmp_path)}" for kind, path in candidates(tmp_path)]
    assert there == found


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Two folders full of links to each other."""
    for name in ("a", "b"):
        touch(tmp_path, f"{name}/x.txt")
        for number in range(5):
            (tmp_path / name / f"link-{number}").symlink_to(tmp_path)
    assert candidates(tmp_path) == []
    (tmp_path / "a/itself").symlink_to("itself")
    (tmp_path / "b/m.onnx").touch()
    assert candidates(tmp_path) == [("onnx", tmp_path / "b/m.onnx")]


def test_a_file_is_its_own_candidate(tmp_path: Path) -> None:
    """A model folder may name the file itself; what is not there is none."""
    touch(tmp_path, "m.onnx", "m.txt")
    assert candidates(tmp_path / "m.onnx") == [("onnx", tmp_path / "m.onnx")]
    assert candidates(tmp_path / "m.txt") == []
    assert candidates(tmp_path / "missing") == []


def test_a_folder_that_cannot_be_read_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no crash."""

    def refuse(path: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert candidates(touch(tmp_path, "m.onnx")) == []


def test_the_kind_of_all(tmp_path: Path) -> None:
    """One kind if all candidates are of it."""
    assert kind_of(touch(tmp_path, "a.pkl", "b.joblib")) == "scikit-learn"
    assert kind_of(touch(tmp_path, "a.pkl", "b.onnx")) == kind_of(tmp_path / "none") == "unknown"


def test_installed_versions() -> None:
    """By the name of the distribution, without importing it; None for what is not there."""
    assert installed_version("scikit-learn") == version("scikit-learn")
    assert installed_version("no-such-library") is None


def test_the_libraries_of_each_kind(tmp_path: Path) -> None:
    """Those that are installed."""
    names = {"scikit-learn": ["scikit-learn", "joblib", "numpy"], "onnx": ["onnxruntime", "onnx"]}
    for kind, expected in names.items():
        assert libraries(kind, tmp_path) == {name: version(name) for name in expected}
    assert libraries("unknown", tmp_path) == {}
    assert libraries("mlflow", tmp_path) == {}


MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.7
  sklearn:
    sklearn_version: 1.9.1
  pytorch:
    pytorch_version: '2.1.0+cu118'
  xgboost:
    xgb_version: "2.0.3"
mlflow_version: 3.17.2
model_uuid: 08495fcb90a046229150ceb7f383b420
"""


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            MLMODEL.encode(),
            {
                "scikit-learn": "1.9.1", "torch": "2.1.0+cu118", "xgboost": "2.0.3",
                "mlflow": "3.17.2",
            },
        ),
        (b"\xff\xfe\nmlflow_version: 3.1", {"mlflow": "3.1"}),
        (b"mlflow_version:\n  other", {}),
        (b"", {}),
    ],
)  # fmt: skip
def test_the_versions_in_an_mlmodel(content: bytes, found: dict[str, str], tmp_path: Path) -> None:
    """Those of the flavours, by the names that pip knows; whatever the file holds."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_bytes(content)
    assert mlflow_versions(tmp_path / "model") == found
    assert libraries("mlflow", tmp_path) == found
    assert mlflow_versions(tmp_path) == {}
