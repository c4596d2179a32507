"""``azureml.core.model``: models of a workspace, registered, packaged and deployed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...models import model
from ...packaging.specification import STANDALONE
from ..exceptions import as_webservice_exceptions
from .inference_config import InferenceConfig, specification_of
from .model_package import ModelPackage, create_package

if TYPE_CHECKING:
    from .profile import ModelProfile
    from .webservice import Webservice

_translated = as_webservice_exceptions()

__all__ = ["InferenceConfig", "Model", "ModelPackage"]


class Model(model.Model):
    """One version of a registered model; see :class:`scoring_runtime.models.model.Model`.

    What that raises as ModelNotFound is a ModelNotFoundException here, all else a
    WebserviceException.
    """

    __init__ = _translated(model.Model.__init__)
    get_model_path = staticmethod(_translated(model.Model.get_model_path))
    download = _translated(model.Model.download)
    delete = _translated(model.Model.delete)
    update = _translated(model.Model.update)
    add_properties = _translated(model.Model.add_properties)

    @classmethod
    @_translated
    def register(cls, *args: Any, **kwargs: Any) -> model.Model:
        """Copy a file or folder into the workspace as the next version of a model."""
        return super().register(*args, **kwargs)

    @staticmethod
    def package(
        workspace: object,
        models: Sequence[model.Model],
        inference_config: InferenceConfig | None = None,
        generate_dockerfile: bool = False,
        image_name: str | None = None,
        image_label: str | None = None,
    ) -> ModelPackage:
        """Package models for the standalone host, as an image or as a folder to build it from.

        Args:
            workspace: where the folder is made.
            models: those of the package; it may be empty.
            inference_config: script and environment; None for models that need none.
            generate_dockerfile: only the folder.
            image_name: the image's name, ``package`` without one.
            image_label: its tag, the time without one.

        Raises:
            WebserviceException: as :func:`create_package`; what goes wrong afterwards is raised
                by the package's ``wait_for_creation``.
        """
        specification = specification_of(models, inference_config, STANDALONE)
        return create_package(
            workspace,
            specification,
            inference_config.environment if inference_config else None,
            generate_dockerfile=generate_dockerfile,
            image_name=image_name,
            image_label=image_label,
        )

    @staticmethod
    def deploy(*args: Any, **kwargs: Any) -> Webservice:
        """Start a service on this machine, or package one for the cloud: as
        :func:`.webservice.deploy`."""
        from .webservice import deploy

        return deploy(*args, **kwargs)

    @staticmethod
    def profile(*args: Any, **kwargs: Any) -> ModelProfile:
        """Serve models on this machine, ask them each input, and recommend cpu and memory: as
        :func:`.profile.profile`."""
        from .profile import profile

        return profile(*args, **kwargs)

    @staticmethod
    def print_configuration(
        models: Sequence[model.Model],
        inference_config: InferenceConfig | None = None,
        deployment_config: object = None,
        deployment_target: object = None,
    ) -> None:
        """Print what would be deployed; keys are left out."""
        print(f"Models: {', '.join(each.id for each in models) or 'none'}")
        if inference_config is not None:
            said = {name: value for name, value in vars(inference_config).items() if value}
            print(f"Inference configuration: {said}")
        print(f"Deployment: {deployment_config or 'on this machine'}")
        if deployment_target is not None:
            print(f"Target: {deployment_target!r}")
