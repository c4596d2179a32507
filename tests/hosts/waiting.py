"""Waiting for what a host, a broker or a storage does by and by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[..., Any], *given: object, seconds: float = 120) -> Any:
    """What the condition gives once it gives something; the test fails when that takes longer."""
    end = time.monotonic() + seconds
    while not (found := condition(*given)):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found
