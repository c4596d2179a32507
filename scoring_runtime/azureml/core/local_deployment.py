"""What a local deployment is made of: its configuration, and what is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...models import model
from ...packaging.specification import STANDALONE, Specification
from ..exceptions import WebserviceException
from .inference_config import InferenceConfig, specification_of

Models = Sequence[model.Model]

ONLY_LOCAL = (
    "package the models (Model.package, or scoring_runtime.azureml.contrib.functions.package) and "
    "deploy the image with az; on this machine: LocalWebservice.deploy_configuration(port=8890)."
)


class WebserviceDeploymentConfiguration:
    """How a service is deployed."""


class LocalWebserviceDeploymentConfiguration(WebserviceDeploymentConfiguration):
    """On this machine, on ``port``; None is a free one.

    Raises:
        WebserviceException: the port is not a whole number from 1 to 65535.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.validate_configuration()

    def validate_configuration(self) -> None:
        """Raise WebserviceException unless the port can be one."""
        port: object = self.port
        is_number = isinstance(port, int) and not isinstance(port, bool)
        if port is not None and not (is_number and 1 <= int(str(port)) <= 65535):
            raise WebserviceException(
                f"Invalid configuration, port must be an integer from 1 to 65535, or None for a "
                f"free one; it is {port!r}."
            )


def specification(
    models: Models,
    inference_config: InferenceConfig | None,
    deployment_config: object,
    deployment_target: object,
) -> Specification:
    """What is served.

    Raises:
        WebserviceException: something was passed that is for something else, there is nothing to
            serve, or model, script or environment cannot be packaged.
    """
    check(None, inference_config, deployment_config)
    if deployment_target is not None:
        raise WebserviceException(
            f"{deployment_target!r} cannot be deployed to: deployment_target must be None. "
            f"Elsewhere: {ONLY_LOCAL}"
        )
    if inference_config is None and not models:
        raise WebserviceException(
            "You must provide an InferenceConfig when deploying zero models: there is nothing to "
            "serve."
        )
    return specification_of(models, inference_config, STANDALONE)


def changed(
    before: Specification, models: Models | None, inference_config: InferenceConfig | None
) -> Specification:
    """What was served ``before``, with other models, another script, or both."""
    wanted = specification_of(models or (), inference_config, STANDALONE)
    if models is None:
        return replace(wanted, models=before.models)
    return wanted if inference_config is not None else replace(before, models=wanted.models)


def check(image_config: object, inference_config: object, deployment_config: object) -> None:
    """Raise WebserviceException unless each is None or of the right type."""
    if image_config is not None:
        raise WebserviceException(
            "Error, image configurations are not supported: provide an inference configuration."
        )
    kinds = {
        "inference configuration": (inference_config, InferenceConfig),
        "deployment configuration": (deployment_config, LocalWebserviceDeploymentConfiguration),
    }
    for what, (value, kind) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise WebserviceException(
                f"Error, provided {what} must be of type {kind.__name__} in order to deploy a "
                f"local service; it is a {type(value).__name__}."
            )
