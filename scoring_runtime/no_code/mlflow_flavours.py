"""The flavours of MLflow models that load without mlflow itself: scikit-learn and ONNX.

What a model gets and gives is what ``mlflow.sklearn`` and ``mlflow.onnx`` make of it in their
``_load_pyfunc``; importing mlflow takes seconds and hundreds of megabytes of packages.
"""

from __future__ import annotations

import inspect
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ModelUnusable, SchemaMismatch
from ..formats.mlflow_json import TableRows
from ..models.kinds import LIGHT_MLFLOW_KEYS
from ..values.content import Columns, Content, Rows, Tensors
from .mlflow_columns import read_text
from .mlflow_onnx import OnnxPyfunc
from .mlflow_signature import Column, Signature, Tensor, brief

Predict = Callable[[Any, Mapping[str, Any]], Any]


class Loaded(NamedTuple):
    """A model, ready to be called with its data and params; ``implied`` is what it says itself of
    its inputs and outputs, for models without a signature."""

    predict: Predict
    implied: Signature
    pyfunc: Any = None


_KNOWN_KEYS = LIGHT_MLFLOW_KEYS


def load_light(
    folder: Path, flavours: Mapping[str, Any], onnx_options: Callable[[], Any] | None
) -> Loaded | None:
    """The model, if its flavour and all that its ``MLmodel`` asks for is known here; else None.

    Raises:
        ModelUnusable: its file is missing or cannot be read.
        ImportError: a package that it needs is not installed.
    """
    conf = flavours["python_function"]
    if conf.keys() - _KNOWN_KEYS:
        return None
    if conf["loader_module"] == "mlflow.sklearn":
        return _load_sklearn(folder, conf, flavours.get("sklearn", {}))
    if conf["loader_module"] == "mlflow.onnx" and conf.get("predict_fn", "predict") == "predict":
        model = OnnxPyfunc(_file(folder, conf), flavours.get("onnx", {}), onnx_options)
        return Loaded(model, model.implied)
    return None


def add_code(folder: Path, conf: Mapping[str, Any]) -> None:
    """Let the code that was saved with the model be imported, before anything else."""
    code = conf.get("code")
    if code and str(folder / code) not in sys.path:
        sys.path.insert(0, str(folder / code))


def unenforced(content: Content, implied: Signature) -> Any:
    """What a model without a signature gets: a table stays a table, and arrays stay arrays.

    Raises:
        SchemaMismatch: rows of different lengths.
    """
    import pandas as pd

    if isinstance(content, Tensors):
        content = _as_implied(content, implied)
    try:
        if isinstance(content, Columns) and not content.typed:
            return read_text(content.columns, None)
        if isinstance(content, Columns):
            return pd.DataFrame(content.columns)
        if isinstance(content, TableRows):
            return pd.DataFrame(content.values)
        if isinstance(content, Rows):
            # mlflow leaves an empty list as it is.
            return np.asarray(content.values) if len(content.values) else content.values
        return {name: np.asarray(values) for name, values in content.tensors.items()}
    except ValueError as error:
        raise SchemaMismatch(f"The input is no table and no array: {brief(error)}") from error


def _as_implied(content: Tensors, implied: Signature) -> Content:
    """Arrays under the names that the model shows as its inputs are what it means by them."""
    tensors = content.tensors
    if implied.named and implied.columns:
        names = [str(each.name) for each in implied.columns if each.name in tensors]
        order = dict.fromkeys([*names, *tensors])
        return Columns({name: np.asarray(tensors[name]).ravel() for name in order})
    if not implied.named and implied.tensors and len(tensors) == 1:
        return Rows(next(iter(tensors.values())))
    return content


def _file(folder: Path, conf: Mapping[str, Any]) -> Path:
    name = Path(conf.get("data") or "")
    if (folder / name).is_dir():
        name = name / (conf.get("model_path") or "")
    if (folder / name).is_file():
        return folder / name
    raise ModelUnusable(
        f"{folder / 'MLmodel'} names the model file {name}, which is not there. Copy the whole "
        "folder that mlflow wrote."
    )


# --- scikit-learn -----------------------------------------------------------------------------

_METHODS = ("predict_proba", "predict_log_proba", "predict_joint_log_proba", "score")


def _load_sklearn(
    folder: Path, conf: Mapping[str, Any], flavour: Mapping[str, Any]
) -> Loaded | None:
    kind = flavour.get("serialization_format", "pickle")
    if kind not in _UNPICKLE:
        return None
    path = _file(folder, conf)
    add_code(folder, conf)
    model = _unpickled(path, kind, flavour.get("skops_trusted_types"))
    return Loaded(_sklearn_predict(path, model, conf.get("predict_fn", "predict")), _implied(model))


def _from_pickle(path: Path, trusted: Any) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _from_cloudpickle(path: Path, trusted: Any) -> Any:
    import cloudpickle

    with path.open("rb") as file:
        return cloudpickle.load(file)


def _from_skops(path: Path, trusted: Any) -> Any:
    from skops.io import load

    return load(path, trusted=trusted)


_UNPICKLE = {"pickle": _from_pickle, "cloudpickle": _from_cloudpickle, "skops": _from_skops}


def _unpickled(path: Path, kind: str, trusted: Any) -> Any:
    try:
        with warnings.catch_warnings():
            # One line in the log tells of other versions already.
            warnings.filterwarnings("ignore", "Trying to unpickle estimator")
            return _UNPICKLE[kind](path, trusted)
    except ImportError:
        raise
    except Exception as error:  # what a pickle runs can raise anything
        why = f"{type(error).__name__}: {brief(error)}"
        raise ModelUnusable(
            f"{path} cannot be read ({why}). A whole file in {kind} format is expected, made with "
            "the installed version of scikit-learn."
        ) from error


def _sklearn_predict(path: Path, model: Any, name: str) -> Predict:
    if name != "predict" and name not in _METHODS:
        raise ModelUnusable(
            f"{path.parent / 'MLmodel'} asks for predict_fn {name}; known are: "
            f"{', '.join(('predict', *_METHODS))}."
        )
    method = getattr(model, name, None)
    if method is None:
        raise ModelUnusable(f"{path} holds a {type(model).__name__}, which has no {name}().")
    takes_params = name != "predict" and _takes_params(method)

    def predict(data: Any, params: Mapping[str, Any]) -> Any:
        return method(data, params=dict(params)) if takes_params else method(data)

    return predict


def _takes_params(method: Any) -> bool:
    param = inspect.signature(method).parameters.get("params")
    return param is not None and param.kind is not inspect.Parameter.VAR_KEYWORD


def _implied(model: Any) -> Signature:
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        return Signature(columns=tuple(Column(str(each), "double", True, {}) for each in names))
    width = getattr(model, "n_features_in_", None)
    if width is None:
        return Signature()
    return Signature(tensors=(Tensor(None, np.dtype("float64"), (-1, int(width))),))
