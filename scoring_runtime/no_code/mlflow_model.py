"""MLflow models without a script: a folder with an ``MLmodel`` file, as a pyfunc.

The flavours that :mod:`.mlflow_flavours` knows load without mlflow; every other one, and what a
known one asks for beyond, is loaded with ``mlflow.pyfunc.load_model``. Either way inputs are
enforced as ``PyFuncModel.predict`` enforces them, and what reaches the model is what
``mlflow models serve`` makes of the same body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ModelUnusable, SchemaMismatch
from ..formats.mlflow_json import MISSING, TableRows, check_limits, decode
from ..models.kinds import mlflow_versions
from ..models.loading import load_mlflow, warn_of_versions
from ..values.content import Columns, Content, Limits, NoCodeModel, Rows
from .mlflow_columns import to_table
from .mlflow_flavours import Loaded, Predict, load_light, unenforced
from .mlflow_signature import Signature, brief, enforce_params, example, read, specs
from .mlflow_tensors import to_tensors

SPLIT = "dataframe_split"
_INSTALL = 'pip install "scoring-runtime[mlflow]"'


def load(
    folder: Path,
    *,
    limits: Limits | None = None,
    onnx_options: Callable[[], Any] | None = None,
) -> NoCodeModel:
    """The MLflow model in ``folder``, which holds ``MLmodel``.

    Args:
        folder: as ``mlflow.<flavour>.save_model`` writes it.
        limits: how much one request may hold.
        onnx_options: makes the ``onnxruntime.SessionOptions`` for the onnx flavour; those that are
            recorded with the model go before.

    Raises:
        ModelUnusable: MLmodel or a file it names is missing, damaged or not what is expected, or
            a package that the model needs is not installed; the message says which.
    """
    mlmodel = _read_mlmodel(folder / "MLmodel")
    signature = _signature(folder, mlmodel)
    warn_of_versions(folder, mlflow_versions(folder))
    light = _light(folder, mlmodel, signature, onnx_options)
    if light is not None:
        return MlflowModel(folder, mlmodel, signature, light, limits)
    pyfunc = load_mlflow(folder)
    kind = MlflowModel if _is_plain(mlmodel, signature) else _NestedModel
    loaded = Loaded(_pyfunc_predict(pyfunc), Signature(), pyfunc)
    return kind(folder, mlmodel, signature, loaded, limits)


class MlflowModel:
    """A pyfunc model behind plain data; see :class:`scoring_runtime.values.content.NoCodeModel`."""

    methods: tuple[str, ...] = ()
    params = None  # of its signature
    reads_text = False
    quick = None

    def __init__(
        self,
        folder: Path,
        mlmodel: Mapping[str, Any],
        signature: Signature,
        loaded: Loaded,
        limits: Limits | None,
    ) -> None:
        described = signature if signature.inputs else loaded.implied
        self.platform = f"mlflow_{_flavour(mlmodel)}"
        self.inputs = specs(described.inputs, "input")
        self.outputs = specs(signature.outputs or loaded.implied.outputs, "output")
        self.tabular = bool(described.columns)
        self.example: Mapping[str, Any] = _saved_example(folder, mlmodel) or example(described)
        self._signature, self._implied = signature, loaded.implied
        self._call = loaded.predict
        self._limits = limits

    def predict(self, content: Content, params: Mapping[str, Any], method: str) -> Any:
        """The model's answer; see :meth:`scoring_runtime.values.content.NoCodeModel.predict`.

        A ``ValueError``, ``TypeError`` or ``LookupError`` of the model itself is taken as its
        refusal of the data, as mlflow's server takes any error: scikit-learn refuses so NaN and
        tables without rows, and pandas columns that are not there.
        """
        if self._limits is not None:
            check_limits(content, self._limits)
        data = self._data(content)
        try:
            return self._call(data, self._params(params))
        except (ValueError, TypeError, LookupError) as error:
            kind = f"{type(error).__name__} " if isinstance(error, LookupError) else ""
            raise SchemaMismatch(f"The model refuses the input: {kind}{brief(error)}") from error

    def _params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return enforce_params(params, self._signature)

    def _data(self, content: Content) -> Any:
        if self._signature.columns:
            return to_table(content, self._signature)
        if self._signature.tensors:
            return to_tensors(content, self._signature, table=isinstance(content, TableRows))
        return unenforced(content, self._implied)


class _NestedModel(MlflowModel):
    """A model whose data only mlflow can convert: nested types, or types from Python's hints."""

    def __init__(
        self,
        folder: Path,
        mlmodel: Mapping[str, Any],
        signature: Signature,
        loaded: Loaded,
        limits: Limits | None,
    ) -> None:
        super().__init__(folder, mlmodel, signature, loaded, limits)
        self._schema = loaded.pyfunc.metadata.get_input_schema()
        self._hinted = bool(mlmodel.get("is_signature_from_type_hint"))
        if self._hinted and SPLIT in self.example:
            self.example = {"inputs": self.example[SPLIT]["data"][0]}

    def _params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return params

    def _data(self, content: Content) -> Any:
        return _as_listed(content) if self._hinted else _with_schema(content, self._schema)


# --- loading ----------------------------------------------------------------------------------


def _read_mlmodel(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ModelUnusable(f"{path} is YAML, and PyYAML is not installed: {_INSTALL}") from error
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelUnusable(
            f"{path} cannot be read as YAML, as mlflow writes it: {brief(error)}"
        ) from error
    flavours = parsed.get("flavors") if isinstance(parsed, dict) else None
    conf = flavours.get("python_function") if isinstance(flavours, dict) else None
    if not isinstance(conf, dict) or not isinstance(conf.get("loader_module"), str):
        there = ", ".join(map(str, flavours)) if isinstance(flavours, dict) else "none"
        raise ModelUnusable(
            f"{path} has no flavour python_function with a loader_module (its flavours: "
            f"{there}). Save the model with mlflow.<flavour>.save_model or log_model."
        )
    assert isinstance(parsed, dict)
    return parsed


def _signature(folder: Path, mlmodel: Mapping[str, Any]) -> Signature:
    try:
        return read(mlmodel.get("signature"))
    except ModelUnusable as error:
        raise ModelUnusable(f"{folder / 'MLmodel'}: {error}") from error


def _light(
    folder: Path,
    mlmodel: Mapping[str, Any],
    signature: Signature,
    onnx_options: Callable[[], Any] | None,
) -> Loaded | None:
    if not _is_plain(mlmodel, signature):
        return None
    try:
        import pandas  # noqa: F401

        return load_light(folder, mlmodel["flavors"], onnx_options)
    except ImportError as error:
        if find_spec("mlflow") is None:
            raise _needs(folder, error) from error
        return None


def _is_plain(mlmodel: Mapping[str, Any], signature: Signature) -> bool:
    hints = ("is_signature_from_type_hint", "type_hint_from_example")
    return signature.plain and not any(mlmodel.get(each) for each in hints)


def _needs(folder: Path, error: ImportError) -> ModelUnusable:
    missing = (error.name or str(error)).partition(".")[0]
    install = _INSTALL if missing in ("mlflow", "pandas") else f"pip install {missing}"
    return ModelUnusable(
        f"The MLflow model in {folder} needs the package {missing}, which cannot be imported "
        f"({error}): {install}"
    )


def _pyfunc_predict(pyfunc: Any) -> Predict:
    from mlflow.exceptions import MlflowException

    def predict(data: Any, params: Mapping[str, Any]) -> Any:
        try:
            return pyfunc.predict(data, params=dict(params))
        except MlflowException as error:
            why = brief(ValueError(error.message.rpartition("Error: ")[2]))
            raise SchemaMismatch(f"The model refuses the input: {why}") from error

    return predict


def _flavour(mlmodel: Mapping[str, Any]) -> str:
    others = [name for name in mlmodel["flavors"] if name != "python_function"]
    return others[0] if len(others) == 1 else "python_function"


# --- data -------------------------------------------------------------------------------------


def _with_schema(content: Content, schema: Any) -> Any:
    """As mlflow's server converts it (``mlflow/utils/proto_json_utils.py``)."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils import proto_json_utils

    cast: Any = proto_json_utils.cast_df_types_according_to_schema
    parse: Any = proto_json_utils.parse_inputs_data
    try:
        if isinstance(content, Columns | TableRows):
            table = unenforced(content, Signature())
            return cast(table, schema) if schema else table
        if isinstance(content, Rows):
            return parse(content.values, schema)
        return parse(dict(content.tensors), schema)
    except (MlflowException, ValueError, TypeError) as error:
        raise SchemaMismatch(f"The input does not fit the signature: {brief(error)}") from error


def _as_listed(content: Content) -> list[Any]:
    """The ``inputs`` as they came: models with type hints check them on their own."""
    if isinstance(content, Rows):
        return list(content.values)
    names, values = list(content[0]), list(content[0].values())
    if not all(isinstance(each, list | np.ndarray) for each in values):
        raise SchemaMismatch('The model takes {"inputs": […]}, a list with one item a row.')
    return [
        {name: each for name, each in zip(names, row, strict=True) if each is not MISSING}
        for row in zip(*values, strict=True)
    ]


# --- the example ------------------------------------------------------------------------------


def _saved_example(folder: Path, mlmodel: Mapping[str, Any]) -> dict[str, Any] | None:
    """The example that was saved with the model, if it is a body that can be read here."""
    info = mlmodel.get("saved_input_example_info")
    if not isinstance(info, dict):
        return None
    try:
        body = _example_body(folder, info)
        decode(body)
    except (OSError, ValueError, TypeError, KeyError, InputError):
        return None
    return body


def _example_body(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    def parsed(name: str) -> Any:
        text = (folder / name).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda _: None)

    if info.get("serving_input_path"):
        return dict(parsed(info["serving_input_path"]))
    value = parsed(info["artifact_path"])
    kind = SPLIT if info["type"] == "dataframe" else "inputs"
    if info.get("params"):
        return {kind: value["inputs"], "params": value["params"]}
    return {kind: value}
