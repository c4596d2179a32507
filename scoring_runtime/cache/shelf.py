"""Where answers that come later are kept, and what waits to be scored for them until then.

An entry is open (it waits), then begun, then done; it may be removed before it is begun, and when
it is done. Its bytes are those of :func:`.entries.pack`. In memory all ends with the process. In
Redis any process takes what waits, and what was begun by one that has not said for
``LEASE_SECONDS`` that it lives: each is scored at least once. There every method but ``close`` may
raise StoreAway.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from enum import Enum
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

from ..connections.redis import MEMORY
from ..settings.settings import Settings
from .redis import RedisStore

LEASE_SECONDS = 15.0
_AGAIN_SECONDS = 0.5
# Beyond the time that results are kept, for inputs that nobody comes to score.
_WAITING_SECONDS = 86_400
_TIMEOUT_MS = 5000
_KEY = "{later}"


class Removed(Enum):
    """What became of an entry that was to be removed."""

    UNKNOWN = 0
    GONE = 1
    BEGUN = 2


class Taken(NamedTuple):
    """An entry to score; ``tries`` counts this one."""

    id: str
    value: bytes
    tries: int


class _Entry:
    __slots__ = ("is_done", "is_gone", "tries", "value", "waits")

    def __init__(self, value: bytes, waits: bool) -> None:
        self.value, self.waits, self.tries = value, waits, 0
        self.is_done = self.is_gone = False


class MemoryShelf:
    """In this process.

    Args:
        seconds: that an answer is kept.
        most: entries.
        most_bytes: of them all.
    """

    is_shared = False

    def __init__(self, seconds: float, most: int, most_bytes: int) -> None:
        self._seconds, self._most, self._room = seconds, most, most_bytes
        self._entries: dict[str, _Entry] = {}
        self._open: OrderedDict[str, float] = OrderedDict()
        self._ends: OrderedDict[str, float] = OrderedDict()

    async def add(self, id: str, value: bytes, *, waits: bool = True) -> bool:
        """Keep an input; False when it is full. One that does not wait here comes by a trigger."""
        self._forget_old()
        if len(self._entries) >= self._most or not self._replace(id, value, waits):
            return False
        if waits:
            self._open[id] = 0.0
        return True

    async def take(self) -> Taken | None:
        """Begin what has waited longest, if anything waits."""
        now = monotonic()
        id = next((each for each, due in self._open.items() if due <= now), None)
        if id is None:
            return None
        del self._open[id]
        entry = self._entries[id]
        entry.tries += 1
        return Taken(id, entry.value, 1)  # a process that it has ended has none of this

    async def begin(self, id: str) -> bool:
        """Begin one by its name, known or not; False when it was removed before."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.tries += 1
        return entry is None or not entry.is_gone

    async def hold(self, id: str) -> None:
        """Nobody else could take it."""

    async def give_back(self, id: str) -> None:
        """It has not been scored after all, and waits again."""
        if (entry := self._entries.get(id)) is not None:
            entry.tries = 0
            if entry.waits:
                self._open[id] = monotonic() + _AGAIN_SECONDS

    async def finish(self, id: str, value: bytes) -> bool:
        """Keep its answer in place of it; False when there is no room."""
        if not self._replace(id, value, False):
            return False
        self._entries[id].is_done = True
        self._ends[id] = monotonic() + self._seconds
        return True

    async def get(self, id: str) -> bytes | None:
        """What is kept, input or answer."""
        self._forget_old()
        return self._entries[id].value if id in self._entries else None

    async def remove(self, id: str, mark: bytes = b"") -> Removed:
        """Forget it; ``mark`` stays in place of one that does not wait here, for :meth:`begin`."""
        self._forget_old()
        entry = self._entries.get(id)
        if entry is None or entry.is_gone:
            return Removed.UNKNOWN
        if entry.tries and not entry.is_done:
            return Removed.BEGUN
        waited = entry.waits or entry.is_done
        self._drop(id)
        if not waited and await self.finish(id, mark):
            self._entries[id].is_gone = True
        return Removed.GONE

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._open.clear()

    def _replace(self, id: str, value: bytes, waits: bool) -> bool:
        before = self._entries.get(id)
        room = self._room + (len(before.value) if before else 0) - len(value)
        if room < 0:
            return False
        self._room, self._entries[id] = room, _Entry(value, waits)
        return True

    def _forget_old(self) -> None:
        now = monotonic()
        while self._ends and next(iter(self._ends.values())) <= now:
            self._drop(next(iter(self._ends)))

    def _drop(self, id: str) -> None:
        entry = self._entries.pop(id, None)
        self._room += len(entry.value) if entry else 0
        self._open.pop(id, None)
        self._ends.pop(id, None)


# Of each entry: its bytes; in :open when it may be taken (after its lease, once it is begun); in
# :ends when it is forgotten; in :sizes its length;
# in :states how often it was begun, or done, or gone.
_BEGINNING = """
local p, id, t = KEYS[1], ARGV[1], redis.call('TIME')
local function at(ms) return string.format('%.0f', t[1] * 1000000 + t[2] + ms * 1000) end
local state = redis.call('HGET', p .. ':states', id)
local function drop(id)
  redis.call('DEL', p .. ':of:' .. id)
  redis.call('ZREM', p .. ':open', id)
  redis.call('ZREM', p .. ':ends', id)
  redis.call('DECRBY', p .. ':bytes', redis.call('HGET', p .. ':sizes', id) or 0)
  redis.call('HDEL', p .. ':sizes', id)
  redis.call('HDEL', p .. ':states', id)
end
local function put(value, ms, state, most)
  local more = #value - (redis.call('HGET', p .. ':sizes', id) or 0)
  if (redis.call('GET', p .. ':bytes') or 0) + more > tonumber(most) then return 0 end
  redis.call('INCRBY', p .. ':bytes', more)
  redis.call('HSET', p .. ':sizes', id, #value)
  redis.call('HSET', p .. ':states', id, state)
  redis.call('ZADD', p .. ':ends', at(ms), id)
  redis.call('SET', p .. ':of:' .. id, value, 'PX', ms)
  return 1
end
"""
_SCRIPTS = {
    "add": """
for _, old in ipairs(redis.call('ZRANGEBYSCORE', p .. ':ends', '-inf', at(0), 'LIMIT', 0, 100)) do
  drop(old)
end
if redis.call('ZCARD', p .. ':ends') >= tonumber(ARGV[2]) then return 0 end
if put(ARGV[3], ARGV[4], 0, ARGV[5]) == 0 then return 0 end
redis.call('SET', p .. ':used', 1, 'PX', ARGV[4])
if ARGV[6] == '1' then redis.call('ZADD', p .. ':open', at(0), id) end
return 1
""",
    "take": """
for _, due in ipairs(redis.call('ZRANGEBYSCORE', p .. ':open', '-inf', at(0), 'LIMIT', 0, 100)) do
  local value = redis.call('GET', p .. ':of:' .. due)
  if value then
    redis.call('ZADD', p .. ':open', at(ARGV[2]), due)
    return {due, value, redis.call('HINCRBY', p .. ':states', due, 1)}
  end
  drop(due)
end
return false
""",
    "begin": """
if state == 'gone' then return 0 end
if state and state ~= 'done' then redis.call('HINCRBY', p .. ':states', id, 1) end
return 1
""",
    "hold": "return redis.call('ZADD', p .. ':open', 'XX', at(ARGV[2]), id)",
    "give_back": """
if state and state ~= 'done' then redis.call('HSET', p .. ':states', id, 0) end
return redis.call('ZADD', p .. ':open', 'XX', at(ARGV[2]), id)
""",
    "finish": """
if put(ARGV[2], ARGV[3], 'done', ARGV[4]) == 0 then return 0 end
redis.call('ZREM', p .. ':open', id)
return 1
""",
    "remove": """
if not state or state == 'gone' then return 0 end
if state ~= 'done' and state ~= '0' then return 2 end
local waited = state == 'done' or redis.call('ZSCORE', p .. ':open', id)
drop(id)
if not waited then put(ARGV[2], ARGV[3], 'gone', ARGV[4]) end
return 1
""",
}


class RedisShelf:
    """In Redis, under keys of one slot of a cluster, by scripts that change an entry as a whole."""

    is_shared = True

    def __init__(self, settings: Settings) -> None:
        most = settings.later_max_bytes
        patient = replace(settings, cache_timeout_ms=_TIMEOUT_MS, cache_max_value_bytes=most)
        self._store = RedisStore(patient)
        self._ms = settings.later_seconds * 1000
        self._most, self._most_bytes = settings.later_max, most

    async def add(self, id: str, value: bytes, *, waits: bool = True) -> bool:
        """As in memory; counted for all processes together."""
        ms = self._ms + _WAITING_SECONDS * 1000
        limits = (ms, self._most_bytes, int(waits))
        return bool(await self._run("add", id, self._most, value, *limits))

    async def take(self) -> Taken | None:
        """As in memory; it is asked with a GET alone where nobody wants answers later."""
        if await self._store.get(f"{_KEY}:used") is None:
            return None
        found = await self._run("take", "", _ms(LEASE_SECONDS))
        return Taken(found[0].decode(), found[1], found[2]) if found else None

    async def begin(self, id: str) -> bool:
        """As in memory."""
        return bool(await self._run("begin", id))

    async def hold(self, id: str) -> None:
        """It is being scored: nobody else takes it for the next LEASE_SECONDS."""
        await self._run("hold", id, _ms(LEASE_SECONDS))

    async def give_back(self, id: str) -> None:
        """As in memory."""
        await self._run("give_back", id, _ms(_AGAIN_SECONDS))

    async def finish(self, id: str, value: bytes) -> bool:
        """As in memory."""
        return bool(await self._run("finish", id, value, self._ms, self._most_bytes))

    async def get(self, id: str) -> bytes | None:
        """As in memory."""
        return await self._store.get(f"{_KEY}:of:{id}")

    async def remove(self, id: str, mark: bytes = b"") -> Removed:
        """As in memory."""
        return Removed(await self._run("remove", id, mark, self._ms, self._most_bytes))

    async def close(self) -> None:
        """Close the connections."""
        await self._store.close()

    async def _run(self, name: str, id: str, *arguments: bytes | int) -> Any:
        return await self._store.run(_BEGINNING + _SCRIPTS[name], _KEY, id, *arguments)


Shelf: TypeAlias = MemoryShelf | RedisShelf


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def shelf_of(settings: Settings) -> Shelf | None:
    """The shelf that the settings ask for; None when it needs a Redis server and has none."""
    if settings.cached and not settings.cache_url.startswith(MEMORY):
        return RedisShelf(settings)
    if settings.shares_sockets:
        return None
    return MemoryShelf(settings.later_seconds, settings.later_max, settings.later_max_bytes)
