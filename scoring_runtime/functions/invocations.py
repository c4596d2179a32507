"""What every trigger on Azure Functions does with an invocation."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import azure.functions as func

from ..scoring.runtime import Runtime


class TryAgain(Exception):
    """Raised to the host so that it delivers the same input again."""


def name_invocation(context: func.Context) -> None:
    """Tie what this thread logs to the invocation: the worker looks at this attribute."""
    local: Any = context.thread_local_storage
    local.invocation_id = context.invocation_id


def in_trace(invoke: Callable[..., Any], runtime: Runtime) -> Callable[..., Any]:
    """A function whose spans, if there are any, are below that of the host."""
    if runtime.spans is None:
        return invoke
    from ..telemetry.spans import host_parent

    @wraps(invoke)  # the worker reads the signature
    async def traced(**bound: Any) -> Any:
        said = bound["context"].trace_context
        given = (said.trace_parent or "", said.trace_state or "")
        host_parent.set((given[0].encode("latin-1"), given[1].encode("latin-1")))
        return await invoke(**bound)

    return traced
