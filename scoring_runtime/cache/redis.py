"""Redis as the store: one batch under way at a time, a deadline for each caller, a breaker.

The commands that come while one batch is under way are the next batch: one round trip serves many.
Nobody waits longer than ``CACHE_TIMEOUT_MS``. After five failures in a row nothing is sent any
more; probes in the background, with a growing pause, find out when Redis is back and quick. What a
server refuses that is well is a miss, told once, and its connection is renewed: after a failover
the name leads elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
from time import monotonic
from typing import Any, NamedTuple

from ..connections.redis import make
from ..errors import StoreAway
from ..settings.settings import Settings
from ..telemetry.logs import log
from .memory import BUSY

_FAILURES = 5
_GOOD_PROBES = 3
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# After so long without trouble it is forgotten.
_STEADY_SECONDS = 60.0
_RENEWAL_SECONDS = 5.0
# Of a connection or a batch; its callers have long gone on by then.
_SOCKET_SECONDS = 2.0
_MOST_AT_ONCE = 200
_LARGEST_HEAD = 64 * 1024
# One round trip: the value, unless it is larger than any of ours, or the mark for those who come
# next.
_FOUND = "redis.call('STRLEN', KEYS[1]) <= {} and redis.call('GET', KEYS[1])"
_TAKE = (
    "local v = {} if v then return v end redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) "
    "return false"
)
# What redis-py or the server calls it, and what an operator can do.
_REASONS = {
    "ReadOnly|READONLY": "READONLY, a replica: CACHE_URL or REDIS_HOST has to lead to a primary",
    "Moved|Ask|CrossSlot": "MOVED, a node of a cluster: begin CACHE_URL with redis+cluster://",
    "ClusterDown|MasterDown|CLUSTERDOWN": "CLUSTERDOWN, its cluster does not serve this key",
    "NoPermission|NOPERM": "NOPERM, the user of REDIS_USERNAME or CACHE_URL needs +get +set +del "
    "+eval +strlen +pexpire on the keys that begin with CACHE_PREFIX",
    "Authentication|NOAUTH": "it refuses REDIS_PASSWORD or REDIS_USERNAME, or those of CACHE_URL",
    "OutOfMemory|OOM": "OOM, it is full: set its maxmemory-policy to allkeys-lru",
    "MISCONF": "MISCONF, it cannot save to its disk: its log says why",
    "BusyLoading": "LOADING, it still reads its data",
}


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
        self._failed_at = self._refused_at = self._renewed_at = self._back_at = -_STEADY_SECONDS
        self._pause = _SHORTEST_PAUSE
        self._told: set[str] = set()
        self._to_renew = False
        self._largest = _LARGEST_HEAD + max(
            settings.cache_max_value_bytes, settings.cache_max_input_bytes
        )
        self._found = _FOUND.format(self._largest)
        self._take = _TAKE.format(self._found).encode()
        self.is_open = True
        make(settings, "redis.asyncio")  # to refuse what cannot be read now

    async def get(self, key: str) -> bytes | None:
        """GET, of nothing larger than the largest input or result."""
        return _bytes(await self._call("EVAL", f"return {self._found}", 1, self._prefix + key))

    async def take(self, key: str, seconds: float) -> bytes | None:
        """The same, or SET to BUSY with an expiry, in one script."""
        mark = (BUSY, max(1, int(seconds * 1000)))
        return _bytes(await self._call("EVAL", self._take, 1, self._prefix + key, *mark))

    async def hold(self, key: str, seconds: float) -> None:
        """PEXPIRE."""
        await self._call("PEXPIRE", self._prefix + key, max(1, int(seconds * 1000)))

    async def set(self, key: str, value: bytes, seconds: float) -> None:
        """SET with an expiry."""
        await self._call("SET", self._prefix + key, value, "PX", max(1, int(seconds * 1000)))

    async def delete(self, key: str) -> bool:
        """DEL."""
        return bool(await self._call("DEL", self._prefix + key))

    async def run(self, script: str, key: str, *arguments: str | bytes | int) -> Any:
        """EVAL, of a script for one key."""
        return await self._call("EVAL", script, 1, self._prefix + key, *arguments)

    async def close(self) -> None:
        """Close the connections."""
        for task in (self._probing, self._sending):
            if task is not None:
                task.cancel()
        await self._renew()

    async def _renew(self) -> None:
        """Close the connections; the next command finds the server by its name again."""
        client, self._client, self._to_renew = self._client, None, False
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
            # Many wait for one batch: what is late at the same time is one failure.
            if monotonic() - self._failed_at > self._deadline / 4:
                self._has_failed("no answer in CACHE_TIMEOUT_MS")
            command.answer.set_exception(StoreAway("The cache does not answer in time."))

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._send([each for each in batch if not each.answer.done()])
                if self._to_renew:
                    await self._renew()
        finally:
            self._sending = None

    async def _send(self, batch: list[_Command]) -> None:
        if self._client is None:
            self._client = self._made_client()
        began = monotonic()
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
        if monotonic() - began <= self._deadline:
            self._failures = 0
        for command, answer in zip(batch, answers, strict=True):
            if not command.answer.done():
                self._settle(command, answer)

    def _settle(self, command: _Command, answer: Any) -> None:
        from redis.exceptions import ResponseError

        if isinstance(answer, ResponseError):  # full, or it may not: Redis itself is well
            self._is_refused(_why(answer))
            command.answer.set_exception(StoreAway(f"The cache refuses: {_why(answer)}."))
        elif isinstance(answer, Exception):
            self._has_failed(_why(answer))
            command.answer.set_exception(StoreAway("The cache does not answer."))
        else:
            command.answer.set_result(answer)

    def _is_refused(self, why: str) -> None:
        now = monotonic()
        if now - self._refused_at > _STEADY_SECONDS:
            self._told.clear()
        self._refused_at = now
        if why not in self._told:
            self._told.add(why)
            log.warning("The cache refuses commands (%s); results are computed meanwhile.", why)
        if now - self._renewed_at > _RENEWAL_SECONDS:
            self._renewed_at, self._to_renew = now, True

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
        client = make(self._settings, "redis.asyncio", retry=Retry(NoBackoff(), 0), **options)
        pool = getattr(client, "connection_pool", None)  # a cluster has one for each node
        if pool is not None:
            pool.connection_kwargs["parser_class"] = _parser(self._largest)
        return client

    def _has_failed(self, why: str) -> None:
        self._failures += 1
        self._failed_at = monotonic()
        if self._failures < _FAILURES or not self.is_open:
            return
        self.is_open = False
        if self._failed_at - self._back_at > _STEADY_SECONDS:
            self._pause = _SHORTEST_PAUSE
        log.warning("The cache does not answer (%s); results are computed meanwhile.", why)
        self._probing = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        while not self.is_open:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            await self._renew()
            self._client = self._made_client()
            try:
                await asyncio.wait_for(self._ask(), _SOCKET_SECONDS)  # connected, and then quick
                for _ in range(_GOOD_PROBES):
                    await asyncio.wait_for(self._ask(), self._deadline)
            except Exception:
                continue
            self._failures, self.is_open, self._back_at = 0, True, monotonic()
            log.info("The cache answers again.")

    async def _ask(self) -> None:
        """Raises when there is no answer; a refusal is one."""
        pipe = self._client.pipeline(transaction=False)
        pipe.execute_command("GET", f"{self._prefix}probe")
        await pipe.execute(raise_on_error=False)


def _parser(largest: int) -> Any:
    """redis-py's, which reads no text that is announced to be larger."""

    class BoundedParser(importlib.import_module("redis._parsers")._AsyncRESP3Parser):  # type: ignore[misc]
        def _read(self, length: int) -> Any:
            if length > largest:
                raise ValueError(f"A value of {length} bytes is none of ours.")
            return super()._read(length)

    return BoundedParser


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _why(error: BaseException) -> str:
    """What an operator can do; the error's own text can hold an address, not a password."""
    name = type(error).__name__
    said = f"{name} {error}"
    found = next((_REASONS[words] for words in _REASONS if re.search(words, said)), "")
    return found or (f"{name} {str(error)[:100]!r}" if name == "ResponseError" else name)
