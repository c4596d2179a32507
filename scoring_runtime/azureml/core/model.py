"""``azureml.core.model``: models of a workspace, registered, packaged and deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ...models import model
from ...packaging.specification import STANDALONE
from ..exceptions import WebserviceException, as_webservice_exceptions
from .inference_config import InferenceConfig, specification_of
from .model_package import ModelPackage, create_package

if TYPE_CHECKING:
    from .webservice import Webservice

__all__ = ["InferenceConfig", "Model", "ModelPackage"]


class Model(model.Model):
    """One version of a registered model.

    Raises:
        ModelNotFoundException: no such model or version; the message lists what there is.
        WebserviceException: its metadata cannot be read.
    """

    def __init__(
        self,
        workspace: object,
        name: str | None = None,
        version: int | str | None = None,
        *,
        id: str | None = None,
    ) -> None:
        with as_webservice_exceptions():
            super().__init__(workspace, name, version, id=id)

    @classmethod
    def register(
        cls,
        workspace: object,
        model_path: str | Path,
        model_name: str,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        datasets: object = None,
        sample_input_dataset: object = None,
        sample_output_dataset: object = None,
        resource_configuration: object = None,
    ) -> model.Model:
        """Copy a file or folder into the workspace as the next version of ``model_name``.

        What a folder has no use for (datasets, resource configuration) is accepted and not kept.

        Raises:
            WebserviceException: the name is not allowed, or the path cannot be copied.
        """
        with as_webservice_exceptions():
            return super().register(
                workspace,
                model_path,
                model_name,
                tags,
                properties,
                description,
                model_framework,
                model_framework_version,
                sample_input_dataset=sample_input_dataset,
            )

    @staticmethod
    def get_model_path(
        model_name: str, version: int | None = None, _workspace: object = None
    ) -> str:
        """The path of a model's file or folder in the workspace, or where the script runs.

        Raises:
            ModelNotFoundException: no such model or version; the message lists what there is.
        """
        with as_webservice_exceptions():
            return model.Model.get_model_path(model_name, version, _workspace)

    def download(self, target_dir: str | Path = ".", exist_ok: bool = False) -> str:
        """Copy the model's file or folder into ``target_dir``; the path of the copy.

        Raises:
            WebserviceException: it is there already, its files are not those that were registered,
                or the copy cannot be written.
        """
        with as_webservice_exceptions():
            return super().download(target_dir, exist_ok)

    def delete(self) -> None:
        """Delete this version from the workspace.

        Raises:
            ModelNotFoundException: it is gone already.
            WebserviceException: the workspace cannot be written.
        """
        with as_webservice_exceptions():
            super().delete()

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
    def deploy(
        workspace: object,
        name: str,
        models: Sequence[model.Model],
        inference_config: InferenceConfig | None = None,
        deployment_config: Any = None,
        deployment_target: object = None,
        overwrite: bool = False,
        show_output: bool = False,
    ) -> Webservice:
        """Start a service on this machine; see :func:`.webservice.deploy`."""
        from .webservice import deploy

        return deploy(
            workspace,
            name,
            models,
            inference_config=inference_config,
            deployment_config=deployment_config,
            deployment_target=deployment_target,
            overwrite=overwrite,
            show_output=show_output,
        )

    @staticmethod
    def profile(*args: Any, **kwargs: Any) -> NoReturn:
        """Not here.

        Raises:
            WebserviceException: always; it says what to do instead.
        """
        raise WebserviceException(
            "A model is not profiled here: package it with generate_dockerfile=True, run the "
            "container with the limits you have in mind and send it requests."
        )
