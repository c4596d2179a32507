"""The cache put together, when the settings ask for one: results, and inputs by key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from .cache import Cache
from .errors import UndecodableInput
from .messages import Score, ScoringRequest, ScoringResponse
from .redis_clients import MEMORY
from .redis_store import RedisStore
from .runtime import Runtime
from .settings import Settings
from .stored_inputs import HEADER, StoredInputs
from .stores import MemoryStore, Store


class Caching(NamedTuple):
    """What triggers score with; ``inputs`` only with a cache."""

    score: Score
    inputs: StoredInputs | None
    close: Callable[[], Awaitable[None]]


def caching(runtime: Runtime) -> Caching:
    """The runtime's ``score``, with the cache of its settings around it.

    Raises:
        ConfigurationError: the cache's address is none, or its package is not installed.
    """
    settings = runtime.settings
    if not settings.cached:
        return Caching(_without_inputs(runtime.score), None, _nothing)
    store = store_of(settings)
    cache = Cache(runtime, store)
    runtime.metrics.update(cache.metrics())
    inputs = StoredInputs(store, cache, settings)
    return Caching(inputs.score, inputs, cache.close)


def store_of(settings: Settings) -> Store:
    """The store that the settings name."""
    if settings.cache_url.startswith(MEMORY):
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
