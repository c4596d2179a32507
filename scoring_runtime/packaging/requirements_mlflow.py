"""What an MLflow model that scores without a script needs: the packages that its folder names.

mlflow writes ``requirements.txt`` and ``conda.yaml`` beside ``MLmodel``
(https://mlflow.org/docs/latest/ml/model/#model-customization).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import PackagingError
from ..models.kinds import LIGHT_MLFLOW_KEYS, MLFLOW, candidates, mlflow_versions
from .environment.conda import from_conda
from .environment.files import parse_yaml, read_text
from .environment.names import name_of
from .environment.pip import from_requirements
from .specification import Environment

KNOWN_KEYS = LIGHT_MLFLOW_KEYS
PLAIN_TYPES = frozenset(
    {"boolean", "integer", "long", "float", "double", "string", "binary", "datetime"}
)
"""Types of columns and params that are enforced without mlflow."""

_SERIALIZED = {"pickle": "", "cloudpickle": "cloudpickle", "skops": "skops"}
_MLFLOW = ("mlflow", "mlflow-skinny", "mlflow-tracing")
_HINTS = ("is_signature_from_type_hint", "type_hint_from_example")


def environment(path: Path, *, may_be_light: bool = True) -> tuple[Environment, bool]:
    """What the model in a file or folder needs, and whether it is loaded without mlflow.

    Args:
        path: the model's folder, or one that it is in.
        may_be_light: unless it does, mlflow is kept: a script may import it.

    Raises:
        PackagingError: one of its files cannot be read, or a line of them cannot be used.
    """
    folder = next((each for kind, each in candidates(path) if kind == MLFLOW), path)
    mlmodel = _mlmodel(folder / "MLmodel")
    light = may_be_light and is_light(mlmodel)
    named = _named(folder)
    if not light:
        return named, light
    kept = (each for each in named.requirements if not _is_idle(mlmodel, name_of(each)))
    serialized = _serialized(mlmodel, named)
    return replace(named, requirements=(*kept, *serialized)), light


def is_light(mlmodel: Mapping[str, Any]) -> bool:
    """Whether this runtime loads the model without mlflow.

    As :mod:`scoring_runtime.no_code.mlflow_model` decides; where that is in doubt mlflow is kept.
    """
    flavours = _mapping(mlmodel.get("flavors"))
    conf = _mapping(flavours.get("python_function"))
    if conf.keys() - KNOWN_KEYS or conf.get("code") or any(map(mlmodel.get, _HINTS)):
        return False
    if not _is_plain(mlmodel.get("signature")):
        return False
    loader = conf.get("loader_module")
    if loader == "mlflow.sklearn":
        return _format(flavours) in _SERIALIZED
    return loader == "mlflow.onnx" and conf.get("predict_fn", "predict") == "predict"


def _mlmodel(path: Path) -> Mapping[str, Any]:
    document = parse_yaml(read_text(path), str(path))
    if not isinstance(document, dict):
        raise PackagingError(f"{path} is no MLmodel file, as mlflow writes it.")
    return document


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _format(flavours: Mapping[str, Any]) -> object:
    return _mapping(flavours.get("sklearn")).get("serialization_format", "pickle")


def _is_plain(section: object) -> bool:
    """Whether the signature has no nested types; the parts of it are texts in JSON."""
    if section is None:
        return True
    parts = _mapping(section)
    try:
        inputs, params = (json.loads(parts.get(key) or "[]") for key in ("inputs", "params"))
        columns = [each for each in inputs if each["type"] != "tensor"]
        return all(each.get("type") in PLAIN_TYPES for each in [*columns, *params])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def _named(folder: Path) -> Environment:
    """The packages in its files; without files, those whose versions are in MLmodel."""
    requirements, conda = folder / "requirements.txt", folder / "conda.yaml"
    of_conda = from_conda(conda) if conda.is_file() else Environment()
    if requirements.is_file():
        return replace(from_requirements(requirements), python=of_conda.python)
    if conda.is_file():
        return of_conda
    versions = mlflow_versions(folder).items()
    return Environment(requirements=tuple(f"{name}=={version}" for name, version in versions))


def _is_idle(mlmodel: Mapping[str, Any], name: str) -> bool:
    """Whether a package is named for mlflow's sake only."""
    loader = mlmodel["flavors"]["python_function"]["loader_module"]
    return name in _MLFLOW or (name == "onnx" and loader == "mlflow.onnx")


def _serialized(mlmodel: Mapping[str, Any], named: Environment) -> Iterator[str]:
    if mlmodel["flavors"]["python_function"]["loader_module"] != "mlflow.sklearn":
        return
    package = _SERIALIZED[str(_format(mlmodel["flavors"]))]
    if package and package not in map(name_of, named.requirements):
        yield package
