"""What every trigger on Azure Functions does with an invocation."""

from __future__ import annotations

from typing import Any

import azure.functions as func


class TryAgain(Exception):
    """Raised to the host so that it delivers the same input again."""


def name_invocation(context: func.Context) -> None:
    """Tie what this thread logs to the invocation: the worker looks at this attribute."""
    local: Any = context.thread_local_storage
    local.invocation_id = context.invocation_id
