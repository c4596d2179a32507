"""A script as its scoring thread calls it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from scoring_runtime import ScoringRequest, ScoringResponse, Settings
from scoring_runtime.scoring.runtime import load
from scoring_runtime.script.call import Invocation


class Loaded:
    """A script loaded as a host does."""

    def __init__(self, path: Path, **environ: str) -> None:
        settings = Settings.from_environ(
            {"AZUREML_ENTRY_SCRIPT": str(path), "AML_APP_ROOT": str(path.parent), **environ}
        )
        with asyncio.Runner() as runner:
            self.invocation: Invocation = load(settings, runner)
        self.module: Any = sys.modules["entry_module"]

    def ask(self, body: bytes = b"", **request: Any) -> ScoringResponse:
        """The answer to a request."""
        given = ScoringRequest(body, **request)
        if self.invocation.is_async:
            return asyncio.run(self.invocation.awaited(given))
        return self.invocation(given)
