"""What a pickle says of itself, read without running any of it."""

from __future__ import annotations

import pickle
import pickletools
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from scoring_runtime.models.kinds import agreeing, libraries, pickles, written_with
from scoring_runtime.models.pickled import Said, said
from tests.models_for_tests import other_version

OTHER = {"scikit-learn": "1.3.2"}


def fitted() -> Any:
    data = np.random.default_rng(1).normal(size=(40, 3))
    steps = (FunctionTransformer(np.abs), StandardScaler(), RandomForestClassifier(5))
    return make_pipeline(*steps).fit(data, data[:, 0] > 0)


def imported(path: Path) -> set[str]:
    """The modules that unpickling really asks for, but those of Python 2's names."""
    names = set()

    class Watching(joblib.numpy_pickle.NumpyUnpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            names.add(module)
            return super().find_class(module, name)

    with path.open("rb") as file:
        Watching(str(path), file, ensure_native_byte_order=False).load()
    return names


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_each_protocol(protocol: int, tmp_path: Path) -> None:
    """All that unpickling imports, and the version; protocol 0 says none in plain bytes."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(fitted(), protocol))
    found = said(path)
    known = found.modules - {"__builtin__", "copy_reg"}
    assert known == imported(path) - {"builtins", "copyreg", "__builtin__", "copy_reg"}
    assert found.scikit_learn == (sklearn.__version__ if protocol else "")
    if protocol >= 4:
        path.write_bytes(pickletools.optimize(path.read_bytes()))
        assert said(path) == found


@pytest.mark.parametrize("compress", [0, 3, *(("zlib", 1), ("gzip", 3), ("bz2", 3), ("xz", 3))])
def test_a_joblib_file(compress: Any, tmp_path: Path) -> None:
    """With its arrays between the opcodes, and packed in whatever way."""
    path = tmp_path / "m.joblib"
    joblib.dump(fitted(), path)
    modules = imported(path)
    joblib.dump(fitted(), path, compress=compress)
    assert said(path) == Said(frozenset(modules), sklearn.__version__)


def test_nothing_of_it_is_run_and_nothing_else_is_found(tmp_path: Path) -> None:
    """A module that is not there is named, not imported; numbers and texts are no names."""
    path = tmp_path / "m.pkl"
    content = pickle.dumps([np.random.default_rng(1).bytes(1 << 20), "csklearn\nx\n", fitted()])
    path.write_bytes(content.replace(b"sklearn.pipeline", b"sklearn.pipelin3"))
    found = said(path)
    assert "sklearn.pipelin3" in found.modules and "sklearn.pipelin3" not in sys.modules
    assert {each.partition(".")[0] for each in found.modules} == {"numpy", "sklearn"}


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bx", b"\x80\x04", b"text"])
def test_what_is_no_pickle_says_nothing(content: bytes, tmp_path: Path) -> None:
    """Nor what is cut off or not there; who loads it says so."""
    (tmp_path / "m.pkl").write_bytes(content)
    assert said(tmp_path / "m.pkl") == said(tmp_path / "none.pkl") == said(tmp_path) == Said()


def test_what_the_pickle_says_counts(tmp_path: Path) -> None:
    """Not what is installed here, nor what was beside it when somebody registered it."""
    path = other_version(tmp_path / "m" / "m.pkl")
    here = {name: "9" for name in ("scikit-learn", "joblib", "numpy", "lightgbm")}
    assert libraries("scikit-learn", path) == libraries("scikit-learn", path.parent) == OTHER
    assert agreeing(here, path) == {"lightgbm": "9", **OTHER}
    assert agreeing({**OTHER, "numpy": "1.26"}, path) == {**OTHER, "numpy": "1.26"}
    (path.parent / "b.onnx").touch()
    assert libraries("unknown", path.parent) == OTHER


def test_the_pickles_of_a_model(tmp_path: Path) -> None:
    """At any depth, the highest version of several; MLflow says itself what its model needs."""
    other_version(tmp_path / "m/deep/a.joblib")
    (tmp_path / "m/b.pkl").write_bytes(pickle.dumps(StandardScaler().fit(np.eye(2))))
    assert [path.name for path in pickles(tmp_path / "m")] == ["b.pkl", "a.joblib"]
    assert written_with(tmp_path / "m") == sklearn.__version__
    (tmp_path / "m/MLmodel").touch()
    assert written_with(tmp_path / "m") == ""
