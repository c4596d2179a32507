"""``mlflow.azureml``, as mlflow 1 had it: an MLflow model as a service of the old kinds."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..azureml.core.model import Model
from ..azureml.core.webservice import Webservice
from ..azureml.exceptions import WebserviceException
from .sources import model_of

if TYPE_CHECKING:
    from ..models import model


def deploy(
    model_uri: str,
    workspace: object,
    deployment_config: Any = None,
    service_name: str | None = None,
    model_name: str | None = None,
    tags: dict[str, str] | None = None,
    mlflow_home: str | None = None,
    synchronous: bool = True,
) -> tuple[Webservice, model.Model]:
    """Register an MLflow model and deploy it as ``Model.deploy`` does; the service and the model.

    Args:
        model_uri: any URI of mlflow.
        workspace: a Workspace, or its folder.
        deployment_config: of ``deploy_configuration`` of a kind of service; None is a local one.
        service_name: made up without one, as is ``model_name``.
        model_name: under which it is registered.
        tags: of the registered model.
        mlflow_home: None: the image has this runtime, not mlflow's server.
        synchronous: whether to wait for the service.

    Raises:
        MlflowException: there is no such model.
        WebserviceException: ``mlflow_home`` is given, or as ``Model.deploy``.
    """
    if mlflow_home is not None:
        raise WebserviceException(
            "mlflow_home named a source of mlflow for the image, which has this runtime in its "
            "place: leave it out; the model's own requirements say which mlflow it needs."
        )
    made_up = f"mlflow-{uuid4().hex[:8]}"
    with TemporaryDirectory() as folder:
        found = model_of(Path(folder), "model", model_uri, None)
        registered = Model.register(workspace, str(found.path), model_name or made_up, tags=tags)
    service = Model.deploy(
        workspace, service_name or made_up, [registered], None, deployment_config
    )
    if synchronous:
        service.wait_for_deployment(show_output=True)
    return service, registered
