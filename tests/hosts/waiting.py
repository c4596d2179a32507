"""Waiting for what a host, a broker or a storage does by and by, and for async tests."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any


def until(condition: Callable[..., Any], *given: object, seconds: float = 120) -> Any:
    """What the condition gives once it gives something; the test fails when that takes longer."""
    end = time.monotonic() + seconds
    while not (found := condition(*given)):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test, which may take 200 seconds."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        async def within() -> None:
            await asyncio.wait_for(test(*args, **kwargs), 200)

        asyncio.run(within())

    return run
