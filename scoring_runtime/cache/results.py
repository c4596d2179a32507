"""The cache of results: a wrapper of the same shape as what it wraps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from pathlib import Path
from time import monotonic

from ..errors import ModelDamaged, NotBegun, NotServing, RunTimeout, StoreAway
from ..messages import Score, ScoringRequest, ScoringResponse
from ..models import in_force
from ..models.manifest import fingerprint
from ..release import VERSION
from ..scoring.runtime import Runtime, State
from ..telemetry.logs import log
from ..telemetry.metrics import (
    BREAKER_OPEN,
    CACHE_BYPASSES,
    CACHE_ERRORS,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_SAVED,
)
from .entries import key_of, pack_response, unpack_response
from .memory import BUSY, Store

_METHODS = ("GET", "POST")
_LAYOUT = "3"  # of values and keys
# Who scores in another process is waited for so long; its mark ends so soon after it was killed.
_BUSY_SECONDS = 5.0
_MARK_SECONDS = 1.0
_RENEWAL_SECONDS = 0.25
# What looking a result up may take from the time for its scoring.
_LOOK_UP_SECONDS = 0.05
_FIRST_LOOK_SECONDS = 0.005
_LONGEST_LOOK_SECONDS = 0.1
# RFC 9111 §5.2.2.
_FOR_ONE = frozenset({b"no-store", b"private", b"no-cache"})
_AGE = re.compile(rb',\s*(s-maxage|max-age)\s*(?:=\s*"?([^",\s]{0,12})|(?=,|$))')


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
        self._timeout = runtime.settings.timeout_seconds or inf
        self._flights: dict[str, asyncio.Future[ScoringResponse]] = {}
        self._names_model = not runtime.has_script
        self._version = _version_of(runtime)
        self._what_scores = b""
        self._models: dict[str, bytes] = {}
        self._marked: set[str] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._unmarking: set[asyncio.Task[None]] = set()
        self._applies: bool | None = None
        count = runtime.metrics.number
        self.hits, self.misses = count(CACHE_HITS), count(CACHE_MISSES)
        self.bypasses, self.errors = count(CACHE_BYPASSES), count(CACHE_ERRORS)
        self.saved_ms, breaker = count(CACHE_SAVED), count(BREAKER_OPEN)
        runtime.metrics.publish_by(lambda: breaker.set(not store.is_open))

    async def __call__(self, request: ScoringRequest) -> ScoringResponse:
        """Score one request; the response's header ``x-cache`` is hit, miss or bypass.

        Raises:
            InputError, RunError, NotServing: as the wrapped Score.
        """
        if not await self._is_for(request):
            self.bypasses.add()
            return _with_cache_header(await self._score(request), b"bypass")
        until = monotonic() + self._timeout
        wanted = request.model if self._names_model else ""
        model = self._models.get(wanted) or self._resolved(wanted)
        key = key_of(request, self._what_scores, model)
        directives = request.header(b"cache-control").lower()
        keep = b"no-store" not in directives
        if b"no-cache" in directives:
            return await self._renewed(key, request, keep)
        while (flight := self._flights.get(key)) is not None:
            try:
                return self._hit(await self._in_time(flight, until), 0)
            except _NotShared:
                continue
            finally:
                del flight  # its error's traceback holds this frame
        return await self._led(key, request, keep, until)

    async def close(self) -> None:
        """Keep what is about to be kept, then close the store."""
        if self._renewing is not None:
            self._renewing.cancel()
        under_way = [*self._keeping.values(), *self._unmarking]
        if under_way:
            await asyncio.wait(under_way, timeout=1)
        await self._store.close()

    async def _led(
        self, key: str, request: ScoringRequest, keep: bool, until: float
    ) -> ScoringResponse:
        """The result, for this request and for equal ones that come meanwhile."""
        flight: asyncio.Future[ScoringResponse] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            response = await self._kept_or_scored(key, request, keep, until)
        except (NotServing, RunTimeout, asyncio.CancelledError):  # its own, not the others'
            flight.set_exception(_NotShared())
            raise
        except Exception as error:
            flight.set_exception(error)
            raise
        else:
            if isinstance(response.body, bytes) and _shared_seconds(response):
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
        self, key: str, request: ScoringRequest, keep: bool, until: float
    ) -> ScoringResponse:
        kept, marked = await self._kept(key, until)
        if kept is not None:
            return self._hit(*kept)
        self.misses.add()
        if marked:
            self._mark(key)
        try:
            response = await self._scored(request, until)
        except BaseException:
            self._keep_soon(key, None, marked)
            raise
        finally:
            self._marked.discard(key)
        # After the answer: nobody waits for it to be kept.
        self._keep_soon(key, response if keep else None, marked)
        return _with_cache_header(response, b"miss")

    async def _scored(self, request: ScoringRequest, until: float) -> ScoringResponse:
        if until - monotonic() >= self._timeout - _LOOK_UP_SECONDS:
            return await self._score(request)
        return await self._in_time(self._score(request), until)

    async def _in_time(self, result: Awaitable[ScoringResponse], until: float) -> ScoringResponse:
        """The result by the deadline of a request that waits for others; it goes on without it."""
        try:
            return await asyncio.wait_for(asyncio.shield(result), until - monotonic())
        except TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> NotBegun:
        return NotBegun(f"Scoring timeout after {self._settings.scoring_timeout_ms} ms")

    def _mark(self, key: str) -> None:
        self._marked.add(key)
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew_marks())

    async def _renew_marks(self) -> None:
        """What takes long to score stays marked, as long as this process lives."""
        while self._marked:
            before = self._marked.copy()
            await asyncio.sleep(_RENEWAL_SECONDS)
            held = (self._store.hold(key, _MARK_SECONDS) for key in before & self._marked)
            await asyncio.gather(*held, return_exceptions=True)
        self._renewing = None

    async def _kept(
        self, key: str, until: float
    ) -> tuple[tuple[ScoringResponse, int] | None, bool]:
        """What is kept, and whether the key bears our mark."""
        try:
            value = await self._store.take(key, _MARK_SECONDS)
            if value == BUSY:
                value = await self._awaited(key, until)
        except StoreAway:
            self.errors.add()
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

    async def _awaited(self, key: str, until: float) -> bytes | None:
        """What another process keeps when it is done; BUSY when that takes too long."""
        pause, enough = _FIRST_LOOK_SECONDS, monotonic() + _BUSY_SECONDS
        while (left := min(enough, until) - monotonic()) > 0:
            await asyncio.sleep(min(pause, left))
            value = await self._store.take(key, _MARK_SECONDS)
            if value != BUSY:
                return value
            pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)
        if until <= enough:
            raise self._too_late()
        return BUSY

    def _keep_soon(self, key: str, response: ScoringResponse | None, marked: bool) -> None:
        seconds = 0.0 if response is None else self._kept_seconds(response)
        if response is not None and isinstance(response.body, bytes) and seconds:
            value = pack_response(response, response.body, key)
            task = asyncio.get_running_loop().create_task(self._keep(key, value, seconds))
            self._keeping[key] = task
            task.add_done_callback(lambda _: self._keeping.pop(key, None))
        elif marked:
            unmarking = asyncio.get_running_loop().create_task(self._keep(key, b"", 0))
            self._unmarking.add(unmarking)
            unmarking.add_done_callback(self._unmarking.discard)

    def _kept_seconds(self, response: ScoringResponse) -> float:
        if not isinstance(response.body, bytes) or not 200 <= response.status < 300:
            return 0
        if len(response.body) > self._settings.cache_max_value_bytes:
            return 0
        return min(self._settings.cache_ttl_seconds, _shared_seconds(response))

    async def _keep(self, key: str, value: bytes, seconds: float) -> None:
        try:
            if seconds:
                await self._store.set(key, value, seconds)
            else:
                await self._store.delete(key)
        except StoreAway:
            self.errors.add()

    async def _renewed(self, key: str, request: ScoringRequest, keep: bool) -> ScoringResponse:
        self.bypasses.add()
        response = await self._score(request)
        self._keep_soon(key, response if keep else None, False)
        return _with_cache_header(response, b"bypass")

    def _hit(self, response: ScoringResponse, age: int) -> ScoringResponse:
        self.hits.add()
        self.saved_ms.add(max(response.run_ms, 0))
        return _with_cache_header(response, b"hit", age)

    async def _is_for(self, request: ScoringRequest) -> bool:
        if self._applies is None:
            await self._runtime.settled()
            applies = self._runtime.state is not State.FAILED and self._keeps_results()
            if applies:
                self._what_scores = await asyncio.shield(asyncio.wrap_future(self._version))
            self._applies = applies and bool(self._what_scores)
        return self._applies and request.method in _METHODS

    def _keeps_results(self) -> bool:
        wanted = self._settings.cache_ttl_seconds > 0
        return wanted and (self._settings.cache_raw or not self._runtime.sees_headers)

    def _resolved(self, model: str) -> bytes:
        """Name and version of what scores a request for ``model``; UnknownModel is raised."""
        found = self._models[model] = self._runtime.model(model).identity.encode()
        return found


def _shared_seconds(response: ScoringResponse) -> float:
    """How long others may have it; 0 when run() sets a cookie, or says that it is for one only.

    See RFC 9111 §3 and §4.2.1; a lifetime that cannot be read has passed.
    """
    said = b""
    for name, value in response.headers:
        if name == b"cache-control":
            said += b"," + value.lower()
        elif name == b"set-cookie":
            return 0
    if not said:
        return inf
    if not _FOR_ONE.isdisjoint(part.partition(b"=")[0].strip() for part in said.split(b",")):
        return 0
    ages: dict[bytes, float] = {}
    for name, text in _AGE.findall(said):
        ages[name] = min(int(text) if text.isdigit() else 0, ages.get(name, inf))
    return ages.get(b"s-maxage", ages.get(b"max-age", inf))


def _with_cache_header(
    response: ScoringResponse, state: bytes, age: int | None = None
) -> ScoringResponse:
    headers = [line for line in response.headers if line[0] not in (b"x-cache", b"age")]
    headers.append((b"x-cache", state))
    if age is not None:
        headers.append((b"age", b"%d" % age))
    return response._replace(headers=headers)


def _looked_up(runtime: Runtime) -> list[tuple[str, int]]:
    """The versions that a script finds where it names none."""
    folder = Path(runtime.settings.model_dir)
    if not runtime.has_script or not runtime.settings.model_dir or not folder.is_dir():
        return []
    there = in_force.served(folder, dict(runtime.settings.versions))
    return [(each.name, each.version) for each in there]


def _version_of(runtime: Runtime) -> Future[bytes]:
    """The digest of model, code and settings, made in a thread, once; empty if it cannot be."""
    settings = runtime.settings
    script = settings.script_path
    code = [script.parent] if script is not None else [Path(settings.app_root)]
    if settings.source_dir:
        code.append(Path(settings.app_root, settings.source_dir))
    name = str(script or "main") if runtime.has_script else ""
    said = repr((_LAYOUT, VERSION, name, settings.changing_results, _looked_up(runtime))).encode()
    executor = ThreadPoolExecutor(1, "fingerprint")

    def digest() -> bytes:
        try:
            found = fingerprint(settings.model_dir, code, has_script=runtime.has_script)
            return found + said
        except (OSError, ModelDamaged) as error:
            log.error("No results are kept: the files of model and code cannot be read: %s", error)
            return b""

    made = executor.submit(digest)
    executor.shutdown(wait=False)
    return made
