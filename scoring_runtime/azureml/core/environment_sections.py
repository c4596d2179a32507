"""The parts of an environment: what is installed, and the image to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...packaging import specification
from ...packaging.specification import FUNCTIONS
from ..exceptions import as_webservice_exceptions
from .conda_dependencies import CondaDependencies
from .container_registry import ContainerRegistry


@dataclass
class PythonSection:
    """What is installed; nothing if the dependencies are the user's to manage."""

    conda_dependencies: CondaDependencies = field(default_factory=CondaDependencies)
    user_managed_dependencies: bool = False
    interpreter_path: str = "python"
    conda_dependencies_file: str | None = None
    base_conda_environment: str | None = None

    def packages(self, where: str) -> specification.Environment:
        """What an image has to hold; ``where`` is what messages call the environment.

        Raises:
            UserErrorException: the conda file cannot be read.
            WebserviceException: something in the dependencies cannot be used.
        """
        from ...packaging.environments import from_conda_document

        if self.user_managed_dependencies:
            return specification.Environment()
        dependencies = self.conda_dependencies
        if self.conda_dependencies_file is not None:
            dependencies = CondaDependencies(self.conda_dependencies_file)
        with as_webservice_exceptions():
            return from_conda_document(dependencies.as_dict(), where, folder=dependencies.folder)

    def document(self) -> dict[str, Any]:
        """As the old file held it."""
        return {
            "userManagedDependencies": self.user_managed_dependencies,
            "interpreterPath": self.interpreter_path,
            "condaDependenciesFile": self.conda_dependencies_file,
            "condaDependencies": self.conda_dependencies.as_dict(),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> PythonSection:
        """The section that such a document describes."""
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
        if target == FUNCTIONS and "azure-functions" not in image:
            note = f"The base image {image} was not taken: it does not hold the Functions host."
            return replace(packages, notes=(*packages.notes, note))
        return replace(packages, base_image=f"{address}/{image}" if address else image)

    def document(self) -> dict[str, Any]:
        """As the old file held it, without the password."""
        registry = self.base_image_registry
        return {
            "enabled": self.enabled,
            "baseImage": self.base_image,
            "baseDockerfile": self.base_dockerfile,
            "baseImageRegistry": {"address": registry.address, "username": registry.username},
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> DockerSection:
        """The section that such a document describes."""
        registry = document.get("baseImageRegistry") or {}
        return cls(
            bool(document.get("enabled")),
            document.get("baseImage"),
            document.get("baseDockerfile"),
            ContainerRegistry(registry.get("address") or "", registry.get("username") or ""),
        )
