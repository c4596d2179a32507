"""The Azure Functions app: settings → runtime → functions."""

import os
from pathlib import Path

from scoring_runtime.functions.app import create_app
from scoring_runtime.runtime import build
from scoring_runtime.settings import Settings

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
settings = Settings.from_environ(os.environ, defaults={"AML_APP_ROOT": str(Path(__file__).parent)})
app = create_app(build(settings))
