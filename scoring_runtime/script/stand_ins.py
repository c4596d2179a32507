"""What entry scripts import from Azure ML packages that are not installed here.

Importing such a name always works, so that the rest of the script can. What wrote telemetry takes
what it is given. What collected data is in :mod:`.collectors`. What spoke to an Azure ML workspace
says, when it is used, what it was and what to do instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from .collectors import BasicCorrelationContext, Collector, ModelDataCollector


class NameGone(ImportError):
    """A name of the Azure ML SDK was used; the message says what it was and what to do."""


# --- what takes everything ------------------------------------------------------------------------


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Telemetry has no place to go."""


def _null_handler(*args: Any, **kwargs: Any) -> logging.Handler:
    return logging.NullHandler()


def _log_traceback(exception: BaseException, logger: logging.Logger, *args: Any) -> None:
    logger.error("%s", exception, exc_info=exception)


def _get_logger(name: str = "azureml.automl", *args: Any, **kwargs: Any) -> logging.Logger:
    return logging.getLogger(name)


_MONITORING = {
    "Collector": Collector,
    "BasicCorrelationContext": BasicCorrelationContext,
    "ModelDataCollector": ModelDataCollector,
}
_LOG_SERVER = {
    name: _nothing
    for name in ("enable_telemetry", "set_verbosity", "set_log_file", "update_custom_dimensions")
}
_LOGGING_UTILITIES = {"log_traceback": _log_traceback, "get_logger": _get_logger}
PROVIDED: dict[str, dict[str, Any]] = {
    "azureml.monitoring": _MONITORING,
    "azureml.monitoring.modeldatacollector": _MONITORING,
    "azureml.ai.monitoring": _MONITORING,
    "azureml.ai.monitoring.collector": _MONITORING,
    "azureml.ai.monitoring.context": _MONITORING,
    "azure.ai.mlmonitoring": _MONITORING,
    "mlmonitoring": _MONITORING,
    "azureml.core": {"VERSION": "0", "__version__": "0"},
    "azureml.telemetry": {
        "INSTRUMENTATION_KEY": "",
        "set_diagnostics_collection": _nothing,
        "get_telemetry_log_handler": _null_handler,
    },
    "azureml.automl.core": {},
    "azureml.automl.core.shared": {
        "log_server": SimpleNamespace(**_LOG_SERVER),
        "logging_utilities": SimpleNamespace(**_LOGGING_UTILITIES),
    },
    "azureml.automl.core.shared.log_server": _LOG_SERVER,
    "azureml.automl.core.shared.logging_utilities": _LOGGING_UTILITIES,
    "azureml.train.automl": {},
}
"""Module → its names. AutoML's own classes are in no public package: a model that was pickled with
them needs azureml-automl-runtime."""


# --- what spoke to a workspace --------------------------------------------------------------------

_FILES = (
    "package the file beside the script, or read it with its own SDK (azure-storage-blob and "
    "the like)"
)
_INSTEAD = {
    "Run": "the context of an Azure ML run, and a service has none: read files beside the script, "
    "AZUREML_MODEL_DIR and environment variables",
    "Workspace": "a connection to an Azure ML workspace: models are below AZUREML_MODEL_DIR "
    "(scoring_runtime.model_path), settings in environment variables",
    "Dataset": f"data of an Azure ML workspace: {_FILES}",
    "Datastore": f"storage of an Azure ML workspace: {_FILES}",
    "Keyvault": "the secrets of an Azure ML workspace: set them as environment variables",
}
GONE = frozenset(
    f"azureml.core.{name}"
    for name in (
        *("authentication", "compute", "compute_target", "conda_dependencies", "dataset"),
        *("datastore", "environment", "experiment", "image", "keyvault", "run", "runconfig"),
        *("script_run_config", "webservice", "workspace"),
    )
) | {"azureml.api.schema.dataTypes", "azureml.api.schema.sampleDefinition"}
"""Modules of the SDK whose every name can be imported and none used."""
MODULES = GONE | PROVIDED.keys()


class _Gone(type):
    """The class of a name that is gone: to be imported, annotated and compared with, no more."""

    _refusal: Callable[[], Exception]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise cls._refusal()

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise cls._refusal()


@cache
def gone(module: str, name: str, kind: type[Exception], says: str) -> type:
    """A class of this name that can be imported; using it raises ``kind`` with this text."""
    return _Gone(name, (), {"__module__": module, "_refusal": partial(kind, says)})


def names_of(module: str) -> Callable[[str], Any]:
    """``__getattr__`` of a module that is made up (PEP 562).

    Raises:
        AttributeError: by the function, for a name that the module would not have.
    """
    provided = PROVIDED.get(module, {})

    def find(name: str) -> Any:
        if name in provided:
            return provided[name]
        if name.startswith("_") or (module not in GONE and not _is_class_of_sdk(module, name)):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        belongs = "a part of the Azure ML SDK: install azureml-core if the service needs it"
        says = (
            f"{module}.{name} was {_INSTEAD.get(name, belongs)}, or take the line out. It can be "
            "imported here, not used."
        )
        return gone(module, name, NameGone, says)

    return find


def _is_class_of_sdk(module: str, name: str) -> bool:
    return module == "azureml.core" and name[0].isupper()
