"""A cluster by its name, to deploy to."""

from __future__ import annotations

from ..exceptions import ComputeTargetException, refusing

_MAKE = (
    "Clusters are not made here: az aks create --name NAME --resource-group GROUP, and "
    "AksCompute(workspace, NAME) is its name."
)


class AksCompute:
    """The name of a Kubernetes cluster; ``deployment_target`` of ``Model.deploy``.

    Nobody asks whether it is there: the commands that deploy name it.
    """

    type = "AKS"

    def __init__(self, workspace: object, name: str) -> None:
        self.workspace, self.name = workspace, name

    def __repr__(self) -> str:
        return f"AksCompute(name={self.name!r})"

    provisioning_configuration = refusing(_MAKE, ComputeTargetException)
    attach_configuration = refusing(_MAKE, ComputeTargetException)
