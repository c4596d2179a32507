"""Redis as the store: one batch under way at a time, a deadline for each caller, a breaker.

The commands that come while one batch is under way are the next batch: one round trip serves many.
Nobody waits longer than ``CACHE_TIMEOUT_MS``. After five failures in a row nothing is sent any
more; a probe in the background finds out when Redis is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple

from .errors import StoreAway
from .redis_clients import make
from .settings import Settings
from .stores import BUSY
from .telemetry import log

_FAILURES = 5
_PROBE_SECONDS = 0.5
# Of a connection or a batch; its callers have long gone on by then.
_SOCKET_SECONDS = 2.0
_MOST_AT_ONCE = 200
# One round trip: the value, or the mark for those who come next.
_TAKE = (
    "local v = redis.call('GET', KEYS[1]) if v then return v end "
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return false"
)


class _Command(NamedTuple):
    arguments: tuple[Any, ...]
    answer: asyncio.Future[Any]


class RedisStore:
    """A :class:`Store` on a Redis server (6 or newer), or anything that speaks its protocol.

    Raises:
        ConfigurationError: redis is not installed, or the URL cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = settings.cache_prefix
        self._deadline = settings.cache_timeout_ms / 1000
        self._client: Any = None
        self._waiting: list[_Command] = []
        self._sending: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._failures = 0
        self.is_open = True
        make(settings, "redis.asyncio")  # to refuse what cannot be read now

    async def get(self, key: str) -> bytes | None:
        """GET."""
        return _bytes(await self._call("GET", self._prefix + key))

    async def take(self, key: str, seconds: float) -> bytes | None:
        """GET, or SET to BUSY with an expiry, in one script."""
        mark = (BUSY, max(1, int(seconds * 1000)))
        return _bytes(await self._call("EVAL", _TAKE, 1, self._prefix + key, *mark))

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """SET with an expiry."""
        await self._call("SET", self._prefix + key, value, "PX", max(1, int(seconds * 1000)))

    async def delete(self, key: str) -> bool:
        """DEL."""
        return bool(await self._call("DEL", self._prefix + key))

    async def close(self) -> None:
        """Close the connections."""
        for task in (self._probing, self._sending):
            if task is not None:
                task.cancel()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _call(self, *arguments: Any) -> Any:
        if not self.is_open:
            raise StoreAway("The cache does not answer.")
        loop = asyncio.get_running_loop()
        command = _Command(arguments, loop.create_future())
        self._waiting.append(command)
        if self._sending is None:
            self._sending = loop.create_task(self._send_waiting())
        timer = loop.call_later(self._deadline, self._is_late, command)
        try:
            return await command.answer
        finally:
            timer.cancel()

    def _is_late(self, command: _Command) -> None:
        if not command.answer.done():
            self._has_failed("no answer in CACHE_TIMEOUT_MS")
            command.answer.set_exception(StoreAway("The cache does not answer in time."))

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._send([each for each in batch if not each.answer.done()])
        finally:
            self._sending = None

    async def _send(self, batch: list[_Command]) -> None:
        if self._client is None:
            self._client = self._made_client()
        pipe = self._client.pipeline(transaction=False)
        for command in batch:
            pipe.execute_command(*command.arguments)
        try:
            answers = await pipe.execute(raise_on_error=False)
        except Exception as error:
            self._has_failed(_why(error))
            self._refuse(batch)
            return
        except BaseException:
            self._refuse(batch)
            raise
        self._failures = 0
        for command, answer in zip(batch, answers, strict=True):
            if not command.answer.done():
                self._settle(command, answer)

    def _settle(self, command: _Command, answer: Any) -> None:
        from redis.exceptions import ResponseError

        if isinstance(answer, ResponseError):  # full, or it may not: Redis itself is well
            command.answer.set_exception(StoreAway(f"The cache refuses: {_why(answer)}."))
        elif isinstance(answer, Exception):
            self._has_failed(_why(answer))
            command.answer.set_exception(StoreAway("The cache does not answer."))
        else:
            command.answer.set_result(answer)

    @staticmethod
    def _refuse(batch: list[_Command]) -> None:
        for command in batch:
            if not command.answer.done():
                command.answer.set_exception(StoreAway("The cache does not answer."))

    def _made_client(self) -> Any:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options = {"protocol": 3, "socket_timeout": _SOCKET_SECONDS, "decode_responses": False}
        options["socket_connect_timeout"] = _SOCKET_SECONDS
        return make(self._settings, "redis.asyncio", retry=Retry(NoBackoff(), 0), **options)

    def _has_failed(self, why: str) -> None:
        self._failures += 1
        if self._failures < _FAILURES or not self.is_open:
            return
        self.is_open = False
        log.warning("The cache does not answer (%s); results are computed meanwhile.", why)
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        while not self.is_open:
            await asyncio.sleep(_PROBE_SECONDS)
            broken, self._client = self._client, self._made_client()
            try:
                if broken is not None:
                    await broken.aclose()
                await asyncio.wait_for(self._client.ping(), _SOCKET_SECONDS)
            except Exception:
                continue
            self._failures, self.is_open = 0, True
            log.info("The cache answers again.")


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _why(error: BaseException) -> str:
    """What an operator can do; the error's own text can hold an address, not a password."""
    name = type(error).__name__
    if name in ("AuthenticationError", "AuthorizationError", "NoPermissionError"):
        return "it refuses REDIS_PASSWORD or REDIS_USERNAME"
    if "OOM" in str(error) or name == "OutOfMemoryError":
        return "it is full (maxmemory)"
    return name
