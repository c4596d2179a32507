"""What an MLflow model that scores without a script needs: the packages that its folder names.

mlflow writes ``requirements.txt`` and ``conda.yaml`` beside ``MLmodel``
(https://mlflow.org/docs/latest/ml/model/#model-customization).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import PackagingError
from ..models.kinds import MLFLOW, candidates, mlflow_versions
from .environment.conda import from_conda
from .environment.files import parse_yaml, read_text
from .environment.pip import from_requirements
from .specification import Environment

_MLFLOW = re.compile(r"mlflow(-skinny)?\s*==\s*(\d+)\.(\d+)(.*)")
_FIRST = (2, 10)
"""The first version of mlflow whose server reads bodies as the runtime asks it to."""
_OWN_CODE = ("mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model")
"""Loaders of models that are code, which may import any part of mlflow."""


def environment(path: Path, *, script: bool = False) -> Environment:
    """What the model in a file or folder needs.

    mlflow itself is named without what only its tracking server needs, where the model is of one of
    its flavours; an mlflow that is too old for the runtime is left out for a newer one, which loads
    the same models. For an entry ``script`` it is the one that the folder names.

    Raises:
        PackagingError: one of its files cannot be read, or a line of them cannot be used.
    """
    folder = next((each for kind, each in candidates(path) if kind == MLFLOW), path)
    mlmodel = _mlmodel(folder / "MLmodel")
    named = _named(folder)
    if script:
        return named
    return replace(named, requirements=tuple(_fitting(named.requirements, _is_code(mlmodel))))


def _fitting(lines: tuple[str, ...], is_code: bool) -> Iterator[str]:
    for line in lines:
        found = _MLFLOW.fullmatch(line)
        if found is None:
            yield line
        elif (int(found[2]), int(found[3])) >= _FIRST:
            # Before 3 its server needed packages that mlflow-skinny does not bring.
            is_light = int(found[2]) >= 3 and not is_code
            yield line.replace("mlflow", "mlflow-skinny", 1) if is_light and not found[1] else line


def _is_code(mlmodel: Mapping[str, Any]) -> bool:
    flavours = mlmodel.get("flavors")
    conf = flavours.get("python_function") if isinstance(flavours, dict) else None
    if not isinstance(conf, dict):
        return True
    return bool(conf.get("code")) or conf.get("loader_module") in _OWN_CODE


def _mlmodel(path: Path) -> Mapping[str, Any]:
    document = parse_yaml(read_text(path), str(path))
    if not isinstance(document, dict):
        raise PackagingError(f"{path} is no MLmodel file, as mlflow writes it.")
    return document


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
