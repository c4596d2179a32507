"""The model in a folder, ready to score without a script."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

from ..errors import ModelUnusable
from ..models import manifest
from ..models.kinds import MLFLOW, ONNX, SKLEARN, candidates
from ..models.loading import (
    LOADERS,
    find_model_file,
    load_pickle,
    recorded_versions,
    warn_of_versions,
)
from ..models.pickled import said
from ..settings.settings import Settings
from ..telemetry.logs import log
from ..values.content import NoCodeModel

_T = TypeVar("_T")
_FORKED = {"sklearn", "numpy", "scipy", "pandas", "joblib"}
# What unpickling raises when it reads another kind of file as a pickle.
_OF_OTHER_FILES = (KeyError, IndexError, ValueError, AttributeError, UnpicklingError)
# Pickles of protocol 2 and later, and those that joblib compresses: zlib, gzip, bz2, xz, lzma, lz4.
_STARTS = (b"\x80", b"x", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"]\x00", b"\x04\x22\x4d\x18")


def load(folder: Path, settings: Settings, *, shared: bool = False) -> NoCodeModel:
    """Load the only model in ``folder``, once its files are what was registered; ``shared`` as
    :func:`scoring_runtime.models.loading.load_pickle`.

    Raises:
        ModelDamaged: they are not; nothing was loaded.
        ModelUnusable: no model, several, a package that is missing, or loading it failed.
    """
    manifest.check(folder)
    found = candidates(folder)
    if len(found) > 1:
        several = ", ".join(str(path.relative_to(folder)) for _, path in found)
        raise ModelUnusable(
            f"{folder} holds several models: {several}. Without an entry script one is "
            "expected: leave one there, or register each with scoring-runtime models register."
        )
    kind, path = found[0] if found else find_model_file(folder)  # which says what is expected
    log.info("Loading the %s model %s", kind, path)
    try:
        return _loaded(kind, path, folder, settings, shared)
    except ModelUnusable as error:
        if error.__cause__ is not None or str(path) in str(error):
            raise
        raise ModelUnusable(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # unpickling runs code that may do anything
        said = " ".join(str(error).split())[:500]
        cause = f"{type(error).__name__}: {said}".rstrip(": .")
        raise ModelUnusable(f"{path} cannot be loaded: {cause}.") from error


def load_before_fork(
    folder: Path, settings: Settings, made: Callable[[NoCodeModel], _T]
) -> _T | None:
    """What is ``made`` of the model in a process that is forked then: no thread is started, as
    GCC's OpenMP waits for ever for those that were not forked.

    None: it is no scikit-learn model, or has parts of other packages, which may start some.
    """
    found = candidates(folder)
    if [kind for kind, _ in found] != [SKLEARN]:
        return None
    modules = {each.partition(".")[0] for each in said(found[0][1]).modules}
    if not modules <= _FORKED | sys.stdlib_module_names:
        return None
    from threadpoolctl import threadpool_limits

    importlib.import_module("sklearn")  # whose libraries are to be there for the limit
    with threadpool_limits(1):
        return made(load(folder, settings))


def _loaded(kind: str, path: Path, folder: Path, settings: Settings, shared: bool) -> NoCodeModel:
    if kind == MLFLOW:
        from .mlflow import load as load_mlflow

        return load_mlflow(path)
    warn_of_versions(path, recorded_versions(folder, kind, path))
    from . import sample

    shown = sample.beside(folder, path, settings.limits)
    if kind == ONNX:
        from .onnx import OnnxModel

        model = OnnxModel(path, settings)
        model.example = model.example if shown is None else shown.body
        return model
    from .scikit_learn import ScikitLearnModel

    try:
        loader = partial(load_pickle, shared=shared) if kind == SKLEARN else LOADERS[kind]
        return ScikitLearnModel(loader(path), settings.limits, shown)
    except ModelUnusable as error:
        if type(error.__cause__) in _OF_OTHER_FILES:
            raise ModelUnusable(f"{error}{_first_bytes(path)}") from error.__cause__
        raise


def _first_bytes(path: Path) -> str:
    """What says that a file is no pickle: those of the last 20 years start with 0x80."""
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(_STARTS):
        return ""
    if start == b"version http":
        return " It is a pointer of Git LFS in place of the file: run git lfs pull."
    return f" It starts with {start!r}, as no pickle does: copy it again, or save it again."
