"""What the Functions host reads of an app: host.json, function_app.py, local.settings.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta

from ..settings.settings import Settings
from .specification import RequiredSetting

_RENEWAL_MARGIN = timedelta(minutes=5)
_NO_DEADLINE = timedelta(hours=24)

FUNCTION_APP = '''"""The Azure Functions app: settings → runtime → functions."""

import os
from pathlib import Path

from scoring_runtime.functions.app import create_app

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
app = create_app(os.environ, Path(__file__).parent)
'''


def host_json(settings: Settings) -> str:
    """host.json: the lock of a message is renewed as long as ``run()`` may take.

    Source: https://learn.microsoft.com/azure/azure-functions/functions-host-json
    """
    document = {
        "version": "2.0",
        "logging": {
            "logLevel": {"default": "Information", "Host.Aggregator": "Warning"},
            "applicationInsights": {
                "samplingSettings": {"isEnabled": True, "excludedTypes": "Request;Exception"}
            },
        },
        "extensionBundle": {
            "id": "Microsoft.Azure.Functions.ExtensionBundle",
            "version": "[4.0.0, 5.0.0)",
        },
        "extensions": {
            "http": {"routePrefix": ""},
            "blobs": {"maxDegreeOfParallelism": 8, "poisonBlobThreshold": 5},
            "serviceBus": {
                "autoCompleteMessages": True,
                "maxAutoLockRenewalDuration": _renewal(settings),
                "maxConcurrentCalls": 16,
                "prefetchCount": 0,
            },
        },
    }
    return json.dumps(document, indent=2) + "\n"


def local_settings(values: Mapping[str, str], required: Iterable[RequiredSetting]) -> str:
    """local.settings.json for ``func start``: Azurite for storage, and no secret."""
    known = {"FUNCTIONS_WORKER_RUNTIME": "python"}
    storage = {
        each.name: "UseDevelopmentStorage=true" for each in required if "storage" in each.about
    }
    document = {"IsEncrypted": False, "Values": {**known, **storage, **values}}
    return json.dumps(document, indent=2) + "\n"


def app_settings(values: Mapping[str, str], required: Iterable[RequiredSetting]) -> str:
    """app-settings.json: what is in the image, and what has to be set where it runs."""
    document = {
        "in_image": dict(values),
        "required": {each.name: each.about for each in required},
    }
    return json.dumps(document, indent=2) + "\n"


def _renewal(settings: Settings) -> str:
    deadline = timedelta(milliseconds=settings.scoring_timeout_ms) or _NO_DEADLINE
    seconds = int((deadline + _RENEWAL_MARGIN).total_seconds())
    days, rest = divmod(seconds, 86400)
    time = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}.{time}" if days else time
