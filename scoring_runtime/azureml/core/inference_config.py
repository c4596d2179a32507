"""An inference configuration, and what the packager makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...models import model as azureml_model
from ...packaging import specification
from ...packaging.specification import PackagedModel, Specification
from ..exceptions import WebserviceException, as_webservice_exceptions
from .container_registry import ContainerRegistry
from .environment import DockerSection, Environment

_PYTHON = "python"


@dataclass(eq=False, repr=False)
class InferenceConfig:
    """The entry script and what it needs.

    Args:
        entry_script: its file, below ``source_directory`` if there is one.
        runtime: ``python``.
        conda_file: a conda environment file; like ``extra_docker_file_steps`` a path below
            ``source_directory`` if there is one. Not with an ``environment``.
        source_directory: a folder that is packaged whole.
        base_image: in place of the default one. Not with an ``environment``.
        environment: the packages and variables.
        description: kept; ``enable_gpu`` and ``cuda_version`` too, and used for nothing.

    Raises:
        WebserviceException: another ``runtime``, or an ``environment`` and what it replaces.
    """

    entry_script: str | None = None
    runtime: str | None = None
    conda_file: str | None = None
    extra_docker_file_steps: str | None = None
    source_directory: str | None = None
    enable_gpu: bool | None = None
    description: str | None = None
    base_image: str | None = None
    base_image_registry: ContainerRegistry | None = None
    cuda_version: str | None = None
    environment: Environment | None = None

    def __post_init__(self) -> None:
        if self.runtime not in (None, _PYTHON):
            raise WebserviceException(
                f"There is no runtime {self.runtime!r} here; the only one is {_PYTHON!r}."
            )
        replaced = ("conda_file", "extra_docker_file_steps", "base_image")
        given = [name for name in replaced if getattr(self, name) is not None]
        if self.environment is not None and given:
            raise WebserviceException(
                f"An InferenceConfig has an environment or {' and '.join(given)}, not both: put "
                "into the Environment what belongs to it."
            )

    @property
    def source_path(self) -> Path | None:
        """The source folder, absolute; None if there is none."""
        return Path(self.source_directory).absolute() if self.source_directory else None

    @property
    def script_path(self) -> Path | None:
        """The entry script's file, absolute; None if there is none."""
        return self._below_source(self.entry_script) if self.entry_script else None

    def packages(self, target: str) -> specification.Environment:
        """What the image for ``target`` has to hold."""
        with as_webservice_exceptions():
            if self.environment is not None:
                return self.environment.packages(target)
            return self._own_packages(target)

    def _own_packages(self, target: str) -> specification.Environment:
        from ...packaging.environment.conda import from_conda

        made = specification.Environment()
        if self.conda_file:
            made = from_conda(self._below_source(self.conda_file))
        registry = self.base_image_registry or ContainerRegistry()
        docker = DockerSection(base_image=self.base_image, base_image_registry=registry)
        made, notes = docker.added_to(made, target), []
        if self.extra_docker_file_steps:
            notes.append(
                f"The Docker steps in {self.extra_docker_file_steps} were left out: add them to "
                "the Dockerfile."
            )
        if self.enable_gpu:
            notes.append("Nothing for a GPU was added: name a base image that has it.")
        return replace(made, notes=(*made.notes, *notes))

    def _below_source(self, path: str) -> Path:
        return (self.source_path or Path.cwd()) / path


def specification_of(
    models: Sequence[azureml_model.Model],
    inference_config: InferenceConfig | None,
    target: str,
    triggers: tuple[str, ...] = ("http",),
) -> Specification:
    """What is to be packaged, with absolute paths.

    Raises:
        WebserviceException: something in ``models`` is no Model, there is no such script or
            folder, or the environment cannot be made here.
    """
    wanted = Specification(target, triggers, tuple(_packaged(each) for each in models))
    if inference_config is None:
        return wanted
    script, source = inference_config.script_path, inference_config.source_path
    if source is not None and not source.is_dir():
        raise WebserviceException(f"The source directory {source} is not there, or no folder.")
    if script is not None and not script.is_file():
        raise WebserviceException(f"The entry script {script} is not there, or no file.")
    packages = inference_config.packages(target)
    return replace(wanted, entry_script=script, source_dir=source, environment=packages)


def check_has_environment(inference_config: InferenceConfig | None) -> None:
    """Raise WebserviceException if it has none, as the old packages did."""
    if inference_config is None or inference_config.environment is None:
        raise WebserviceException(
            "Error, model packaging requires an InferenceConfig containing an Environment object."
        )


def _packaged(model: azureml_model.Model) -> PackagedModel:
    if not isinstance(model, azureml_model.Model):
        raise WebserviceException(
            f"{model!r} is no Model: register the file with Model.register, or take a registered "
            "one with Model(workspace, name)."
        )
    from ...packaging.model_files import from_registry

    with as_webservice_exceptions():
        return from_registry(model._root, model.name, model.version)
