"""The model in a folder, ready to score without a script."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .. import manifest
from ..errors import ModelUnusable
from ..model_kinds import MLFLOW, ONNX
from ..model_loading import find_model_file, load_pickle, recorded_versions, warn_of_versions
from ..payloads import Limits, NoCodeModel
from ..settings import Settings
from ..telemetry import log
from .onnx_options import OnnxOptions


def load(folder: Path, settings: Settings, limits: Limits) -> NoCodeModel:
    """Load the only model in ``folder``, once its files are what was registered.

    Raises:
        ModelDamaged: they are not; nothing was loaded.
        ModelUnusable: no model, several, a package that is missing, or loading it failed.
    """
    manifest.check(folder)
    kind, path = find_model_file(folder)
    log.info("Loading the %s model %s", kind, path)
    options = _onnx_options(settings)
    if kind == MLFLOW:
        from .mlflow_model import load as load_mlflow
        from .onnx import session_options

        return load_mlflow(path, onnx_options=partial(session_options, options))
    warn_of_versions(path, recorded_versions(folder, kind, path))
    if kind == ONNX:
        from .onnx import OnnxModel

        return OnnxModel(path, limits, options)
    from .scikit_learn import ScikitLearnModel

    try:
        return ScikitLearnModel(load_pickle(path), limits)
    except ModelUnusable as error:
        if error.__cause__ is not None:
            raise
        raise ModelUnusable(f"{path}: {error}") from error


def _onnx_options(settings: Settings) -> OnnxOptions:
    return OnnxOptions(
        settings.onnx_providers,
        settings.onnx_optimization,
        settings.onnx_intra_op_threads,
        settings.onnx_inter_op_threads,
        settings.worker_count,
    )
