"""``azureml.core.model``: models of a workspace, registered, packaged and deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ...models import model
from ...packaging.specification import STANDALONE
from ..exceptions import as_webservice_exceptions, refusing
from .inference_config import InferenceConfig, specification_of
from .model_package import ModelPackage, create_package

if TYPE_CHECKING:
    from .webservice import LocalWebservice

_P = ParamSpec("_P")
_R = TypeVar("_R")

__all__ = ["InferenceConfig", "Model", "ModelPackage"]


def _translated(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """The method with this package's errors as those of the old names."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with as_webservice_exceptions():
            return method(*args, **kwargs)

    return call


class Model(model.Model):
    """One version of a registered model; see :class:`scoring_runtime.models.model.Model`.

    What that raises as ModelNotFound is a ModelNotFoundException here, all else a
    WebserviceException.
    """

    __init__ = _translated(model.Model.__init__)
    get_model_path = staticmethod(_translated(model.Model.get_model_path))
    download = _translated(model.Model.download)
    delete = _translated(model.Model.delete)

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> model.Model:
        """Copy a file or folder into the workspace as the next version of a model."""
        with as_webservice_exceptions():
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
    def deploy(*args: Any, **kwargs: Any) -> LocalWebservice:
        """Start a service on this machine; see :func:`.webservice.deploy`."""
        from .webservice import deploy

        return deploy(*args, **kwargs)

    profile = refusing(
        "A model is not profiled here: package it with generate_dockerfile=True, run the "
        "container with the limits you have in mind and send it requests."
    )
