"""``azureml.core.image``: a script and models under a name, as before there were environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...models import model
from .inference_config import InferenceConfig

_TAKEN = ("description", "enable_gpu", "base_image", "base_image_registry", "cuda_version")


class ContainerImage:
    """Models with the configuration of their script, for ``Webservice.deploy_from_image``.

    Nothing is built: ``Model.package`` makes an image of the same models and configuration.
    """

    version, creation_state, image_build_log_uri = 1, "Succeeded", None

    def __init__(
        self, name: str, models: Sequence[model.Model], image_config: InferenceConfig
    ) -> None:
        self.name, self.models, self.inference_config = name, models, image_config

    @staticmethod
    def image_configuration(
        execution_script: str,
        runtime: str = "python",
        conda_file: str | None = None,
        docker_file: str | None = None,
        dependencies: Sequence[str] | None = None,
        **more: Any,
    ) -> InferenceConfig:
        """The inference configuration that says the same.

        With ``dependencies``, files beside the script, the working folder is its source.
        """
        source = "." if dependencies else None
        known = {name: more[name] for name in _TAKEN if name in more}
        return InferenceConfig(
            execution_script, runtime, conda_file, docker_file, source_directory=source, **known
        )

    @classmethod
    def create(
        cls,
        workspace: object,
        name: str,
        models: Sequence[model.Model],
        image_config: InferenceConfig,
    ) -> ContainerImage:
        """Both under a name; ``wait_for_creation`` has nothing to wait for."""
        return cls(name, models, image_config)

    def wait_for_creation(self, show_output: bool = False) -> None: ...


Image = ContainerImage
