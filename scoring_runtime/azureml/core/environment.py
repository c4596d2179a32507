"""``azureml.core.environment``: packages and variables under a name, kept in a workspace."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...models.model import folder_of
from ...packaging import specification
from ...packaging.specification import FUNCTIONS, RETIRED_IMAGE, STANDALONE
from ..exceptions import (
    UserErrorException,
    WebserviceException,
    as_webservice_exceptions,
    refusing,
)
from .conda_dependencies import CONDA_FILE_NAME, CondaDependencies
from .container_registry import ContainerRegistry

DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.1-cudnn8-ubuntu20.04"
"""Images of the retired service; the target's own is taken in place of them."""
ENVIRONMENT_FILE_NAME = "azureml_environment.json"
# What the names of curated environments say is in them → packages.
_CURATED = {
    f"^azureml-.*{sign}": packages
    for sign, packages in {
        "xgboost": ("xgboost", "scikit-learn", "pandas"),
        "lightgbm": ("lightgbm", "scikit-learn", "pandas"),
        "onnx": ("onnxruntime", "numpy"),
        "torch|acpt": ("torch", "numpy"),
        "tensorflow": ("tensorflow", "numpy"),
        "mlflow": ("mlflow", "scikit-learn", "pandas"),
        "sklearn|scikit-learn|tutorial|automl": ("scikit-learn", "joblib", "pandas"),
        "minimal|inference": (),
    }.items()
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass
class PythonSection:
    """What is installed; nothing if the dependencies are the user's to manage."""

    conda_dependencies: CondaDependencies = field(default_factory=CondaDependencies)
    user_managed_dependencies: bool = False
    interpreter_path: str = "python"
    conda_dependencies_file: str | None = None
    base_conda_environment: str | None = None

    def packages(self, where: str) -> specification.Environment:
        """What an image has to hold; ``where`` is what messages call the environment."""
        from ...packaging.environment.conda import from_conda_document

        if self.user_managed_dependencies:
            return specification.Environment()
        dependencies = self.conda_dependencies
        if self.conda_dependencies_file is not None:
            dependencies = CondaDependencies(self.conda_dependencies_file)
        with as_webservice_exceptions():
            return from_conda_document(dependencies.as_dict(), where, folder=dependencies.folder)

    def document(self) -> dict[str, Any]:
        return {
            "userManagedDependencies": self.user_managed_dependencies,
            "interpreterPath": self.interpreter_path,
            "condaDependenciesFile": self.conda_dependencies_file,
            "condaDependencies": self.conda_dependencies.as_dict(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> PythonSection:
        structure = document.get("condaDependencies")
        return cls(
            CondaDependencies(_underlying_structure=structure),
            bool(document.get("userManagedDependencies")),
            document.get("interpreterPath") or "python",
            document.get("condaDependenciesFile"),
        )


@dataclass
class DockerSection:
    """The image to start from; everything is packaged for a container, ``enabled`` or not."""

    enabled: bool = False
    base_image: str | None = None
    base_dockerfile: str | None = None
    base_image_registry: ContainerRegistry = field(default_factory=ContainerRegistry)

    def added_to(
        self, packages: specification.Environment, target: str
    ) -> specification.Environment:
        """The packages with the base image, unless that could not run as a Function App."""
        image, address = self.base_image, self.base_image_registry.address
        if not image:
            return packages
        image = f"{address}/{image}" if address else image
        if RETIRED_IMAGE.fullmatch(image):
            note = f"The base image {image} of the retired service is not used."
            return replace(packages, notes=(*packages.notes, note))
        if target == FUNCTIONS and "azure-functions" not in image:
            note = f"The base image {image} was not taken: it does not hold the Functions host."
            return replace(packages, notes=(*packages.notes, note))
        return replace(packages, base_image=image)

    def document(self) -> dict[str, Any]:
        """Without the password."""
        registry = self.base_image_registry
        return {
            "enabled": self.enabled,
            "baseImage": self.base_image,
            "baseDockerfile": self.base_dockerfile,
            "baseImageRegistry": {"address": registry.address, "username": registry.username},
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> DockerSection:
        registry = document.get("baseImageRegistry") or {}
        return cls(
            bool(document.get("enabled")),
            document.get("baseImage"),
            document.get("baseDockerfile"),
            ContainerRegistry(registry.get("address") or "", registry.get("username") or ""),
        )


class Environment:
    """The packages, variables and base image of an image.

    Raises:
        UserErrorException: the name cannot be a folder's.
    """

    def __init__(self, name: str, **unused: Any) -> None:
        if not _NAME.fullmatch(name):
            raise UserErrorException(
                f"{name!r} is not a name for an environment: allowed are letters, digits, '-', '_' "
                "and '.', the first a letter, digit or '_'."
            )
        self.name, self.version = name, unused.get("version")
        self.python, self.docker = PythonSection(), DockerSection()
        self.environment_variables: dict[str, str] = {}
        self.inferencing_stack_version: str | None = None

    # --- made from something ----------------------------------------------------------------------

    @staticmethod
    def from_conda_specification(name: str, file_path: str | os.PathLike[str]) -> Environment:
        """With what is in a conda environment file; UserErrorException if it is none."""
        made = Environment(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        return made

    @staticmethod
    def from_pip_requirements(
        name: str, file_path: str | os.PathLike[str], pip_version: str | None = None
    ) -> Environment:
        """With what is in a requirements file; UserErrorException if it cannot be read."""
        made = Environment(name)
        lines = _requirement_lines(Path(file_path))
        dependencies = CondaDependencies(_underlying_structure={"dependencies": [{"pip": lines}]})
        dependencies.folder = Path(file_path).absolute().parent
        made.python.conda_dependencies = dependencies
        return made

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: str | os.PathLike[str] | None = None,
        pip_requirements: str | os.PathLike[str] | None = None,
    ) -> Environment:
        """With a base image, and with a conda or a requirements file."""
        if conda_specification is not None:
            made = Environment.from_conda_specification(name, conda_specification)
        elif pip_requirements is not None:
            made = Environment.from_pip_requirements(name, pip_requirements)
        else:
            made = Environment(name)
        made.docker.base_image = image
        made.docker.base_image_registry = container_registry or ContainerRegistry()
        return made

    from_existing_conda_environment = staticmethod(
        refusing(
            "A conda environment is not read here: export it with 'conda env export -n NAME "
            "--from-history' into a file and take Environment.from_conda_specification.",
            UserErrorException,
        )
    )
    from_dockerfile = from_docker_build_context = staticmethod(
        refusing(
            "A Dockerfile is not built here: build that image and take "
            "Environment.from_docker_image, which takes its packages too.",
            UserErrorException,
        )
    )

    def clone(self, new_name: str) -> Environment:
        """The same under another name, without a version."""
        made = Environment(new_name)
        made.python, made.docker = copy.deepcopy(self.python), copy.deepcopy(self.docker)
        made.environment_variables = dict(self.environment_variables)
        made.inferencing_stack_version = self.inferencing_stack_version
        return made

    # --- kept in a workspace ----------------------------------------------------------------------

    def register(self, workspace: object) -> Environment:
        """Keep it in the workspace, as its next version unless the last one is the same."""
        folder = kept_in(workspace, "environments") / self.name
        versions = _versions(folder)
        if versions:
            last = self.load_from_directory(versions[-1])
            if last._document() == self._document():
                return last
        number = int(versions[-1].name) + 1 if versions else 1
        kept = self.clone(self.name)
        kept.version = str(number)
        kept.save_to_directory(folder / str(number))
        return kept

    @staticmethod
    def get(
        workspace: object, name: str, version: str | None = None, label: str | None = None
    ) -> Environment:
        """A version from the workspace, the highest unless one is named.

        For a name of those that Microsoft curates, such as ``AzureML-sklearn-0.24-…``, that is not
        in the workspace: an environment with the packages that its name speaks of, in the versions
        of today.

        Raises:
            UserErrorException: there is none; the message lists what there is.
        """
        there = _versions(kept_in(workspace, "environments") / name)
        wanted = [each for each in there if version is None or each.name == str(version)]
        if wanted:
            return Environment.load_from_directory(wanted[-1])
        curated = next((p for sign, p in _CURATED.items() if re.search(sign, name.lower())), None)
        if not there and curated is not None:
            made = Environment(name)
            made.python.conda_dependencies = CondaDependencies.create(
                pip_packages=["azureml-defaults", *curated]
            )
            return made
        number = f" version {version}" if version is not None else ""
        names = ", ".join(Environment.list(workspace)) or "none"
        has = f"It has version {', '.join(each.name for each in there)}." if there else ""
        raise UserErrorException(
            f"There is no environment {name}{number} in the workspace. "
            f"{has or f'Registered are: {names}.'} Make one and register it."
        )

    @staticmethod
    def list(workspace: object) -> dict[str, Environment]:
        """The highest version of each environment in the workspace, by name."""
        top = kept_in(workspace, "environments")
        names = sorted(each.name for each in top.iterdir()) if top.is_dir() else []
        found = {name: _versions(top / name) for name in names if not name.startswith(".")}
        return {
            name: Environment.load_from_directory(versions[-1])
            for name, versions in found.items()
            if versions
        }

    def save_to_directory(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write it as ``azureml_environment.json`` and ``conda_dependencies.yml``;
        UserErrorException if the folder is not empty, unless ``overwrite``."""
        folder = Path(path)
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise UserErrorException(
                f"{folder} is not empty: name another folder, or pass overwrite=True."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.python.conda_dependencies.save(folder / CONDA_FILE_NAME)
        text = json.dumps({**self._document(), "version": self.version}, indent=4)
        (folder / ENVIRONMENT_FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load_from_directory(path: str | os.PathLike[str]) -> Environment:
        """What :meth:`save_to_directory` wrote; UserErrorException if it is something else."""
        place = Path(path) / ENVIRONMENT_FILE_NAME
        try:
            made = _loaded(json.loads(place.read_text(encoding="utf-8")))
        except OSError as error:
            raise UserErrorException(f"{place} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserErrorException(f"{place} does not describe an environment.") from error
        conda = Path(path) / CONDA_FILE_NAME
        if conda.is_file():
            made.python.conda_dependencies = CondaDependencies(conda)
        return made

    def _document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "python": self.python.document(),
            "docker": self.docker.document(),
            "environmentVariables": self.environment_variables,
            "inferencingStackVersion": self.inferencing_stack_version,
        }

    # --- what the packager makes of it ------------------------------------------------------------

    def packages(self, target: str) -> specification.Environment:
        """What an image for ``target`` has to hold."""
        if self.docker.base_dockerfile is not None:
            raise WebserviceException(
                f"The environment {self.name} has a base_dockerfile, which is not taken: package "
                "with generate_dockerfile=True and edit the Dockerfile, or build that image and "
                "name it as base_image."
            )
        made = self.python.packages(f"the environment {self.name}")
        own = {str(name): str(value) for name, value in self.environment_variables.items()}
        return self.docker.added_to(replace(made, variables={**made.variables, **own}), target)

    def build_local(
        self, workspace: object, platform: str | None = None, useDocker: bool = False, **unused: Any
    ) -> Path:
        """Make a virtual environment of this Python with the packages, in the workspace; its
        folder. WebserviceException with ``useDocker``, or if pip cannot install them."""
        if useDocker or unused.get("use_docker"):
            self.build(workspace)
        folder = kept_in(workspace, "environments") / ".local" / self.name
        return _made(folder, self.packages(STANDALONE))

    build = refusing(
        "An environment alone is not built into an image here: package a model with it, with "
        "Model.package or azureml.contrib.functions.package."
    )

    def __repr__(self) -> str:
        return f"Environment(name={self.name!r}, version={self.version!r})"


def _loaded(said: dict[str, Any]) -> Environment:
    made = Environment(said["name"], version=said.get("version"))
    made.python = PythonSection.of(said.get("python") or {})
    made.docker = DockerSection.of(said.get("docker") or {})
    made.environment_variables = dict(said.get("environmentVariables") or {})
    made.inferencing_stack_version = said.get("inferencingStackVersion")
    return made


def _requirement_lines(path: Path) -> list[str]:
    from ...packaging.environment.files import logical_lines

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserErrorException(
            f"The requirements file {path} cannot be read: {error.strerror}."
        ) from error
    return [line for _, line in logical_lines(text)]


def _made(folder: Path, packages: specification.Environment) -> Path:
    venv.create(folder, clear=True)
    requirements = folder / "requirements.txt"
    lines = (*packages.options, *packages.requirements)
    requirements.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    # The pip of this Python, which installs for another (pip 22.3 and newer).
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "--disable-pip-version-check"]
    command = [*pip, "install", "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = tuple(done.stderr.strip().splitlines()) or ("it said nothing",)
        raise WebserviceException(
            f"The packages of {requirements} cannot be installed: {lines[-1]}"
        )
    return folder


# --- in a workspace -------------------------------------------------------------------------------


def kept_in(workspace: object, kind: str) -> Path:
    """Where a workspace keeps its ``environments``, or its ``packages``; no packager takes it."""
    with as_webservice_exceptions():
        return folder_of(workspace).absolute() / ".azureml" / kind


def _versions(folder: Path) -> list[Path]:
    """The folders that are called by a number, by it; none if the folder is not there."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted((each for each in there if each.name.isdecimal()), key=lambda e: int(e.name))
