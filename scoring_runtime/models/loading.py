"""Load a model by its kind: a pickle or joblib file, an ONNX file, an MLflow folder, a booster.

Pickles run code of whoever made them: load only models that you trust. Files of a registered model
are compared with what was registered before anything of them is loaded.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ModelUnusable
from ..telemetry.logs import log
from . import manifest
from .folder import entry_of, model_folder
from .kinds import (
    LIGHTGBM,
    MLFLOW,
    ONNX,
    SKLEARN,
    SUFFIXES,
    XGBOOST,
    candidates,
    installed_version,
    mlflow_versions,
)

# What is in the type and text of an error → what to do.
_ADVICE = {
    "^EOFError|^IndexError: index out of range|^InvalidProtobuf|exhausted before end|truncated": (
        " The file was cut short, or is of another kind: copy it again."
    ),
    "^UnpicklingError": " The file is no pickle, or was changed: save the model again.",
    "[Oo]pset|IR version": " The model was made for a newer onnxruntime: install that version.",
}
_EXTRAS = {"joblib": "sklearn", "sklearn": "sklearn", "onnxruntime": "onnx", "mlflow": "mlflow"}


class VersionDifference(NamedTuple):
    """A library whose installed version is not the one the model was made with."""

    library: str
    recorded: str
    installed: str


def load_model(
    name: str | None = None,
    version: int | str | None = None,
    file: str | None = None,
    *,
    root: str | Path | None = None,
) -> Any:
    """The model itself: the object in the pickle, an ``onnxruntime.InferenceSession``, an
    ``mlflow.pyfunc.PyFuncModel``, or a model of XGBoost or LightGBM.

    It is found as ``model_path`` does. A warning in the log names the libraries that differ from
    those it was made with.

    Raises:
        ModelNotFound: no such model, version or file; the message lists what there is.
        ModelDamaged: its files are not those that were registered; nothing was loaded.
        ModelUnusable: no file of a kind that can be loaded, or several; its package is missing; or
            loading it failed. The message names the file and the cause.
    """
    folder = model_folder(name, version, root=root)
    manifest.check(folder)
    kind, path = find_model_file(entry_of(folder, file))
    warn_of_versions(path, recorded_versions(folder, kind, path))
    return LOADERS[kind](path)


def find_model_file(folder: Path) -> tuple[str, Path]:
    """The kind, as :mod:`.kinds` names it, and the file or MLflow folder to load.

    ``folder`` is a model's folder or file; the file ``MLmodel`` stands for its folder. Files in a
    folder win over those in folders below it.

    Raises:
        ModelUnusable: none, or several next to each other; the message says what could be loaded.
    """
    if folder.name == "MLmodel" and folder.is_file():
        folder = folder.parent
    found = candidates(folder)
    if len(found) == 1:
        return found[0]
    if not folder.exists():
        raise ModelUnusable(f"{folder} cannot be loaded: it does not exist.")
    if found:
        names = ", ".join(str(path.relative_to(folder)) for _, path in found)
        raise ModelUnusable(f"{folder} holds several models: {names}. Name one with file=.")
    kinds = f"{', '.join(SUFFIXES)} or an MLflow folder (with a file MLmodel)"
    verb = "holds no model that can be loaded" if folder.is_dir() else "is no model of a known kind"
    raise ModelUnusable(f"{folder} {verb}: expected is {kinds}.")


def recorded_versions(folder: Path, kind: str, path: Path) -> dict[str, str]:
    """Library → version that the model of this kind at ``path`` was made with, where known.

    Those noted at the registration of ``folder``; for MLflow, those in its ``MLmodel``.

    Raises:
        ModelDamaged: the metadata cannot be read.
    """
    if kind == MLFLOW:
        return mlflow_versions(path)
    noted = manifest.read(manifest.noted_folder(folder))
    return dict(noted.libraries) if noted else {}


def version_differences(recorded: Mapping[str, str]) -> list[VersionDifference]:
    """The libraries whose installed version differs in major or minor from the recorded one.

    Bugfix releases keep the format of what they save. What is not installed is left out: whether
    the model needs it shows when it is loaded.
    """
    return [
        VersionDifference(library, version, installed)
        for library, version in recorded.items()
        if (installed := installed_version(library)) and _minor(installed) != _minor(version)
    ]


def warn_of_versions(path: Path, recorded: Mapping[str, str]) -> None:
    """One warning in the log that names each library that differs; none if none does."""
    differences = version_differences(recorded)
    if differences:
        named = "; ".join(
            f"{each.library} was {each.recorded}, installed is {each.installed}"
            for each in differences
        )
        log.warning("%s was made with other versions of its libraries: %s.", path, named)


def _minor(version: str) -> tuple[str, str]:
    major, _, rest = version.partition(".")
    return major, rest.partition(".")[0] or "0"


# --- by kind --------------------------------------------------------------------------------------


def load_pickle(path: Path, *, shared: bool = False) -> Any:
    """The object in a pickle or joblib file.

    ``shared``: the arrays of an uncompressed joblib file are not read but mapped, so that processes
    that load it hold them once; what one changes is its own.

    scikit-learn tells of estimators that another version of it saved; that is one warning in the
    log instead of one for each estimator. A module beside the file can be imported, after all
    others.

    Raises:
        ModelUnusable: joblib or a module of the pickle is missing, or the file is damaged.
    """
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    caught: list[warnings.WarningMessage] = []
    try:
        with _translated(path), warnings.catch_warnings(record=True) as caught:
            import joblib

            warnings.simplefilter("always")
            if shared and _is_uncompressed(path):
                with contextlib.suppress(Exception):  # too many arrays to be mapped, or unaligned
                    warnings.filterwarnings("error", ".*aligned")
                    return joblib.load(path, mmap_mode="c")
                caught.clear()
            return joblib.load(path)
    finally:  # they may say why it cannot be loaded
        _pass_on(path, caught)


def _is_uncompressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def load_xgboost(path: Path) -> Any:
    """An ``XGBClassifier``, ``XGBRegressor`` or ``XGBRanker`` where one was saved, else a Booster.
    As the others, it raises ModelUnusable if the library is missing or cannot load the file."""
    with _translated(path):
        import xgboost

        booster = xgboost.Booster(model_file=path)
        said = json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type", "")
        kind = getattr(xgboost, f"XGB{said.title()}", None)  # XGBClassifier and so on
        if kind is None:
            return booster
        estimator = kind()
        estimator.load_model(path)
        return estimator


def load_lightgbm(path: Path) -> Any:
    """A ``lightgbm.Booster``."""
    with _translated(path):
        import lightgbm

        return lightgbm.Booster(model_file=path)


def load_onnx(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` with every provider that is there."""
    with _translated(path):
        import onnxruntime

        return onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())


def load_mlflow(path: Path) -> Any:
    """An MLflow model as ``mlflow.pyfunc`` gives it."""
    with _translated(path):
        with warnings.catch_warnings():
            # They are about mlflow's own code.
            warnings.simplefilter("ignore")
            import mlflow.pyfunc

        return mlflow.pyfunc.load_model(str(path))


LOADERS: Mapping[str, Callable[[Path], Any]] = {
    SKLEARN: load_pickle,
    ONNX: load_onnx,
    MLFLOW: load_mlflow,
    XGBOOST: load_xgboost,
    LIGHTGBM: load_lightgbm,
}
"""Kind → what loads a file or folder of it."""


def _pass_on(path: Path, caught: list[warnings.WarningMessage]) -> None:
    recorded = {}
    for warning in caught:
        version = getattr(warning.message, "original_sklearn_version", None)
        if version is None:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        else:
            recorded["scikit-learn"] = str(version)
    warn_of_versions(path, recorded)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Whatever loading raises becomes one error: unpickling runs code that may raise anything."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelUnusable(_missing(path, error.name or str(error))) from error
    except Exception as error:
        said = " ".join(str(error).split()).partition(" Stack trace:")[0]  # XGBoost's
        cause = f"{type(error).__name__}: {said}".rstrip(": ").rstrip(".")
        raise ModelUnusable(f"{path} cannot be loaded: {cause}.{_advice(error)}") from error


def _missing(path: Path, module: str) -> str:
    package = module.partition(".")[0]
    extra = _EXTRAS.get(package)
    if "." in module and find_spec(package) is not None:
        advice = f"install the version of {package} that the model was made with"
    elif extra is None:
        advice = "install its package, or put the folder of that module on PYTHONPATH"
    else:
        advice = f"pip install 'scoring-runtime[{extra}]'"
    return f"{path} cannot be loaded: it needs the module {module}, which is not there: {advice}."


def _advice(error: Exception) -> str:
    """What to do about it, as a sentence; empty where the cause alone has to do."""
    if isinstance(error, AttributeError) and "__main__" in str(error):
        return (
            " Its class was defined in the notebook or program that saved it: put the class into a "
            "module of its own, save the model again, and ship that module with it."
        )
    causes = f"{type(error).__name__}: {error}"
    return next((advice for sign, advice in _ADVICE.items() if re.search(sign, causes)), "")
