"""When a worker process has done its part: after so many requests, or with so much memory."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from ..messages import ScoringRequest
from ..settings.settings import Settings
from ..telemetry.history import resident_bytes
from ..telemetry.logs import log

_MB = 1024 * 1024


class Wear:
    """Counts what a worker scores, as ``began`` of its runtime."""

    def __init__(self, settings: Settings, began: Callable[[ScoringRequest], object]) -> None:
        most = settings.max_requests
        self._most_requests = most + random.randint(0, most // 10) if most else 0
        self._most_mb = settings.max_rss_mb
        self._began = began
        self._begun = 0

    def began(self, request: ScoringRequest) -> None:
        """In a scoring thread, at each request."""
        self._begun += 1
        self._began(request)

    def loaded(self) -> None:
        """The model is there: a bound that it does not keep by itself is none."""
        if 0 < self._most_mb <= (held := _held_mb()):
            log.warning(
                "SCORING_MAX_RSS_MB is %s, but this worker holds %.0f MB before its first request: "
                "it is not replaced for its memory.",
                *(self._most_mb, held),
            )
            self._most_mb = 0

    @property
    def why(self) -> str:
        """Why the worker is to be replaced; empty while it is not."""
        if 0 < self._most_requests <= self._begun:
            return f"had scored {self._begun} requests (SCORING_MAX_REQUESTS)."
        if 0 < self._most_mb < (held := _held_mb()):
            return f"held {held:.0f} MB (SCORING_MAX_RSS_MB)."
        return ""


def _held_mb() -> float:
    return resident_bytes(os.getpid()) / _MB
