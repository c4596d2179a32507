"""``inferenceconfig.json``, as the old command line took it (``az ml model deploy --ic``).

Its keys and their meaning are those of "Inference configuration schema" in
https://learn.microsoft.com/azure/machine-learning/v1/reference-azure-machine-learning-cli, both
with an ``environment`` and in the older form with ``condaFile``; a key that has no meaning here is
passed over, with a note if it says something. Followed are also the YAML files of a deployment and
of an environment of the new command line
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-managed-online).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PackagingError
from ..specification import RETIRED_IMAGE, Environment
from .conda import from_conda, from_conda_document
from .files import mapping, parse_yaml, read_text, shown, variables
from .pip import merged

_KEYS = ("entryScript", "sourceDirectory", "environment", "description")
_OLDER_KEYS = (*_KEYS, "runtime", "condaFile", "baseImage")
_ENVIRONMENT_KEYS = ("name", "version", "environmentVariables", "python", "docker")
_PYTHON_KEYS = ("condaDependencies", "condaDependenciesFile", "interpreterPath")
_DOCKER_KEYS = ("baseImage", "enabled", "sharedVolumes", "platform")
# Keys by which a document of the new command line is told, and what it is.
_NEW = {
    "code_configuration": "deployment",
    "endpoint_name": "deployment",
    "auth_mode": "endpoint",
    "conda_file": "environment",
    "build": "environment",
    "image": "environment",
    "$schema": "document",
}


@dataclass(frozen=True)
class InferenceConfiguration:
    """What the file says: ``entry_script`` is a file in ``source_dir``, if there is one."""

    entry_script: Path
    source_dir: Path | None
    environment: Environment


def read(path: Path) -> InferenceConfiguration:
    """The configuration in a JSON file, or a YAML one by its suffix.

    ``sourceDirectory``, or ``code`` of a deployment, is meant beside the file, or where this
    process runs if the entry script is only there; the conda file is looked for in it first.

    Raises:
        PackagingError: it cannot be read, has a wrong value, or names a file that is not there; the
            message names the file and the key.
    """
    document = _document(path)
    if kind := _new(document):
        return _of_deployment(document, kind, path)
    content = mapping(document, str(path))
    source = _source_dir(content.get("sourceDirectory"), content.get("entryScript"), path)
    folders = tuple(dict.fromkeys([*([source] if source else []), path.parent, Path()]))
    script = _file(content.get("entryScript"), f"{path}: entryScript", folders)
    if source and not script.resolve().is_relative_to(source.resolve()):
        raise PackagingError(
            f"{path}: entryScript is {script}, which is not in the sourceDirectory {source}."
        )
    return InferenceConfiguration(script, source, _environment(content, str(path), folders))


def packages(path: Path) -> Environment:
    """The environment in a conda file, or in the YAML of one of Azure ML's new command line.

    Raises:
        PackagingError: as :func:`.conda.from_conda`, or it is the YAML of something else.
    """
    document = _document(path) if path.suffix.lower() in (".yml", ".yaml") else None
    kind = _new(document)
    if not kind:
        return from_conda(path)
    if kind == "environment":
        return environment(_old_form(document), str(path), path.parent)
    raise PackagingError(
        f"{path} is the {kind} of Azure ML's command line, version 2: name a deployment with "
        "--inference-config, and the conda file of its environment here."
    )


def environment(document: object, where: str, folder: Path = Path()) -> Environment:
    """The section ``environment``, or ``azureml_environment.json``, parsed.

    Raises:
        PackagingError: a wrong value or a file that is not there.
    """
    content = mapping(document, where)
    docker = mapping(content.get("docker") or {}, f"{where}.docker")
    python = mapping(content.get("python") or {}, f"{where}.python")
    own = Environment(
        variables=variables(content.get("environmentVariables"), f"{where}.environmentVariables"),
        notes=(
            *_unused(content, _ENVIRONMENT_KEYS, f"{where}."),
            *_unused(docker, _DOCKER_KEYS, f"{where}.docker."),
        ),
    )
    base = _base_image(docker.get("baseImage"), f"{where}.docker.baseImage")
    return merged(base, _packages(python, f"{where}.python", (folder,)), own)


# --- the file -------------------------------------------------------------------------------------


def _document(path: Path) -> object:
    text = read_text(path)
    if path.suffix.lower() in (".yml", ".yaml"):
        return parse_yaml(text, str(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PackagingError(
            f"{path}, line {error.lineno}, column {error.colno} is not JSON: {error.msg}."
        ) from error
    except (RecursionError, ValueError) as error:
        raise PackagingError(f"{path} is not JSON that can be read: {error}.") from error


def _source_dir(value: object, script: object, path: Path) -> Path | None:
    if value is None:
        return None
    name = _text(value, f"{path}: sourceDirectory")
    there = [folder / name for folder in (path.parent, Path()) if (folder / name).is_dir()]
    with_script = (each for each in there if (each / str(script)).is_file())
    if there:
        return next(with_script, there[0])
    raise PackagingError(
        f"{path}: sourceDirectory is {shown(name)}, and there is no folder {path.parent / name}."
    )


def _file(value: object, where: str, folders: tuple[Path, ...]) -> Path:
    name = _text(value, where)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise PackagingError(f"{where} is {shown(name)}, and there is no file {folders[0] / name}.")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise PackagingError(f"{where} is {shown(value)}; a text that is not empty is expected.")
    return value


# --- of the new command line ----------------------------------------------------------------------


def _new(document: object) -> str:
    """What a document of the new command line is; empty for any other."""
    if not isinstance(document, dict) or "dependencies" in document:
        return ""
    return next((kind for key, kind in _NEW.items() if key in document), "")


def _of_deployment(document: Any, kind: str, path: Path) -> InferenceConfiguration:
    code = document.get("code_configuration")
    if kind != "deployment" or not isinstance(code, dict):
        raise PackagingError(
            f"{path} is the {kind} of Azure ML's command line, version 2: expected is a deployment "
            "with code_configuration, or an inferenceconfig.json. Name an environment with --conda."
        )
    script = code.get("scoring_script")
    source = _source_dir(code.get("code", "."), script, path) or path.parent
    entry = _file(script, f"{path}: code_configuration.scoring_script", (source,))
    value, notes = document.get("environment"), []
    if isinstance(value, str) and (path.parent / value).is_file():
        value = _document(path.parent / value)
    elif isinstance(value, str):
        notes.append(f"{path}: {shown(value)} is none of this machine: name its file with --conda.")
    if document.get("model"):
        notes.append(f"{path}: the model is not taken from here: name it with --model.")
    said = {**_old_form(value), "environmentVariables": document.get("environment_variables")}
    found = environment(said, f"{path}: environment", path.parent)
    return InferenceConfiguration(entry, source, merged(found, Environment(notes=tuple(notes))))


def _old_form(document: Any) -> dict[str, Any]:
    """An environment of the new command line as the old one had it."""
    said = document if isinstance(document, dict) else {}
    conda, image = said.get("conda_file"), said.get("image")
    key = "condaDependencies" if isinstance(conda, dict) else "condaDependenciesFile"
    return {"python": {key: conda}, "docker": {"baseImage": image, "build": said.get("build")}}


# --- the environment ------------------------------------------------------------------------------


def _environment(content: Mapping[str, Any], where: str, folders: tuple[Path, ...]) -> Environment:
    value, conda = content.get("environment"), content.get("condaFile")
    if value is not None:
        notes = _unused(content, _KEYS, f"{where}: ")
        found = environment(value, f"{where}: environment", folders[0])
        return merged(found, Environment(notes=tuple(notes)))
    base = _base_image(content.get("baseImage"), f"{where}: baseImage")
    named = from_conda(_file(conda, f"{where}: condaFile", folders)) if conda else Environment()
    notes = _unused(content, _OLDER_KEYS, f"{where}: ")
    return merged(base, named, Environment(notes=tuple(notes)))


def _packages(python: Mapping[str, Any], where: str, folders: tuple[Path, ...]) -> Environment:
    if python.get("userManagedDependencies"):
        note = (
            f"{where}.userManagedDependencies is true: no package of it is installed, they have "
            "to be in the base image."
        )
        return Environment(notes=(note,))
    document, file = python.get("condaDependencies"), python.get("condaDependenciesFile")
    found = Environment(notes=tuple(_unused(python, _PYTHON_KEYS, f"{where}.")))
    if document is not None:
        place = f"{where}.condaDependencies"
        return merged(found, from_conda_document(document, place, folder=folders[0]))
    if file is not None:
        return merged(found, from_conda(_file(file, f"{where}.condaDependenciesFile", folders)))
    return found


def _base_image(value: object, where: str) -> Environment:
    if not value:
        return Environment()
    name = _text(value, where)
    if RETIRED_IMAGE.fullmatch(name):
        note = f"{where}: the image {name} of the retired service is not used."
        return Environment(notes=(note,))
    return Environment(base_image=name)


def _unused(content: Mapping[str, Any], known: Collection[str], where: str) -> Iterator[str]:
    for key, value in content.items():
        if key not in known and _says_something(value):
            yield f"{where}{key} is not used here."


def _says_something(value: object) -> bool:
    """Whether a value is not empty: null, false, and objects in which everything is empty, are."""
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    return bool(value)
