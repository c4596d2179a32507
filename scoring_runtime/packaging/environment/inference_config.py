"""``inferenceconfig.json``, as the old command line took it (``az ml model deploy --ic``).

Its keys and their meaning are those of "Inference configuration schema" in
https://learn.microsoft.com/azure/machine-learning/v1/reference-azure-machine-learning-cli, both
with an ``environment`` and in the older form with ``runtime`` and ``condaFile``. Followed are also
the YAML files of a deployment and of an environment of the new one
(https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-managed-online).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import PackagingError
from ..specification import Environment
from .conda import from_conda, from_conda_document
from .files import fields, parse_yaml, read_text, shown, variables
from .pip import merged

_STEPS = ("extraDockerfileSteps", "extraDockerFileSteps")
_OLDER = (
    "runtime",
    "condaFile",
    *_STEPS,
    "enableGpu",
    "baseImage",
    "baseImageRegistry",
    "schemaFile",
    "dependencies",
    "cudaVersion",
)
_KEYS = ("entryScript", "sourceDirectory", "environment", "description", *_OLDER)
_ENVIRONMENT_KEYS = (
    "name",
    "version",
    "environmentVariables",
    "python",
    "docker",
    "inferencingStackVersion",
    "spark",
    "databricks",
    "r",
    "assetId",
    "platform",
)
_PYTHON_KEYS = (
    "condaDependencies",
    "condaDependenciesFile",
    "userManagedDependencies",
    "baseCondaEnvironment",
    "interpreterPath",
)
_DOCKER_KEYS = (
    "baseImage",
    "baseImageRegistry",
    "baseDockerfile",
    "arguments",
    "enabled",
    "gpuSupport",
    "sharedVolumes",
    "shmSize",
    "buildContext",
    "platform",
)
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
_RUNTIMES = ("python", "slim", "spark-py")
_RETIRED_IMAGE = re.compile(
    r"(?i)(mcr\.microsoft\.com/azureml(/|:|$)|viennaglobal\.azurecr\.io/).*"
)
_NO_STEPS = (
    "is not used: build an image with those steps and name it with --base-image or baseImage."
)
_NO_GPU = "name a base image that has CUDA with --base-image."
# What was of use on the old service alone: key → why it is no more.
_UNUSED = {
    "docker.arguments": "is not used: give them to docker run.",
    "docker.baseDockerfile": _NO_STEPS,
    "docker.buildContext": _NO_STEPS,
    "docker.gpuSupport": f"is not used: {_NO_GPU}",
    "python.baseCondaEnvironment": "is not used: images have no conda.",
    "inferencingStackVersion": "is not used: this runtime takes the place of that stack.",
    "spark": "is not used: name pyspark among the packages, and a base image that has Java.",
    "databricks": "is not used.",
    "r": "is not used: images have Python only.",
    "extraDockerfileSteps": _NO_STEPS,
    "extraDockerFileSteps": _NO_STEPS,
    "enableGpu": f"is not used: {_NO_GPU}",
    "cudaVersion": f"is not used: {_NO_GPU}",
    "schemaFile": "is not used: schemas come from the decorators of the entry script.",
    "dependencies": "is not used: put those files into the source directory.",
    "baseImageRegistry": "is not used: sign in with docker login before the image is built.",
    "docker.baseImageRegistry": "is not used: sign in with docker login before the image is built.",
}


@dataclass(frozen=True)
class InferenceConfiguration:
    """What the file says: ``entry_script`` is a file in ``source_dir``, if there is one."""

    entry_script: Path
    source_dir: Path | None
    environment: Environment


def read(path: Path) -> InferenceConfiguration:
    """The configuration in a JSON file, or a YAML one by its suffix ``.yml`` or ``.yaml``.

    ``sourceDirectory`` is meant beside the file, or where this process runs if the entry script is
    only there; the conda file is looked for in it first. So is ``code`` of a deployment.

    Raises:
        PackagingError: it cannot be read, has an unknown key or a wrong value, or names a file
            that is not there; the message names the file and the key.
    """
    document = _document(path)
    if kind := _new(document):
        return _of_deployment(document, kind, path)
    content = fields(document, _KEYS, str(path))
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
    if kind in ("", "environment"):
        return (
            environment(_old_form(document), str(path), path.parent) if kind else from_conda(path)
        )
    raise PackagingError(
        f"{path} is the {kind} of Azure ML's command line, version 2: name a deployment with "
        "--inference-config, and the conda file of its environment here."
    )


def environment(document: object, where: str, folder: Path = Path()) -> Environment:
    """The section ``environment``, or ``azureml_environment.json``, parsed.

    Raises:
        PackagingError: an unknown key, a wrong value or a file that is not there.
    """
    content = fields(document, _ENVIRONMENT_KEYS, where)
    docker = _section(content, "docker", _DOCKER_KEYS, where)
    python = _section(content, "python", _PYTHON_KEYS, where)
    base = _base_image(docker.get("baseImage"), f"{where}.docker.baseImage")
    own = Environment(
        variables=variables(content.get("environmentVariables"), f"{where}.environmentVariables"),
        notes=(
            *_unused(content, "", where),
            *_unused(docker, "docker.", where),
            *_unused(python, "python.", where),
        ),
    )
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
    except RecursionError as error:
        raise PackagingError(f"{path} is not JSON that can be read: nested too deeply.") from error
    except ValueError as error:
        raise PackagingError(
            f"{path} is not JSON that can be read: {shown(str(error))}."
        ) from error


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


def _section(
    content: Mapping[str, Any], key: str, known: tuple[str, ...], where: str
) -> Mapping[str, Any]:
    value = content.get(key)
    return {} if value is None else fields(value, known, f"{where}.{key}")


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
    docker = {"baseImage": image, "buildContext": said.get("build")}
    return {"python": {key: conda}, "docker": docker}


# --- the environment ------------------------------------------------------------------------------


def _environment(content: Mapping[str, Any], where: str, folders: tuple[Path, ...]) -> Environment:
    value = content.get("environment")
    if value is None:
        return _older(content, where, folders)
    found = environment(value, f"{where}: environment", folders[0])
    ignored = [key for key in _OLDER if content.get(key)]
    if not ignored:
        return found
    note = f"{where}: {', '.join(ignored)} is not used, for there is an environment."
    return replace(found, notes=(*found.notes, note))


def _older(content: Mapping[str, Any], where: str, folders: tuple[Path, ...]) -> Environment:
    notes = [*_unused(content, "", f"{where}: "), *_of_runtime(content.get("runtime"), where)]
    base = _base_image(content.get("baseImage"), f"{where}: baseImage")
    conda = content.get("condaFile")
    packages = Environment()
    if conda is not None:
        packages = from_conda(_file(conda, f"{where}: condaFile", folders))
    return merged(base, packages, Environment(notes=tuple(notes)))


def _of_runtime(value: object, where: str) -> Iterator[str]:
    if value is not None and value not in _RUNTIMES:
        raise PackagingError(
            f"{where}: runtime is {shown(value)}; one of {', '.join(_RUNTIMES)} is expected."
        )
    if value == "spark-py":
        yield f"{where}: runtime {value} {_UNUSED['spark']}"


def _packages(python: Mapping[str, Any], where: str, folders: tuple[Path, ...]) -> Environment:
    if _flag(python.get("userManagedDependencies"), f"{where}.userManagedDependencies"):
        note = (
            f"{where}.userManagedDependencies is true: no package of it is installed, they have "
            "to be in the base image."
        )
        return Environment(notes=(note,))
    document, file = python.get("condaDependencies"), python.get("condaDependenciesFile")
    if document is not None:
        return from_conda_document(document, f"{where}.condaDependencies", folder=folders[0])
    if file is not None:
        return from_conda(_file(file, f"{where}.condaDependenciesFile", folders))
    return Environment()


def _flag(value: object, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise PackagingError(f"{where} is {shown(value)}; true or false is expected.")
    return bool(value)


def _base_image(value: object, where: str) -> Environment:
    if value is None or value == "":
        return Environment()
    if not isinstance(value, str):
        raise PackagingError(
            f"{where} is {shown(value)}; an image such as registry/name:tag is expected."
        )
    if _RETIRED_IMAGE.fullmatch(value):
        note = f"{where}: the image {value} of the retired service is not used."
        return Environment(notes=(note,))
    return Environment(base_image=value)


def _unused(content: Mapping[str, Any], prefix: str, where: str) -> Iterator[str]:
    for key, value in content.items():
        why = _UNUSED.get(prefix + key)
        if why and _says_something(value):
            dot = "" if where.endswith(": ") else "."
            yield f"{where}{dot}{prefix}{key} {why}"


def _says_something(value: object) -> bool:
    """Whether a value is not empty: null, false, and objects in which everything is empty, are."""
    if isinstance(value, dict):
        return any(_says_something(each) for each in value.values() if each is not True)
    return bool(value)
