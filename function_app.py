"""The Azure Functions app: settings → runtime → functions."""

import os
from pathlib import Path

from scoring_runtime.functions.app import create_app

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
app = create_app(os.environ, Path(__file__).parent)
