"""The cache of results: a wrapper of the same shape as what it wraps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .cache_values import key_of, pack_response, unpack_response
from .errors import NotServing, StoreAway
from .messages import Score, ScoringRequest, ScoringResponse
from .models import fingerprint
from .runtime import Runtime, State
from .settings import Settings
from .stores import BUSY, Store
from .telemetry import log

_METHODS = ("GET", "POST")
# The layout of values, and what the settings change in a result.
_LAYOUT = b"1"
_BUSY_SECONDS = 5.0
_FIRST_LOOK_SECONDS = 0.005
_LONGEST_LOOK_SECONDS = 0.1


class _NotShared(Exception):
    """Whoever scored an equal request has no result that others could have."""


class Cache:
    """``Score``: a result that is kept, or else that of the runtime, which is then kept.

    Equal requests in flight share one run(). A store that does not answer is a miss.

    Args:
        runtime: started, or about to be.
        store: where results are kept.
        score: what scores; the runtime's own if not given.
    """

    def __init__(self, runtime: Runtime, store: Store, score: Score | None = None) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._store = store
        self._score: Score = score or runtime.score
        self._flights: dict[str, asyncio.Future[ScoringResponse]] = {}
        self._version = _version_of(runtime.settings)
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._unmarking: set[asyncio.Task[None]] = set()
        self._applies: bool | None = None
        self.hits = self.misses = self.bypasses = self.errors = 0
        self.saved_ms = 0.0

    async def __call__(self, request: ScoringRequest) -> ScoringResponse:
        """Score one request; the response's header ``x-cache`` is hit, miss or bypass.

        Raises:
            InputError, RunError, NotServing: as the wrapped Score.
        """
        directives = request.header(b"cache-control").lower()
        if not await self._is_for(request):
            self.bypasses += 1
            return _with_cache_header(await self._score(request), b"bypass")
        key = key_of(request, await self._known_version(), in_order=not self._runtime.has_script)
        if b"no-cache" in directives:
            return await self._renewed(key, request, keep=b"no-store" not in directives)
        while True:
            flight = self._flights.get(key)
            if flight is None:
                return await self._led(key, request, keep=b"no-store" not in directives)
            try:
                return self._hit(await asyncio.shield(flight), 0)
            except _NotShared:
                continue

    def metrics(self) -> dict[str, Callable[[], float]]:
        """Name → what to call for its value."""
        return {
            "scoring_cache_hits_total": lambda: self.hits,
            "scoring_cache_misses_total": lambda: self.misses,
            "scoring_cache_bypasses_total": lambda: self.bypasses,
            "scoring_cache_errors_total": lambda: self.errors,
            "scoring_cache_saved_milliseconds_total": lambda: self.saved_ms,
            "scoring_cache_breaker_open": lambda: not self._store.is_open,
        }

    async def close(self) -> None:
        """Keep what is about to be kept, then close the store."""
        under_way = [*self._keeping.values(), *self._unmarking]
        if under_way:
            await asyncio.wait(under_way, timeout=1)
        await self._store.close()

    async def _led(self, key: str, request: ScoringRequest, keep: bool) -> ScoringResponse:
        """The result, for this request and for equal ones that come meanwhile."""
        flight: asyncio.Future[ScoringResponse] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            response = await self._kept_or_scored(key, request, keep)
        except (NotServing, asyncio.CancelledError):
            flight.set_exception(_NotShared())
            raise
        except Exception as error:
            flight.set_exception(error)
            raise
        else:
            if isinstance(response.body, bytes) and not _is_for_one(response):
                flight.set_result(response)
            else:
                flight.set_exception(_NotShared())
            return response
        finally:
            flight.exception()  # looked at, also when nobody waits for it
            keeping = self._keeping.get(key)
            if keeping is None:
                del self._flights[key]
            else:  # until then the flight is where the result is found
                keeping.add_done_callback(lambda _: self._flights.pop(key, None))
            del flight  # its error has this frame in its traceback

    async def _kept_or_scored(
        self, key: str, request: ScoringRequest, keep: bool
    ) -> ScoringResponse:
        kept, marked = await self._kept(key)
        if kept is not None:
            return self._hit(*kept)
        self.misses += 1
        try:
            response = await self._score(request)
        except BaseException:
            self._keep_soon(key, None, marked)
            raise
        # After the answer: nobody waits for it to be kept.
        self._keep_soon(key, response if keep else None, marked)
        return _with_cache_header(response, b"miss")

    async def _kept(self, key: str) -> tuple[tuple[ScoringResponse, int] | None, bool]:
        """What is kept, and whether the key bears our mark."""
        try:
            value = await self._store.take(key, _BUSY_SECONDS)
            if value == BUSY:
                value = await self._awaited(key)
        except StoreAway:
            self.errors += 1
            return None, False
        if value is None:
            return None, True
        try:
            found = unpack_response(value, key)
        except (ValueError, KeyError, TypeError, AttributeError):
            found = None
        if found is None and value != BUSY:
            log.warning("The cache holds something that is not ours under %s; it is replaced.", key)
        return found, value != BUSY

    async def _awaited(self, key: str) -> bytes | None:
        """What another process keeps when it is done; BUSY when that takes too long."""
        pause, waited = _FIRST_LOOK_SECONDS, 0.0
        while waited < _BUSY_SECONDS:
            await asyncio.sleep(pause)
            waited += pause
            value = await self._store.take(key, _BUSY_SECONDS)
            if value != BUSY:
                return value
            pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)
        return BUSY

    def _keep_soon(self, key: str, response: ScoringResponse | None, marked: bool) -> None:
        value = self._value(key, response)
        if value is None and not marked:
            return
        task = asyncio.get_running_loop().create_task(self._keep(key, value))
        if value is None:
            self._unmarking.add(task)
            task.add_done_callback(self._unmarking.discard)
        else:
            self._keeping[key] = task
            task.add_done_callback(lambda _: self._keeping.pop(key, None))

    def _value(self, key: str, response: ScoringResponse | None) -> bytes | None:
        if response is None or not isinstance(response.body, bytes):
            return None
        if not 200 <= response.status < 300 or _is_for_one(response):
            return None
        if len(response.body) > self._settings.cache_max_value_bytes:
            return None
        return pack_response(response, response.body, key)

    async def _keep(self, key: str, value: bytes | None) -> None:
        try:
            if value is None:
                await self._store.delete(key)
            else:
                await self._store.set(key, value, self._settings.cache_ttl_seconds)
        except StoreAway:
            self.errors += 1

    async def _renewed(self, key: str, request: ScoringRequest, keep: bool) -> ScoringResponse:
        self.bypasses += 1
        response = await self._score(request)
        self._keep_soon(key, response if keep else None, False)
        return _with_cache_header(response, b"bypass")

    def _hit(self, response: ScoringResponse, age: int) -> ScoringResponse:
        self.hits += 1
        self.saved_ms += max(response.run_ms, 0)
        return _with_cache_header(response, b"hit", age)

    async def _is_for(self, request: ScoringRequest) -> bool:
        if self._applies is None:
            await self._runtime.settled()
            self._applies = self._runtime.state is not State.FAILED and self._keeps_results()
        return self._applies and request.method in _METHODS

    def _keeps_results(self) -> bool:
        wanted = self._settings.cache_ttl_seconds > 0
        return wanted and (self._settings.cache_raw or not self._runtime.sees_headers)

    async def _known_version(self) -> bytes:
        if not self._version.done():
            await asyncio.wrap_future(self._version)
        return self._version.result()


def _is_for_one(response: ScoringResponse) -> bool:
    """Whether run() sets a cookie, or says that others must not have it (RFC 9111 §5.2.2)."""
    return any(
        name == b"set-cookie"
        or (name == b"cache-control" and any(word in value for word in (b"no-store", b"private")))
        for name, value in response.headers
    )


def _with_cache_header(
    response: ScoringResponse, state: bytes, age: int | None = None
) -> ScoringResponse:
    headers = [line for line in response.headers if line[0] not in (b"x-cache", b"age")]
    headers.append((b"x-cache", state))
    if age is not None:
        headers.append((b"age", b"%d" % age))
    return response._replace(headers=headers)


def _version_of(settings: Settings) -> Future[bytes]:
    """The digest of the model and the code, made in a thread from now on, once."""
    script = settings.script_path
    code = [script.parent] if script is not None else [Path(settings.app_root)]
    if settings.source_dir:
        code.append(Path(settings.app_root, settings.source_dir))
    how = f"{settings.nan_policy},{settings.strict_compat}".encode()
    executor = ThreadPoolExecutor(1, "fingerprint")

    def digest() -> bytes:
        return fingerprint(settings.model_dir, code) + how + _LAYOUT

    made: Future[Any] = executor.submit(digest)
    executor.shutdown(wait=False)
    return made
