"""The routes of those that look after a service: health, and on a port of their own metrics too."""

from __future__ import annotations

from .messages import Handle, HttpRequest, Reply

PROBES = frozenset({"/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
METRICS = "/metrics"


def probes_only(handle: Handle, unknown: Handle) -> Handle:
    """``handle`` for health and ``/metrics``, without the page; ``unknown`` for all else."""

    async def handled(request: HttpRequest) -> Reply:
        if request.path == "/":
            others = [line for line in request.headers if line[0] != b"accept"]
            return await handle(request._replace(headers=others))
        known = request.path in PROBES or request.path == METRICS
        return await (handle if known else unknown)(request)

    return handled
