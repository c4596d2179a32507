"""The signature of an MLflow model: what its ``MLmodel`` file says of inputs, outputs and params.

The texts it is read from are those that ``mlflow.types.schema`` writes: lists of column or tensor
specifications as JSON (https://mlflow.org/docs/latest/ml/model/signatures/).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ModelUnusable, SchemaMismatch
from ..telemetry.logs import log
from ..values.content import DATATYPES, Spec

COLUMN_TYPES: Mapping[str, tuple[str, str]] = {
    "boolean": ("bool", "BOOL"),
    "integer": ("int32", "INT32"),
    "long": ("int64", "INT64"),
    "float": ("float32", "FP32"),
    "double": ("float64", "FP64"),
    "string": ("str", "BYTES"),
    "binary": ("bytes", "BYTES"),
    "datetime": ("datetime64[ns]", "BYTES"),
}
"""Type of a column → its numpy dtype and V2 datatype (``mlflow.types.DataType``)."""
NESTED_TYPES = ("array", "object", "map", "any", "sparkml_vector")


@dataclass(frozen=True)
class Column:
    """One column; ``name`` is None in a signature without names. ``type`` is a key of
    ``COLUMN_TYPES``, or one of ``NESTED_TYPES`` that only mlflow itself enforces."""

    name: str | None
    type: str
    required: bool
    nested: Mapping[str, Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(COLUMN_TYPES[self.type][0])


@dataclass(frozen=True)
class Tensor:
    """One tensor; -1 in ``shape`` where any length goes."""

    name: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Param:
    """What a body may give next to its data; ``listed`` when it is a list of ``type``."""

    name: str
    type: str
    default: Any
    listed: bool


@dataclass(frozen=True)
class Signature:
    """A signature; no ``columns`` and no ``tensors``: it says nothing of the input."""

    columns: tuple[Column, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    outputs: tuple[Column | Tensor, ...] = ()
    params: tuple[Param, ...] | None = None
    plain: bool = True
    """Whether it can be enforced here: no nested types in inputs and params."""

    @property
    def inputs(self) -> tuple[Column | Tensor, ...]:
        return self.columns or self.tensors

    @property
    def named(self) -> bool:
        return any(each.name is not None for each in self.inputs)


def read(section: Any) -> Signature:
    """The signature from the section ``signature`` of a parsed MLmodel file; None: an empty one.

    Raises:
        ModelUnusable: it is not one; the message says which part, and what is expected.
    """
    if section is None:
        return Signature()
    if not isinstance(section, dict):
        raise ModelUnusable(f"its signature is {section!r:.60}, not a mapping of texts in JSON.")
    inputs, outputs, params = (
        _part(section, part, one)
        for part, one in (("inputs", _input), ("outputs", _input), ("params", _param))
    )
    _check_names(inputs or ())
    columns = tuple(each for each in inputs or () if isinstance(each, Column))
    plain = all(each.type in COLUMN_TYPES for each in (*columns, *(params or ())))
    tensors = tuple(each for each in inputs or () if isinstance(each, Tensor))
    return Signature(columns, tensors, outputs or (), params, plain)


def specs(parts: tuple[Column | Tensor, ...], unnamed: str) -> tuple[Spec, ...]:
    """The specifications as V2 metadata have them: a column is ``(-1,)``, text is BYTES.

    What has no name is called ``unnamed``, or by its position when there are several.
    """
    several = len(parts) > 1
    return tuple(
        _spec(each, str(position) if several else unnamed) for position, each in enumerate(parts)
    )


def example(signature: Signature) -> dict[str, Any]:
    """A body of one row with a value of each type: ``dataframe_split`` or ``inputs``."""
    if signature.columns:
        row = [_sample(each.type, each.nested) for each in signature.columns]
        names = {"columns": [each.name for each in signature.columns]} if signature.named else {}
        return {"dataframe_split": {**names, "data": [row]}}
    tensors = {each.name: _sample_tensor(each) for each in signature.tensors}
    return {"inputs": tensors if signature.named else next(iter(tensors.values()), [])}


def enforce_params(params: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The params that the model gets: those it declares, converted, the others' defaults.

    The same as ``_enforce_params_schema`` in ``mlflow/models/utils.py``: integers become floats
    where floats are declared, nothing else is converted, and names that are not declared are
    ignored with a warning.

    Raises:
        SchemaMismatch: a value is not of the type that is declared.
    """
    declared = {each.name: each for each in signature.params or ()}
    if ignored := [str(name)[:40] for name in params if name not in declared]:
        known = ", ".join(declared) or "none"
        log.warning("Params that are not declared are ignored: %s (declared: %s)", ignored, known)
    return {
        name: _param_value(each, params[name]) if name in params else each.default
        for name, each in declared.items()
    }


def brief(error: Exception) -> str:
    """What an error of another library says, in one line of at most 400 characters."""
    text = " ".join(str(error).split())
    return f"{text[:400]}…" if len(text) > 400 else text or type(error).__name__


# --- reading ----------------------------------------------------------------------------------


def _part(section: Mapping[str, Any], part: str, one: Callable[[Any], Any]) -> Any:
    text = section.get(part)
    if not text:
        return None
    try:
        listed = json.loads(text) if isinstance(text, str) else text
        if not isinstance(listed, list):
            raise TypeError(f"a list was expected, not {type(listed).__name__}")
        return tuple(one(each) for each in listed)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"the key {error} is missing" if isinstance(error, KeyError) else error
        raise ModelUnusable(
            f"{part} of its signature cannot be read ({why}): a list of specifications in JSON "
            "is expected, as mlflow writes it."
        ) from error


def _input(spec: Mapping[str, Any]) -> Column | Tensor:
    name, kind = spec.get("name"), spec["type"]
    if kind == "tensor":
        tensor = spec["tensor-spec"]
        shape = tuple(int(length) for length in tensor["shape"])
        return Tensor(name, np.dtype(tensor["dtype"]), shape)
    if kind not in COLUMN_TYPES and kind not in NESTED_TYPES:
        raise ValueError(f"type {kind!r} is none of {', '.join((*COLUMN_TYPES, *NESTED_TYPES))}")
    return Column(name, kind, spec.get("required", True) is not False, spec)


def _param(spec: Mapping[str, Any]) -> Param:
    kind = spec.get("type") or spec["dtype"]
    if kind not in COLUMN_TYPES and kind != "object":
        raise ValueError(f"type {kind!r} of param {spec['name']} is not known")
    param = Param(str(spec["name"]), kind, None, spec.get("shape") is not None)
    try:
        default = spec["default"] if kind == "object" else _param_value(param, spec["default"])
    except SchemaMismatch as error:
        raise ValueError(f"default: {error}") from error
    return Param(param.name, kind, default, param.listed)


def _check_names(inputs: tuple[Column | Tensor, ...]) -> None:
    names = [each.name for each in inputs]
    unnamed = names.count(None)
    if unnamed and unnamed < len(names):
        raise ModelUnusable("some inputs of its signature have names and some have none.")
    kinds = {type(each) for each in inputs}
    if len(kinds) > 1 or (unnamed > 1 and kinds == {Tensor}):
        raise ModelUnusable(
            "the inputs of its signature must be columns, or tensors with names, or one tensor."
        )


# --- specifications and examples --------------------------------------------------------------


def _spec(part: Column | Tensor, position: str) -> Spec:
    name = position if part.name is None else part.name
    if isinstance(part, Tensor):
        return Spec(name, DATATYPES.get(part.dtype.name, "BYTES"), part.shape)
    datatype = COLUMN_TYPES[part.type][1] if part.type in COLUMN_TYPES else "BYTES"
    return Spec(name, datatype, (-1,), not part.required)


_SAMPLES: Mapping[str, Any] = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 1.0,
    "double": 1.0,
    "string": "text",
    "binary": "Ynl0ZXM=",
    "datetime": "2024-01-01T00:00:00",
    "any": "text",
    "sparkml_vector": [1.0],
}


def _sample(kind: str, nested: Mapping[str, Any]) -> Any:
    if kind == "array":
        return [_sample(nested["items"]["type"], nested["items"])]
    if kind == "object":
        return {name: _sample(each["type"], each) for name, each in nested["properties"].items()}
    if kind == "map":
        return {"key": _sample(nested["values"]["type"], nested["values"])}
    return _SAMPLES[kind]


def _sample_tensor(tensor: Tensor) -> Any:
    shape = [1 if length < 0 else length for length in tensor.shape]
    if tensor.dtype.kind in "OUS":
        return np.full(shape, "text", object).tolist()
    return np.ones(shape, tensor.dtype if tensor.dtype.kind in "biuf" else "float64").tolist()


# --- params -----------------------------------------------------------------------------------

_PARAM_TYPES: Mapping[str, tuple[type, tuple[type, ...]]] = {
    "boolean": (bool, (bool,)),
    "integer": (int, (int,)),
    "long": (int, (int,)),
    "float": (float, (float, int)),
    "double": (float, (float, int)),
    "string": (str, (str,)),
}


def _param_value(param: Param, value: Any) -> Any:
    if not param.listed:
        return _param_scalar(param, value)
    if not isinstance(value, list) or any(isinstance(each, list) for each in value):
        raise SchemaMismatch(f"Param {param.name} must be a list of {param.type}.")
    return [_param_scalar(param, each) for each in value]


def _param_scalar(param: Param, value: Any) -> Any:
    if value is None:
        return None
    if param.type == "datetime":
        return _moment(param, value)
    convert, allowed = _PARAM_TYPES.get(param.type, (None, ()))
    if convert is None or type(value) not in allowed:
        shown = f"{value!r:.40}" if isinstance(value, str | int | float) else type(value).__name__
        raise SchemaMismatch(f"Param {param.name} must be of type {param.type}, not {shown}.")
    return convert(value)


def _moment(param: Param, value: Any) -> Any:
    try:
        moment = np.datetime64(value).item()
    except (ValueError, TypeError) as error:
        raise SchemaMismatch(f"Param {param.name} must be an ISO 8601 date or time.") from error
    if not isinstance(moment, datetime.date):
        raise SchemaMismatch(f"Param {param.name} must be an ISO 8601 time to microseconds.")
    return moment
