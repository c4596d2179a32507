"""The names of the old ``azureml`` packages, over this package: only the import lines change.

``from azureml.core import Workspace`` becomes ``from scoring_runtime.azureml.core import
Workspace``, and so with every name below; ``import azureml.core`` becomes ``from scoring_runtime
import azureml``. A workspace is a folder here; what only a cloud service can do is refused with a
sentence that says what to do instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("contrib", "core", "exceptions"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)
