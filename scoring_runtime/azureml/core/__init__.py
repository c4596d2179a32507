"""``azureml.core``: each name is imported from its module when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .container_registry import ContainerRegistry
    from .environment import Environment
    from .model import Model
    from .webservice import Webservice
    from .workspace import Workspace

    VERSION: str
    __version__: str

__all__ = ["VERSION", "ContainerRegistry", "Environment", "Model", "Webservice", "Workspace"]

_HOMES = {
    "ContainerRegistry": "container_registry",
    "Environment": "environment",
    "Model": "model",
    "Webservice": "webservice",
    "Workspace": "workspace",
}
_MODULES = {*_HOMES.values(), "authentication", "conda_dependencies", "resource_configuration"}


def __getattr__(name: str) -> Any:
    if name in ("VERSION", "__version__"):
        return import_module("...release", __name__).VERSION
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
