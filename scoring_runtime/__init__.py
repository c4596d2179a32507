"""Host a trained model behind HTTP requests, dropped blobs and queue messages.

For entry scripts: ``rawhttp``, ``batched``, ``AMLRequest``, ``AMLResponse``, ``model_path``,
``load_model``, ``InputError``, which ``run()`` raises to refuse an input (the client gets its text
with status 400), and ``redis_client``, the ``redis.Redis`` of the settings (None without one). To
register models: ``Model``. For programs that embed the runtime: ``Settings``, ``build``,
``ScoringRequest``, ``ScoringResponse``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .messages import ScoringRequest, ScoringResponse
    from .models.folder import model_path
    from .models.loading import load_model
    from .models.model import Model
    from .scoring.runtime import build
    from .script.aml_http import AMLRequest, AMLResponse, rawhttp
    from .script.batched import batched
    from .settings.settings import Settings

    redis_client: Any

__all__ = [
    "AMLRequest",
    "AMLResponse",
    "InputError",
    "Model",
    "ScoringRequest",
    "ScoringResponse",
    "Settings",
    "batched",
    "build",
    "load_model",
    "model_path",
    "rawhttp",
    "redis_client",
]

_HOMES = {
    "AMLRequest": "script.aml_http",
    "AMLResponse": "script.aml_http",
    "InputError": "errors",
    "Model": "models.model",
    "ScoringRequest": "messages",
    "ScoringResponse": "messages",
    "Settings": "settings.settings",
    "batched": "script.batched",
    "build": "scoring.runtime",
    "load_model": "models.loading",
    "model_path": "models.folder",
    "rawhttp": "script.aml_http",
}


def __getattr__(name: str) -> Any:
    if name == "redis_client":
        return import_module(".connections.redis", __name__).client_for_scripts()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
