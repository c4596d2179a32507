"""The Azure Functions app: settings → runtime → functions."""

import os
from pathlib import Path

from scoring_runtime.functions.app import create_app, for_libraries

os.environ.update(for_libraries(os.environ))
app = create_app(os.environ, Path(__file__).parent)
