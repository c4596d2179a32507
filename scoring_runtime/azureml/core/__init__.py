"""``azureml.core``: each name is imported from its module when it is first asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import gone

if TYPE_CHECKING:
    from .container_registry import ContainerRegistry
    from .datastore import Datastore
    from .environment import Environment
    from .image import ContainerImage, Image
    from .model import Model
    from .webservice import Webservice
    from .workspace import Workspace

    VERSION: str
    __version__: str

__all__ = [
    "VERSION", "ContainerImage", "ContainerRegistry", "Datastore", "Environment", "Image", "Model",
    "Webservice", "Workspace",
]  # fmt: skip

_HOMES = {
    "ContainerImage": "image",
    "ContainerRegistry": "container_registry",
    "Datastore": "datastore",
    "Environment": "environment",
    "Image": "image",
    "Model": "model",
    "Webservice": "webservice",
    "Workspace": "workspace",
}
_MODULES = {*_HOMES.values(), "authentication", "conda_dependencies", "resource_configuration"}
for _name in gone.MODULES:  # so that ``from …core.compute import`` finds them
    gone.module(_name)


def __getattr__(name: str) -> Any:
    if name in ("VERSION", "__version__"):
        return import_module("...release", __name__).VERSION
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in gone.MODULES:
        return sys.modules[f"{__name__}.{name}"]
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return gone.find(name)
