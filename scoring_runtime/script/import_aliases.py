"""Import names that existing entry scripts use, without the packages they came from.

The finder stands last on ``sys.meta_path``: whatever is really installed is found before it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import stand_ins

_AML_HTTP = "scoring_runtime.script.aml_http"
_ALIASES = {
    "azureml.contrib.services.aml_request": _AML_HTTP,
    "azureml.contrib.services.aml_response": _AML_HTTP,
    "azureml_inference_server_http.api.aml_request": _AML_HTTP,
    "azureml_inference_server_http.api.aml_response": _AML_HTTP,
    "azureml.core.model": "scoring_runtime.models.model",
    "azureml.exceptions": "scoring_runtime.azureml.exceptions",
    "azureml_user.parallel_run": "scoring_runtime.script.parallel_run",
    "sklearn.externals.joblib": "joblib",
}
_PACKAGES = frozenset(
    name.rsplit(".", depth)[0]
    for name in {*_ALIASES, *stand_ins.MODULES}
    for depth in range(1, name.count(".") + 1)
    if not name.startswith("sklearn.")
)
_RAW_FLAG_MODULES = tuple(name for name in _ALIASES if name.endswith("aml_request"))


def install() -> None:
    """Make the old names importable; calling it again changes nothing."""
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.append(_AliasFinder())


def answers(module: str) -> bool:
    """Whether ``import module`` works here though its package is not installed."""
    parts = module.split(".")
    prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return module in _PACKAGES or not prefixes.isdisjoint({*_ALIASES, *stand_ins.MODULES})


def raw_flag_of_installed_packages() -> bool:
    """Whether ``@rawhttp`` of a really installed azureml package has been used.

    Those set a flag of their module instead of marking the function.
    """
    modules = (sys.modules.get(name) for name in _RAW_FLAG_MODULES)
    return any(getattr(module, "_rawHttpRequested", False) for module in modules)


class _AliasFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        real = _ALIASES.get(fullname)
        if real is not None:
            return ModuleSpec(fullname, _AliasLoader(real))
        if fullname in _PACKAGES or fullname in stand_ins.MODULES:
            return ModuleSpec(fullname, _MadeUpLoader(), is_package=True)
        return None


class _AliasLoader(Loader):
    def __init__(self, real: str) -> None:
        self.real = real

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what stands in sys.modules afterwards, so the alias is the
        # real module itself and its own __spec__ stays as it is.
        sys.modules[module.__name__] = importlib.import_module(self.real)
        # Its submodules too: they would be found below its __path__ and loaded a second time.
        # A copy in one step: other threads import meanwhile.
        for name, each in sys.modules.copy().items():
            if name.startswith(f"{self.real}."):
                sys.modules[module.__name__ + name[len(self.real) :]] = each


class _MadeUpLoader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        """The package holds the names below it, and those that stand in for what is gone."""
        module.__getattr__ = stand_ins.names_of(module.__name__)  # type: ignore[method-assign]
        if module.__name__ == "azureml.core":
            module.Model = importlib.import_module("scoring_runtime.models.model").Model  # type: ignore[attr-defined]
