"""The cache put together, when the settings ask for one: results, and inputs by key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ..connections.redis import MEMORY
from ..errors import ConfigurationError, UndecodableInput
from ..messages import Score, ScoringRequest, ScoringResponse
from ..scoring.runtime import Runtime
from ..scoring.spans import with_cache_spans, with_run_spans
from ..settings.settings import Settings
from .inputs import HEADER, StoredInputs
from .memory import MemoryStore, Store
from .redis import RedisStore
from .results import Cache


class Caching(NamedTuple):
    """What triggers score with; ``inputs`` only with a cache."""

    score: Score
    inputs: StoredInputs | None
    close: Callable[[], Awaitable[None]]


def caching(runtime: Runtime, processes: str = "") -> Caching:
    """The runtime's ``score``, with the cache of its settings around it; as :func:`store_of`."""
    settings, spans = runtime.settings, runtime.spans
    score = runtime.score if spans is None else with_run_spans(runtime)
    if not settings.cached:
        return Caching(_without_inputs(score), None, _nothing)
    store = store_of(settings, processes)
    cache = Cache(runtime, store, score)
    runtime.metrics.parts.add("cache")
    inputs = StoredInputs(store, cache, settings)
    score = inputs.score if spans is None else with_cache_spans(inputs.score)
    return Caching(score, inputs, cache.close)


def store_of(settings: Settings, processes: str = "") -> Store:
    """The store that the settings name; ``processes`` is the variable with their number.

    Raises:
        ConfigurationError: the cache's address is none, its package is not installed, or it is
            the memory of one process and there are several.
    """
    if settings.cache_url.startswith(MEMORY):
        count = settings.worker_count
        if processes and count > 1:
            raise ConfigurationError(
                f"CACHE_URL is memory://, which each process has for itself, and {processes} is "
                f"{count}: what one keeps the others do not find. Allowed: a Redis server, as in "
                "redis://host:6379, or one process. (environment variable: CACHE_URL)"
            )
        return MemoryStore(settings.cache_memory_bytes)
    return RedisStore(settings)


def _without_inputs(score: Score) -> Score:
    # Not a coroutine of its own: this is on the way of every request.
    def refuse_keys(request: ScoringRequest) -> Awaitable[ScoringResponse]:
        for name, _ in request.headers:
            if name == HEADER:
                raise UndecodableInput(
                    "x-input-key is given, but inputs are not kept here: there is no cache "
                    "(CACHE_URL, REDIS_HOST)."
                )
        return score(request)

    return refuse_keys


async def _nothing() -> None:
    """There is nothing to close."""
