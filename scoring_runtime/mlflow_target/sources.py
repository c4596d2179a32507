"""MLflow's side of a deployment: its models by URI, its payloads and its errors.

mlflow is imported in the functions that need it: that takes a second and changes the process.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ScoringRuntimeError
from ..local_services.record import Record
from ..packaging import model_files
from ..packaging.specification import PackagedModel

FLAVOUR = "python_function"
_DOWNLOADS = ".mlflow-models"
_PAYLOADS = frozenset({"dataframe_split", "dataframe_records", "instances", "inputs"})


def model_of(root: Path, name: str, model_uri: str, flavor: str | None) -> PackagedModel:
    """The model at a local path or any URI of mlflow, which is downloaded for the deployment."""
    folder = _downloaded(root, name, model_uri)
    if not (folder / "MLmodel").is_file():
        refuse(f"{model_uri} is no MLflow model: expected is a folder with a file MLmodel.")
    check_flavour(flavor, _flavours(folder))
    content = folder.parent.parent.name == _DOWNLOADS  # its name would be another each time
    return model_files.from_path(name, 1, folder, content=content)


def _downloaded(root: Path, name: str, model_uri: str) -> Path:
    if Path(model_uri).exists():
        return Path(model_uri).absolute()
    from mlflow.artifacts import download_artifacts

    target = root / _DOWNLOADS / name / uuid.uuid4().hex
    target.mkdir(parents=True)
    try:
        return Path(download_artifacts(artifact_uri=model_uri, dst_path=str(target)))
    except Exception as error:  # each kind of store raises its own
        shutil.rmtree(target, ignore_errors=True)
        refuse(f"The model {model_uri} cannot be had: {error}", error)


def remove_downloads(root: Path, record: Record) -> None:
    """Remove the models that were downloaded for a service and that it does not serve any more."""
    kept = [each.path for each in record.specification.models]
    for each in (root / _DOWNLOADS / record.name).glob("*"):
        if not any(path.is_relative_to(each) for path in kept):
            shutil.rmtree(each, ignore_errors=True)


def forget_downloads(root: Path, name: str) -> None:
    """Remove all that was downloaded for a deployment."""
    shutil.rmtree(root / _DOWNLOADS / name, ignore_errors=True)


def _flavours(folder: Path) -> list[str]:
    from mlflow.models import Model

    return [*Model.load(str(folder)).flavors]


def check_flavour(flavor: str | None, there: list[str]) -> None:
    """Raise MlflowException unless the flavour, None for the default, is one that is served."""
    if FLAVOUR not in there:
        refuse(f"The model has no flavour {FLAVOUR}; it has: {', '.join(there) or 'none'}.")
    if flavor not in (None, FLAVOUR):
        refuse(f"The flavour {flavor!r} is not served: leave it out, or name {FLAVOUR}.")


def payload_of(inputs: Any) -> bytes:
    """What ``POST /score`` is sent for a DataFrame, an array, a list, columns, or a payload."""
    from mlflow.utils.proto_json_utils import dump_input_data

    if isinstance(inputs, dict) and not _PAYLOADS & inputs.keys():
        columns = {key: getattr(each, "tolist", lambda v=each: v)() for key, each in inputs.items()}
        inputs = {"inputs": columns}
    if isinstance(inputs, dict):
        return json.dumps(inputs).encode()
    text: str = dump_input_data(inputs)
    return text.encode()


@contextmanager
def translated(endpoint: str | None = None) -> Iterator[None]:
    """Raise this package's errors as MlflowException, and one if an endpoint is named."""
    if endpoint is not None:
        refuse("The target scoring-runtime has no endpoints: name a deployment.")
    try:
        yield
    except ScoringRuntimeError as error:
        refuse(str(error), error)


def refuse(text: str, cause: BaseException | None = None) -> NoReturn:
    """Raise MlflowException with this text."""
    from mlflow.exceptions import MlflowException

    raise MlflowException.invalid_parameter_value(text) from cause
