"""Of which kind a model's file or folder is, and the versions of libraries that matter for it.

Kinds are told by file names; where those say too little, as ``.json`` does, by the first bytes. The
version of scikit-learn is the one that the pickle says wrote it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from .pickled import said

SKLEARN, ONNX, MLFLOW, UNKNOWN = "scikit-learn", "onnx", "mlflow", "unknown"
XGBOOST, LIGHTGBM = "xgboost", "lightgbm"
SUFFIXES: Mapping[str, str] = {
    ".pkl": SKLEARN,
    ".pickle": SKLEARN,
    ".joblib": SKLEARN,
    ".sav": SKLEARN,
    ".onnx": ONNX,
}
"""Suffix of a file, in lower case → its kind."""
# As joblib.dump names what it compresses.
_COMPRESSED = (".gz", ".z", ".bz2", ".xz", ".lzma", ".lz4")
# https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html: JSON, or UBJSON, whose first
# member is "learner"; LightGBM's text begins with its first sub-model.
_NATIVE_SUFFIXES = (".json", ".ubj", ".model", ".bst", ".xgb", ".txt", ".lgb")
_XGBOOST_START, _LIGHTGBM_START = (
    re.compile(rb'\{\s*"learner"|\{L.{8}learner', re.DOTALL),
    b"tree\n",
)

_LIBRARIES = {
    SKLEARN: ("scikit-learn", "joblib", "numpy"),
    ONNX: ("onnxruntime", "onnx"),
    XGBOOST: ("xgboost",),
    LIGHTGBM: ("lightgbm",),
}
_OTHER_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu",),
    "mlflow": ("mlflow-skinny",),
    "xgboost": ("xgboost-cpu",),
}
# Keys of MLmodel files, one or a few per flavour of https://mlflow.org/docs/latest/ml/model/
_MLFLOW_KEYS = {
    "mlflow_version": "mlflow",
    "sklearn_version": "scikit-learn",
    "onnx_version": "onnx",
    "xgb_version": "xgboost",
    "lgb_version": "lightgbm",
    "catboost_version": "catboost",
    "pytorch_version": "torch",
    "transformers_version": "transformers",
    "statsmodels_version": "statsmodels",
    "spacy_version": "spacy",
    "prophet_version": "prophet",
    "pmdarima_version": "pmdarima",
    "pyspark_version": "pyspark",
}


def candidates(path: Path) -> list[tuple[str, Path]]:
    """What a loader could load: ``(kind, path)`` of the file itself, or of those in the folder.

    Only the outermost are found: those next to each other, not those in folders below. What starts
    with a dot is none, and a folder with a file ``MLmodel`` is one.
    """
    level, seen = [path], set[str]()
    while level:
        found = [(kind, each) for each in level if (kind := _kind_of(each))]
        if found:
            return found
        level = [child for each in level for child in _children(each, seen)]
    return []


def kind_of(path: Path) -> str:
    """The kind of a model's file or folder; ``unknown`` also if it holds several kinds."""
    kinds = {kind for kind, _ in candidates(path)}
    return kinds.pop() if len(kinds) == 1 else UNKNOWN


def _kind_of(path: Path) -> str:
    if os.path.isdir(path):
        return MLFLOW if os.path.isfile(path / "MLmodel") else ""
    suffix = path.suffix.lower()
    if suffix in _COMPRESSED:
        inner = SUFFIXES.get(Path(path.stem).suffix.lower(), "")
        return inner if inner == SKLEARN else ""
    return _native_kind(path) if suffix in _NATIVE_SUFFIXES else SUFFIXES.get(suffix, "")


def _native_kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return ""
    if _XGBOOST_START.match(start):
        return XGBOOST
    return LIGHTGBM if start.startswith(_LIGHTGBM_START) else ""


def _children(path: Path, seen: set[str]) -> list[Path]:
    """The visible entries of a folder that was not seen yet: links may lead in circles."""
    real = os.path.realpath(path)
    if real in seen or not os.path.isdir(path):
        return []
    seen.add(real)
    try:
        return sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError:
        return []


def installed_version(library: str) -> str | None:
    """The version of an installed distribution; None if it is not installed. Imports nothing."""
    for name in (library, *_OTHER_DISTRIBUTIONS.get(library, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return None


def libraries(kind: str, path: Path) -> dict[str, str]:
    """The versions that matter for a model of this kind: those installed here, or that it says.

    For MLflow they are those that the flavours in its ``MLmodel`` name; see also :func:`agreeing`.
    """
    if kind == MLFLOW:
        folders = [folder for _, folder in candidates(path)]
        return mlflow_versions(folders[0]) if len(folders) == 1 else {}
    versions = {library: installed_version(library) for library in _LIBRARIES.get(kind, ())}
    return agreeing({name: version for name, version in versions.items() if version}, path)


def pickles(path: Path) -> list[Path]:
    """The pickle and joblib files of a model's file or folder; none of an MLflow model."""
    if kind_of(path) == MLFLOW:
        return []
    files = sorted(path.rglob("*")) if os.path.isdir(path) else [path]
    return [each for each in files if _kind_of(each) == SKLEARN]


def written_with(path: Path) -> str:
    """The version of scikit-learn, the highest, that its pickles say; empty if they say none."""
    versions = {each for file in pickles(path) if (each := said(file).scikit_learn)}
    return max(versions, key=lambda text: [*map(int, re.findall(r"\d+", text))], default="")


def agreeing(versions: Mapping[str, str], path: Path) -> dict[str, str]:
    """The versions, unless the pickles at the path were written with another scikit-learn.

    Then it is that one, and what was installed beside some other says nothing about them.
    """
    written = written_with(path)
    if written in ("", versions.get("scikit-learn")):
        return dict(versions)
    others = {name: each for name, each in versions.items() if name not in _LIBRARIES[SKLEARN]}
    return {**others, "scikit-learn": written}


def mlflow_versions(folder: Path) -> dict[str, str]:
    """The library versions in the ``MLmodel`` of this folder; empty if it cannot be read."""
    try:
        text = (folder / "MLmodel").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = re.findall(r"^[ \t]*(\w+_version):[ \t]*['\"]?([\w.+!-]+)", text, re.MULTILINE)
    return {_MLFLOW_KEYS[key]: version for key, version in found if key in _MLFLOW_KEYS}
