"""What is noted of a local service as JSON: port, process, what it serves; never a secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import LocalServiceError
from ..packaging.specification import Environment, PackagedModel, Specification
from .process import Process

RECORD = "service.json"
_PATHS = ("entry_script", "source_dir")
_NOT_STARTED = Process(0, 0.0)


@dataclass(frozen=True)
class Record:
    """What is noted of a service.

    ``generation`` counts its starts, ``created`` and ``updated`` are ISO 8601 times in UTC, and
    ``required`` names the variables of its environment whose values are secrets.
    """

    name: str
    port: int
    specification: Specification
    process: Process = _NOT_STARTED
    generation: int = 0
    created: str = ""
    updated: str = ""
    required: tuple[str, ...] = ()


def write(folder: Path, record: Record) -> None:
    """Note it in the service's folder, whole or not at all; without the values of secrets."""
    document = {
        **asdict(replace(record, specification=_without_secrets(record))),
        "process": record.process._asdict(),
    }
    temporary = folder / f".{RECORD}"
    text = json.dumps(document, indent=2, default=os.fspath) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / RECORD)


def read(folder: Path) -> Record:
    """What is noted in a service's folder.

    Raises:
        LocalServiceError: nothing is, or not what :func:`write` writes.
    """
    path = folder / RECORD
    try:
        document = json.loads(path.read_bytes())
        process = Process(**document["process"])
        specification = _specification(document["specification"])
        required = tuple(document["required"])
        noted = {**document, "process": process, "required": required}
        return Record(**{**noted, "specification": specification})
    except OSError as error:
        raise LocalServiceError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LocalServiceError(
            f"{path} is not what was written when the service was started: delete "
            f"{folder}, and deploy the service again."
        ) from error


def absolute(specification: Specification) -> Specification:
    """With absolute paths: it is read again wherever the next program runs."""
    environment, script = specification.environment, specification.entry_script
    source = specification.source_dir
    wheels = tuple(each.absolute() for each in environment.wheels)
    return replace(
        specification,
        models=tuple(replace(each, path=each.path.absolute()) for each in specification.models),
        environment=replace(environment, wheels=wheels),
        entry_script=script and (script if source else script.absolute()),
        source_dir=source and source.absolute(),
    )


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _without_secrets(record: Record) -> Specification:
    variables = record.specification.environment.variables.items()
    kept = {name: value for name, value in variables if name not in record.required}
    return record.specification.with_variables(kept)


def _specification(document: Mapping[str, Any]) -> Specification:
    environment = _with_tuples(document["environment"])
    environment["wheels"] = tuple(map(Path, environment["wheels"]))
    models = (PackagedModel(**{**each, "path": Path(each["path"])}) for each in document["models"])
    paths = {name: document[name] and Path(document[name]) for name in _PATHS}
    read = {"models": tuple(models), "environment": Environment(**environment), **paths}
    return Specification(**{**_with_tuples(document), **read})


def _with_tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
