"""What is noted of a local service as JSON: port, process, what it serves; never a secret."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import LocalServiceError
from ..packaging.specification import Environment, PackagedModel, Specification
from .process import Process

RECORD = "service.json"
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
        **asdict(replace(record, specification=_without(record))),
        "process": record.process._asdict(),
    }
    temporary = folder / f".{RECORD}.{uuid.uuid4().hex}"
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
    models = [replace(each, path=_absolute(each.path)) for each in specification.models]
    wheels = [_absolute(each) for each in specification.environment.wheels]
    script, source = specification.entry_script, specification.source_dir
    if script is not None and source is None:
        script = _absolute(script)
    return replace(
        specification,
        models=tuple(models),
        environment=replace(specification.environment, wheels=tuple(wheels)),
        entry_script=script,
        source_dir=None if source is None else _absolute(source),
    )


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _without(record: Record) -> Specification:
    environment = record.specification.environment
    variables = {
        name: value for name, value in environment.variables.items() if name not in record.required
    }
    return replace(record.specification, environment=replace(environment, variables=variables))


def _specification(document: Mapping[str, Any]) -> Specification:
    environment = document["environment"]
    tuples = {name: tuple(environment[name]) for name in ("requirements", "options", "notes")}
    wheels = tuple(map(Path, environment["wheels"]))
    models = (PackagedModel(**{**each, "path": Path(each["path"])}) for each in document["models"])
    paths = {name: _path_or_none(document[name]) for name in ("entry_script", "source_dir")}
    read = {
        "triggers": tuple(document["triggers"]),
        "models": tuple(models),
        "environment": Environment(**{**environment, **tuples, "wheels": wheels}),
    }
    return Specification(**{**document, **read, **paths})


def _path_or_none(text: str | None) -> Path | None:
    return None if text is None else Path(text)
