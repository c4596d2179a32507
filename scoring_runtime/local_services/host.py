"""Starting the standalone host for a local service, from the build context of its package."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import LocalServiceError, PackagingError
from ..packaging import app_settings, context
from ..packaging.specification import STANDALONE, Specification
from ..settings.settings import setting_names
from . import keys
from . import record as local_record
from .process import LOOPBACK, check_port, end, spawn
from .record import Record

LOG = "log.txt"
_LOCK = ".lock"
GRACE_SECONDS = 5.0
_CONTEXT = "context-"
_PREFIXES = ("AZUREML_", "AML_", "SCORING_", "BLOB_", "SERVICEBUS_", "REDIS_", "CACHE_")


def start(folder: Path, before: Record, wanted: Record) -> Record:
    """Make the context of what is ``wanted``, end what runs ``before``, and start the host.

    Until the context is made nothing is changed.

    Returns:
        ``wanted`` with the new process, its generation, and the names of its secrets.

    Raises:
        LocalServiceError: the port is taken, another program has started the service meanwhile,
            what is wanted cannot be packaged, or the service's folder cannot be written.
    """
    if not (before.process.is_alive and before.port == wanted.port):
        # The workers of a host that was killed end a moment after it, and hold its port until then.
        check_port(wanted.port, GRACE_SECONDS if before.port == wanted.port else 0.0)
    specification = over_http(wanted.specification)
    generation = before.generation + 1
    place = folder / f"{_CONTEXT}{generation}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _LOCK).touch(0o600)
        # Not the folder itself, which is locked while a context is made in it.
        with context.alone(folder / _LOCK):
            _check_same(folder, before)
            shutil.rmtree(place, ignore_errors=True)
            made = context.make(specification, place, resolve=False)
            required = tuple(each.name for each in made.required)
            environment = _environment(os.environ, specification, place, wanted.port, required)
            if keys.read(folder):
                environment["SCORING_KEYS_FILE"] = str(folder / keys.KEYS)
            end(before.process, GRACE_SECONDS)
            command = [sys.executable, "-m", "scoring_runtime", "serve"]
            record = replace(
                wanted,
                specification=specification,
                process=spawn(command, place, folder / LOG, environment),
                generation=generation,
                updated=local_record.now(),
                required=required,
            )
            local_record.write(folder, record)
    except PackagingError as error:
        raise LocalServiceError(str(error)) from error
    except OSError as error:
        place_text = f" {error.filename}" if error.filename else ""
        raise LocalServiceError(
            f"The service {wanted.name} cannot be started:{place_text} {error.strerror or error}."
        ) from error
    for each in folder.glob(f"{_CONTEXT}*"):
        if each != place:
            shutil.rmtree(each, ignore_errors=True)
    return record


def _check_same(folder: Path, before: Record) -> None:
    there = (folder / local_record.RECORD).exists()
    if there and local_record.read(folder).process != before.process:
        raise LocalServiceError(
            f"The service {before.name} was started by another program meanwhile: find it by its "
            "name, or choose another one."
        )


def over_http(specification: Specification) -> Specification:
    """The same as a standalone package for HTTP alone: files and messages have no use for it."""
    return replace(
        local_record.absolute(specification),
        target=STANDALONE,
        triggers=("http",),
        auth_level="",
        input_path="",
        output_path="",
        input_queue="",
        output_queue=None,
    )


def _environment(
    outside: Mapping[str, str],
    specification: Specification,
    place: Path,
    port: int,
    required: tuple[str, ...],
) -> dict[str, str]:
    """What a container would have: this program's environment without settings of the runtime."""
    kept = {n: v for n, v in outside.items() if n in required or not _is_setting(n)}
    return {
        **kept,
        **app_settings.image_settings(specification, str(place)),
        **specification.environment.variables,
        "SERVER_PORT": str(port),
        "SCORING_HOST": LOOPBACK,
        "PYTHONUNBUFFERED": "1",
    }


def _is_setting(name: str) -> bool:
    return name.upper() in setting_names() or name.upper().startswith(_PREFIXES)
