"""Names of ``azureml.core`` that mean nothing without its cloud: to be imported, not to be used.

The rest of an import line works, and so does what only names or catches them; calling one, or
asking it for anything, raises an exception whose text says what takes its place.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from ...script.stand_ins import gone
from ..exceptions import ComputeTargetException, UserErrorException

_SERVED = (
    "a model is served on this machine (LocalWebservice.deploy_configuration), or packaged "
    "(Model.package, azureml.contrib.functions.package) and the image deployed with az"
)
_TRAINED = (
    "run the training program itself, and log with mlflow to the address that "
    "Workspace.get_mlflow_tracking_uri() gives"
)
INSTEAD = {
    "ComputeTarget": f"There are no clusters here: {_SERVED}. The name of a Kubernetes cluster is "
    "AksCompute(workspace, name).",
    **dict.fromkeys(("AmlCompute", "ComputeInstance"), f"There are no clusters here: {_TRAINED}."),
    **dict.fromkeys(
        ("Experiment", "Run", "ScriptRunConfig", "RunConfiguration"),
        f"Nothing is trained here: {_TRAINED}.",
    ),
    "Dataset": "There are no datasets here: read the file, with pandas.read_csv for one; "
    "Workspace.get_default_datastore() has those that were uploaded.",
    "Keyvault": "There is no key vault here: set secrets as environment variables.",
}
"""Name → what takes its place."""

# Module of azureml.core → the names in it; those in a list are another module's.
MODULES: dict[str, dict[str, str]] = {
    "experiment": {},
    "compute": {"AksCompute": ".aks_compute"},
    "compute_target": {"ComputeTargetException": "..exceptions"},
    "dataset": {},
    "run": {},
    "runconfig": {
        "CondaDependencies": ".conda_dependencies",
        "DEFAULT_CPU_IMAGE": ".environment",
        "DEFAULT_GPU_IMAGE": ".environment",
    },
    "script_run_config": {},
    "keyvault": {},
}


def find(name: str) -> Any:
    """The class that stands for the name.

    Raises:
        AttributeError: it is no such name.
    """
    if name not in INSTEAD:
        raise AttributeError(f"module 'scoring_runtime.azureml.core' has no attribute {name!r}")
    kind = ComputeTargetException if "Compute" in name else UserErrorException
    return gone("scoring_runtime.azureml.core", name, kind, INSTEAD[name])


def module(name: str) -> ModuleType:
    """``azureml.core.<name>``, made up when it is first asked for."""
    package = __name__.rpartition(".")[0]
    made = ModuleType(f"{package}.{name}")
    homes = MODULES[name]

    def attribute(wanted: str) -> Any:
        if wanted in homes:
            return getattr(import_module(homes[wanted], package), wanted)
        return find(wanted)

    made.__getattr__ = attribute  # type: ignore[method-assign]
    return sys.modules.setdefault(made.__name__, made)
