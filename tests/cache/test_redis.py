"""The Redis store before servers that refuse, are slow, or answer too much; all of them real."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from scoring_runtime.cache.memory import BUSY
from scoring_runtime.cache.redis import RedisStore
from scoring_runtime.errors import ConfigurationError, StoreAway
from scoring_runtime.settings.settings import Settings
from tests.hosts.redis import Proxy, RedisServer
from tests.hosts.standalone import free_port

pytestmark = pytest.mark.anyio
PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(password=PASSWORD) as server:
        yield server


def store_at(url: str, **more: Any) -> RedisStore:
    return RedisStore(Settings(cache_url=url, **{"cache_timeout_ms": 5000, **more}))


async def misses(store: RedisStore, calls: int = 20) -> None:
    """Whatever is asked of it is away, never another error; it is not given up."""
    for number in range(calls):
        with pytest.raises(StoreAway):
            await store.take(f"k{number}", 5)
        with pytest.raises(StoreAway):
            await store.set(f"k{number}", b"v", 60)
    assert store.is_open


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of the runtime."""
    ours = (each for each in caplog.records if each.name == "azmlinfsrv")
    return [each.getMessage() for each in ours if each.levelno >= logging.WARNING]


# --- what it refuses ------------------------------------------------------------------------------


def replica(stack: ExitStack) -> tuple[str, Callable[[], Any]]:
    """A primary that became a replica, as after a failover."""
    server = stack.enter_context(RedisServer(password=PASSWORD))
    client = stack.enter_context(server.client())
    client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    return server.url, lambda: client.execute_command("REPLICAOF", "NO", "ONE")


def without_rights(stack: ExitStack) -> tuple[str, Callable[[], Any]]:
    server = stack.enter_context(RedisServer(password="another"))
    client = stack.enter_context(server.client())
    client.execute_command("ACL", "SETUSER", "weak", "on", f">{PASSWORD}", "~other:*", "+ping")
    url = server.url.replace(":another@", f"weak:{PASSWORD}@")
    rights = "~scoring:* +get +set +del +eval +strlen +pexpire"  # what the log says it needs
    return url, lambda: client.execute_command("ACL", "SETUSER", "weak", *rights.split())


def full(stack: ExitStack) -> tuple[str, Callable[[], Any]]:
    server = stack.enter_context(RedisServer("--maxmemory", "1", password=PASSWORD))
    client = stack.enter_context(server.client())
    return server.url, lambda: client.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("case", "code", "setting"),
    [
        (replica, "READONLY", "CACHE_URL or REDIS_HOST"),
        (without_rights, "NOPERM", "REDIS_USERNAME"),
        (full, "OOM", "maxmemory-policy"),
    ],
)
async def test_what_a_server_refuses_is_a_miss_and_told_once(
    case: Callable[[ExitStack], tuple[str, Callable[[], Any]]],
    code: str,
    setting: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what to look at and without the password; it is used again once it takes commands."""

    with ExitStack() as stack:
        url, heal = case(stack)
        store = store_at(url)
        await misses(store)
        heal()
        assert await store.take("k", 5) is None
        await store.set("k", b"v", 60)
        assert await store.take("k", 5) == b"v"
        await store.close()
    [line] = told(caplog)
    assert code in line
    assert setting in line
    assert PASSWORD not in caplog.text


async def test_a_failover_is_followed_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The name leads to another server by then: the connection is renewed, not kept for ever."""

    with RedisServer() as old, RedisServer() as new, Proxy(old.port) as name:
        store = store_at(name.url)
        await store.set("k", b"v", 60)
        with old.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", new.port)
        name.target = new.port
        with pytest.raises(StoreAway, match="READONLY"):
            await store.set("k", b"w", 60)
        await store.set("k", b"w", 60)
        with new.client() as client:
            assert client.get("scoring:k") == b"w"
        await store.close()

    assert len(told(caplog)) == 1


async def test_a_key_of_another_kind_is_a_miss_and_replaced(server: RedisServer) -> None:
    store = store_at(server.url)
    with server.client() as client:
        client.rpush("scoring:list", "1")
    with pytest.raises(StoreAway, match="WRONGTYPE"):
        await store.take("list", 5)
    await store.set("list", b"v", 60)
    assert await store.get("list") == b"v"
    await store.close()


# --- how much it answers --------------------------------------------------------------------------

LIMITS: Any = {"cache_max_value_bytes": 1000, "cache_max_input_bytes": 2000}


async def test_a_value_larger_than_any_of_ours_is_not_read(server: RedisServer) -> None:
    """It is a miss, and makes room for ours."""

    store = store_at(server.url, **LIMITS)
    with server.client() as client:
        client.setrange("scoring:large", 100_000_000, b"x")
        sent = int(client.info("stats")["total_net_output_bytes"])
        assert await store.get("large") is None
        assert await store.take("large", 5) is None
        assert int(client.info("stats")["total_net_output_bytes"]) - sent < 1_000_000
        assert client.get("scoring:large") == BUSY
    await store.set("large", bytes(2000), 60)
    assert await store.get("large") == bytes(2000)
    await store.close()


def test_a_reply_that_is_announced_too_large_is_refused_before_it_is_read() -> None:
    """By something that only speaks like Redis: 512 MB, of which it does not get to send 64."""
    sent = 0

    def serve(listener: socket.socket) -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(b"%0\r\n" + b"+OK\r\n" * 2 + b"$536870912\r\n")
                while sent < 512 << 20:
                    sent += connection.send(bytes(1 << 20))
            except OSError:
                pass

    async def scenario(port: int) -> None:
        store = store_at(f"redis://127.0.0.1:{port}", **LIMITS)
        with pytest.raises(StoreAway):
            await store.take("k", 5)
        await store.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        asyncio.run(scenario(listener.getsockname()[1]))
        thread.join(60)
    assert 0 < sent < 64 << 20


# --- how slow it is -------------------------------------------------------------------------------


async def test_a_slow_server_is_left_alone_until_it_is_quick_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each change, however long it lasts; whoever asks waits for the deadline only."""
    caplog.set_level(logging.INFO)

    with Proxy(server.port) as slow:
        store = store_at(slow.url.replace("//", f"//:{PASSWORD}@"), cache_timeout_ms=400)
        await store.set("k", b"v", 60)
        slow.delay = 0.6  # late each time, and yet it answers
        for _ in range(100):
            if not store.is_open:
                break
            with pytest.raises(StoreAway):
                await store.get("k")
        assert not store.is_open
        await asyncio.sleep(4)  # it would have answered probes
        assert not store.is_open
        slow.delay = 0
        for _ in range(1800):
            await asyncio.sleep(0.1)
            if store.is_open:
                break
        assert await store.get("k") == b"v"
        await store.close()

    lines = [each for each in caplog.messages if each.startswith("The cache")]
    assert [line.split("(")[0] for line in lines] == [
        "The cache does not answer ",
        "The cache answers again.",
    ]
    assert PASSWORD not in caplog.text


# --- where it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://host/1",
        "redis+cluster://",
        "redis://",
        "redis://host:0",
        "redis://host:99999",
        "redis://[::1",
        " redis://host",
        "redis://:12#hunter2@host",
        "redis://host?no_such_option=1",
        "redis://host?socket_timeout=soon",
        "http://host",
        "host:6380,password=hunter2,ssl=True",
    ],
)
def test_what_is_no_url_of_redis_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CACHE_URL") as refused:
        store_at(url)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "REDIS://Host:6379/",
        "redis://host:6379/15?socket_timeout=1.5",
        "rediss://user:p%23ss@host.redis.cache.windows.net:6380/0?ssl_cert_reqs=none",
        "redis://:p@ss:word@10.0.0.1",
        "redis://[::1]:6379/0",
        "redis+cluster://host",
        "redis+cluster://host:6380/0",
        "unix:///run/redis.sock?db=1",
        "unix://user:pw@/run/redis.sock",
    ],
)
def test_a_url_of_redis_is_taken(url: str) -> None:
    assert store_at(url).is_open


@pytest.mark.parametrize("host", ["redis://host", "host:6380", "host:6380,password=hunter2", "a b"])
def test_what_is_no_host_is_refused_and_not_shown(host: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_HOST") as refused:
        RedisStore(Settings(redis_host=host))
    assert PASSWORD not in str(refused.value)
