"""HTTP/1.1 of the standalone host, byte by byte, against a real process."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import httpx
import pytest
from uvicorn.server import ServerState

from scoring_runtime import Settings, build
from scoring_runtime.http.endpoint import create
from scoring_runtime.standalone.connection import HURRIED_SECONDS, KEEP_ALIVE_SECONDS, Shared
from scoring_runtime.standalone.http import HttpProtocol
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import on_a_loop, until

SCRIPTS = Path(__file__).parents[1] / "entry_scripts"
LIMIT = 100_000
MEGABYTE = 1024 * 1024
ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def host() -> Iterator[StandaloneHost]:
    """The raw script with the settings as they are."""
    with StandaloneHost(SCRIPTS / "standalone_raw.py") as running:
        yield running
    assert running.process.returncode == 0


@pytest.fixture(scope="module")
def small() -> Iterator[StandaloneHost]:
    """A text script with a low limit of the body."""
    environ = {"SCORING_MAX_BODY_BYTES": str(LIMIT)}
    with StandaloneHost(SCRIPTS / "standalone_text.py", environ=environ) as running:
        yield running
    assert running.process.returncode == 0
    assert "Traceback" not in running.log


class Reply(NamedTuple):
    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        assert self.headers["content-type"] == "application/json"
        text: str = self.json["message"]
        return text


class Wire:
    """A client that writes bytes as they are and reads replies strictly."""

    def __init__(self, host: StandaloneHost, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", host.port))
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, *data: bytes | str) -> None:
        for each in data:
            self.socket.sendall(each.encode("latin-1") if isinstance(each, str) else each)

    def request(self, head: str, body: bytes = b"", *lines: str) -> None:
        """``head`` is method and target; the content length is added."""
        host = "host: localhost"
        length = [f"content-length: {len(body)}"] if body else []
        self.send("\r\n".join([f"{head} HTTP/1.1", host, *length, *lines]) + "\r\n\r\n")
        self.send(body)

    def head(self) -> tuple[str, int, dict[str, str]]:
        line = self.file.readline()
        version, status, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (line := self.file.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), f"the head is cut: {line!r}"
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value.strip()
        return version, int(status), headers

    def chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self.file.readline(), 16)
            data = self.file.read(size)
            assert self.file.read(2) == b"\r\n"
            if not size:
                return
            yield data

    def reply(self, *, has_body: bool = True) -> Reply:
        version, status, headers = self.head()
        if not has_body or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            body = b"".join(self.chunks())
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
            assert len(body) == int(headers["content-length"])
        else:
            assert headers["connection"] == "close"
            body = self.file.read()
        return Reply(version, status, headers, body)

    @property
    def ended(self) -> bool:
        """Whether the server has closed the connection and sent nothing more."""
        with contextlib.suppress(ConnectionResetError):
            return self.file.read(1) == b""
        return True

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)


def exchange(host: StandaloneHost, *data: bytes | str) -> Reply:
    """One reply to these bytes, on a connection of its own."""
    with Wire(host) as wire:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            wire.send(*data)
        return wire.reply()


def serves(host: StandaloneHost) -> bool:
    return httpx.get(f"{host.url}/", timeout=20).text == "Healthy"


class Memory:
    """By how many bytes the process grew at most since this was made."""

    def __init__(self, host: StandaloneHost) -> None:
        self._folder = Path(f"/proc/{host.worker}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._before = self._peak()

    def _peak(self) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    @property
    def growth(self) -> int:
        return self._peak() - self._before


# --- connections ----------------------------------------------------------------------------------


def test_many_requests_on_one_connection(host):
    with Wire(host) as wire:
        for number in range(50):
            wire.request("POST /score?do=echo", b"%d" % number)
            reply = wire.reply()
            assert (reply.version, reply.status, reply.body) == ("HTTP/1.1", 200, b"%d" % number)
            assert "connection" not in reply.headers
            assert reply.headers["date"].endswith(" GMT")


@pytest.mark.parametrize("after", [b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"junk\0"])
def test_what_follows_connection_close_is_not_answered(host, after):
    with Wire(host) as wire:
        wire.send(
            b"POST /score HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            after,
        )
        assert wire.reply().body == b"ok"
        assert wire.ended


def test_a_hundred_pipelined_requests_are_answered_in_order(host):
    with Wire(host) as wire:
        for number in range(100):
            wire.request("POST /score?do=echo", b"%d" % number)
        assert [int(wire.reply().body) for _ in range(100)] == list(range(100))


def test_pipelined_requests_wait_for_a_slow_one_before_them(host):
    with Wire(host) as wire:
        wire.request("GET /score?do=sleep&seconds=0.2&name=slow")
        wire.request("GET /")
        wire.request("GET /nothing")
        wire.request("POST /score", b"fast", "connection: close")
        replies = [wire.reply() for _ in range(4)]
        assert wire.ended
    assert [each.headers.get("connection") for each in replies] == [None, None, None, "close"]
    assert [each.status for each in replies] == [200, 200, 404, 200]
    assert [replies[0].json, replies[1].body, replies[3].body] == ["slow", b"Healthy", b"fast"]


@pytest.mark.parametrize(
    "last",
    [b"NONSENSE\r\n\r\n", b"GET /score HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"y" * 9000)],
    ids=["not HTTP", "too long"],
)
def test_a_bad_request_behind_good_ones_is_refused_in_its_turn(host, last):
    """Only the last reply says that the connection closes."""
    with Wire(host) as wire:
        wire.request("GET /score?do=sleep&seconds=0.1&name=one")
        wire.request("POST /score", b"two")
        wire.send(last)
        replies = [wire.reply() for _ in range(3)]
        assert [each.status for each in replies] == [200, 200, 431 if b"yyy" in last else 400]
        closing = [each.headers.get("connection") for each in replies]
        assert closing == [None, None, "close"]
        wire.half_close()
        assert wire.ended


def test_a_flood_of_pipelined_requests_is_not_read_ahead_without_end(host):
    """A client that sends faster than it is answered is made to wait, and no memory filled."""
    memory = Memory(host)
    one = b"GET /score?do=sleep&seconds=0.01&name=%b HTTP/1.1\r\nhost: a\r\n\r\n" % (b"y" * 900)
    sent = 0
    with Wire(host) as wire:
        wire.socket.settimeout(0.2)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                sent += wire.socket.send(one * 100)
    assert sent < 20 * MEGABYTE
    assert memory.growth < 20 * MEGABYTE
    assert serves(host)


def test_answers_that_are_not_read_are_not_made_without_end(host):
    """100 answers of 1 MB, none of which the client reads: a few are made, then it waits."""
    memory = Memory(host)
    with Wire(host, receive_buffer=4096) as wire:
        for _ in range(100):
            wire.request(f"GET /score?do=big&size={MEGABYTE}")
        time.sleep(0.5)
        assert memory.growth < 40 * MEGABYTE
        for _ in range(100):
            assert len(wire.reply().body) == MEGABYTE
    assert memory.growth < 40 * MEGABYTE


@pytest.mark.parametrize("last", ["whole", "half"])
def test_a_client_that_closes_its_side_is_still_answered_and_then_let_go(host, last):
    with Wire(host) as wire:
        wire.request("GET /score?do=sleep&seconds=0.1&name=a")
        if last == "whole":
            wire.request("GET /score?do=sleep&seconds=0&name=b")
        else:
            wire.send(HALF)
        wire.half_close()
        wire.socket.settimeout(5)
        assert wire.reply().json == "a"
        assert last == "half" or wire.reply().json == "b"
        assert wire.ended


@pytest.mark.parametrize(
    ("line", "kept"), [("", False), ("Connection: keep-alive\r\n", True)], ids=["plain", "kept"]
)
def test_http_1_0(host, line, kept):
    """It closes unless the client asks to keep the connection, and then the reply says so."""
    with Wire(host) as wire:
        for _ in range(2 if kept else 1):
            wire.send(f"POST /score HTTP/1.0\r\n{line}Content-Length: 3\r\n\r\nold")
            reply = wire.reply()
            assert (reply.status, reply.body) == (200, b"old")
            assert reply.headers["connection"] == ("keep-alive" if kept else "close")
        if not kept:
            assert wire.ended


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(host):
    with Wire(host) as wire:
        wire.send("GET /score?do=stream&parts=3&size=2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = wire.reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.headers["connection"] == "close"
        assert reply.body == b"\0\0\1\1\2\2"
        assert wire.ended


def test_an_upgrade_is_ignored_and_the_connection_goes_on(host):
    """Java's client offers h2c with its first request, and then goes on with HTTP/1.1."""
    with Wire(host) as wire:
        for number in range(3):
            wire.request(
                "POST /score",
                b"body %d" % number,
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
            )
        wire.request("GET /", b"", "Connection: Upgrade", "Upgrade: websocket")
        wire.request("POST /score", b"after")
        bodies = [wire.reply().body for _ in range(5)]
    assert bodies == [b"body 0", b"body 1", b"body 2", b"Healthy", b"after"]


class Counting(HttpProtocol):
    """It knows how much it was given."""

    came = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.came += len(data)


class Local:
    """The protocol on a socket of this process, so that its clock and shutdown can be given."""

    def __init__(self, **settings: Any) -> None:
        script = str(SCRIPTS / "standalone_raw.py")
        self._settings = Settings(entry_script=script, app_root=str(SCRIPTS), **settings)

    async def __aenter__(self) -> Self:
        self._runtime = build(self._settings)
        self._runtime.start()
        await self._runtime.started()
        handle = create(self._runtime)[1]
        self.shared, self.state = Shared(self._runtime, handle), cast("Any", ServerState())
        loop = asyncio.get_running_loop()
        self.protocols: list[Counting] = []

        def protocol() -> HttpProtocol:
            self.protocols.append(Counting(self.shared, self.state, loop))
            return self.protocols[-1]

        self._server = await loop.create_server(protocol, "127.0.0.1", 0)
        self._writers: list[asyncio.StreamWriter] = []
        return self

    async def connect(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        writer.write(data)
        read = min(len(data), 1024)  # of a flood no more may be
        async with asyncio.timeout(20):
            while len(self.protocols) < len(self._writers) or self.protocols[-1].came < read:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        return reader, writer

    async def pass_time(self, seconds: float) -> None:
        """Let the connections look at their clock so much later, once what was sent is read."""
        await asyncio.sleep(0.05)
        self.shared.now += seconds
        for protocol in self.protocols:
            if protocol in self.state.connections:
                protocol.look(self.shared.now)
        await asyncio.sleep(0.05)

    @property
    def in_flight(self) -> int:
        """Bytes of bodies that the protocol counts."""
        most: int = self._settings.max_bytes_in_flight
        return most - self.shared.room

    async def asked(self, target: str) -> bytes:
        """The whole answer to a GET on a connection of its own."""
        lines = b"GET %b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" % target.encode()
        return await (await self.connect(lines))[0].read()

    async def __aexit__(self, *exc_info: object) -> None:
        for writer in self._writers:
            writer.close()
        self._server.close()
        await self._server.wait_closed()
        await self._runtime.stop()


BUSY = b"GET /score?do=sleep&seconds=0.3&name=busy HTTP/1.1\r\nhost: a\r\n\r\n"
HALF = b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nha"


@on_a_loop
async def test_shutdown_closes_idle_connections_and_the_others_after_their_answer():
    async with Local() as local:
        idle, busy = await local.connect(b""), await local.connect(BUSY)
        head, body = await local.connect(HALF[:10]), await local.connect(HALF)
        for protocol in local.protocols:
            protocol.shutdown()
        assert await idle[0].read() == b""
        head[1].write(HALF[10:] + b"lf")
        body[1].write(b"lf")
        for connection, end in ((busy, b'"busy"'), (head, b"half"), (body, b"half")):
            answer = await connection[0].read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close\r\n" in answer
            assert answer.endswith(end)


@on_a_loop
async def test_connections_without_a_request_are_closed_after_the_keep_alive_time():
    """Those that are being answered, or send a request, are not."""
    async with Local(idle_timeout_seconds=1000.0) as local:
        idle, head = await local.connect(b""), await local.connect(HALF[:10])
        busy, body = await local.connect(BUSY), await local.connect(HALF)
        await local.pass_time(KEEP_ALIVE_SECONDS - 5)
        assert not idle[0].at_eof()
        await local.pass_time(10)
        assert await idle[0].read() == b""
        head[1].write(HALF[10:] + b"lf")
        body[1].write(b"lf")
        for connection, end in ((busy, b'"busy"'), (body, b"half"), (head, b"half")):
            answer = await connection[0].readuntil(end)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"connection: close" not in answer


CHUNKS = b"POST /score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def is_408(answer: bytes, text: bytes) -> bool:
    return (
        answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        and b"connection: close\r\n" in answer
        and b'{"message":"%b' % text in answer
    )


@pytest.mark.parametrize(
    ("begin", "on"),
    [
        (b"P", b"O"),
        (HALF[:10], HALF[10:11]),
        (HALF[:-2], b"h"),
        (HALF, b"l"),
        (CHUNKS, b"2"),
        (CHUNKS + b"2;x", b"y"),
        (CHUNKS + b"2\r\nab\r\n0\r\nx", b":"),
        (BUSY + HALF[:10], HALF[10:11]),
        (BUSY + HALF, b"l"),
    ],
)
@on_a_loop
async def test_a_request_of_which_no_byte_comes_for_the_idle_time_is_408(begin, on):
    """In its head, body, chunk sizes and trailers, pipelined or not; what came is let go."""
    async with Local(idle_timeout_seconds=60.0) as local:
        reader, writer = await local.connect(begin)
        await local.pass_time(1)
        await local.pass_time(30)
        writer.write(on)
        await local.pass_time(20)
        await local.pass_time(9)
        assert not reader.at_eof()
        await local.pass_time(52)
        answer = await reader.read()
        if begin.startswith(BUSY):
            first, busy, answer = answer.partition(b'"busy"')
            assert busy and first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert is_408(
            answer, b"No byte of a request came for 60 seconds (SCORING_IDLE_TIMEOUT_SECONDS)."
        )
        assert local.in_flight == 0


@pytest.mark.parametrize(
    ("size", "seconds", "survives"), [(1, 3, False), (480, 1, False), (520, 1, True)]
)
@on_a_loop
async def test_a_request_is_to_come_at_a_least_rate(size, seconds, survives):
    """500 bytes a second on the whole, the first 60 seconds apart: a drip holds no place."""
    async with Local(idle_timeout_seconds=60.0) as local:
        length = 1_000_000
        head = b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % length
        reader, _ = await local.connect(head)
        [protocol] = local.protocols
        for moment in range(0, 1800, seconds):
            protocol.look(float(moment))
            if not survives or moment >= 60:
                protocol.data_received(bytes(size * seconds))
        if survives:
            protocol.data_received(bytes(length))
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        else:
            slow = b"A request came with less than 500 bytes per second"
            assert is_408(await reader.read(), slow)


@pytest.mark.parametrize(
    "target",
    ["/score?do=big&size=30000000", "/score?do=stream&parts=1000000&size=100000"],
    ids=["whole", "streamed"],
)
@on_a_loop
async def test_an_answer_that_is_not_read_is_ended_and_its_stream_closed(target):
    """One that is read, however slowly, is not; nothing waits behind it for ever."""
    async with Local(idle_timeout_seconds=60.0) as local:
        asked = b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % target.encode()
        slow, _ = await local.connect(asked + BUSY)
        await local.pass_time(1)
        for _ in range(5):
            await slow.readexactly(1_000_000)
            await local.pass_time(50)
        assert local.protocols[0] in local.state.connections
        for _ in range(100):  # what was on its way may have moved meanwhile
            await local.pass_time(11)
            await asyncio.sleep(0.02)
            if local.protocols[0] not in local.state.connections:
                break
        assert local.protocols[0] not in local.state.connections
        with contextlib.suppress(ConnectionResetError):
            await slow.read()
        if "stream" in target:
            while b'"closed":1' not in await local.asked("/score?do=counts"):
                await asyncio.sleep(0.05)
        while local.state.tasks:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@on_a_loop
async def test_a_stream_that_nobody_gets_is_closed(method):
    """Of HEAD, and of a client that has left while run() made it."""
    async with Local() as local:
        target = b"/score?do=stream&parts=5&size=5"
        lines = b"%b %b HTTP/1.1\r\nhost: a\r\n\r\n" % (method.encode(), target)
        if method == "HEAD":
            _, writer = await local.connect(lines)
        else:
            await local.connect(BUSY)
            _, writer = await local.connect(lines)
            writer.transport.abort()
        answer = b""
        while b'"closed":0' not in answer:  # it was not begun, so there is nothing to end
            answer = await local.asked("/score?do=counts")
        while local.state.tasks:
            await asyncio.sleep(0.05)


@on_a_loop
async def test_while_the_loop_is_held_up_no_client_is_idle(monkeypatch):
    """A run() that keeps Python busy for two minutes lets nothing be read meanwhile."""
    async with Local(idle_timeout_seconds=60.0) as local:
        reader, writer = await local.connect(HALF)
        local.shared.sweep(local.state.connections)
        monkeypatch.setattr(local.shared, "_swept", time.monotonic() - 120)
        local.shared.sweep(local.state.connections)
        writer.write(b"lf")
        assert (await reader.readuntil(b"half")).startswith(b"HTTP/1.1 200 OK\r\n")


@on_a_loop
async def test_bodies_in_flight_are_counted_until_they_are_answered_or_lost():
    async with Local(max_bytes_in_flight=3000, max_body_bytes=1000) as local:
        whole = b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
        slow = whole % b"/score?do=sleep&seconds=0.5&name=slow" + bytes(1000)
        scoring, _ = await local.connect(slow + whole % b"/score" + bytes(1000))  # one waits
        _, uploading = await local.connect(whole % b"/score" + bytes(900))
        assert local.in_flight == 2900
        refused = await local.connect(whole % b"/score" + bytes(101))
        answer = await refused[0].readuntil(b"(SCORING_MAX_BYTES_IN_FLIGHT)")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert b"Healthy" in await local.asked("/")
        assert (await scoring.readuntil(b'"slow"')).startswith(b"HTTP/1.1 200 OK\r\n")
        uploading.transport.abort()
        while local.in_flight:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("what", ["turns", "body"])
@on_a_loop
async def test_what_a_lost_connection_held_is_no_longer_in_flight(what):
    async with Local() as local:
        more = HALF if what == "body" else (HALF + b"lf") * 3
        _, writer = await local.connect(BUSY + more)
        assert local.in_flight == (2 if what == "body" else 12)
        writer.transport.abort()
        while local.in_flight:
            await asyncio.sleep(0.05)


@on_a_loop
async def test_above_the_bound_of_connections_health_is_answered_and_all_else_is_503():
    """The first are served on; of those above it, silent ones give way to the next."""
    async with Local(max_connections=3) as local:
        first = [await local.connect(HALF) for _ in range(3)]
        silent = [await local.connect(b"") for _ in range(40)]
        for path in ("/", "/health/live", "/health/ready"):
            assert (await local.asked(path)).startswith(b"HTTP/1.1 200 OK\r\n")
        reader, _ = await local.connect(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"\r\nconnection: close\r\n" in await reader.read()
        answer = await local.asked("/score")
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert b"(SCORING_MAX_CONNECTIONS, ulimit -n). Try again later." in answer
        await local.pass_time(HURRIED_SECONDS + 1)
        for reader, _ in silent:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        for reader, writer in first:
            writer.write(b"lf")
            assert (await reader.readuntil(b"half")).startswith(b"HTTP/1.1 200 OK\r\n")


@on_a_loop
async def test_connections_that_wait_for_a_request_make_room_for_others():
    async with Local(max_connections=8) as local:
        waiting = []
        for _ in range(8):
            waiting.append(await local.connect(b""))
            await local.pass_time(1)
        local.shared.sweep(local.state.connections)
        assert await waiting[0][0].read() == b""  # the one that has waited longest
        assert len(local.state.connections) == 7
        reader, _ = await local.connect(HALF + b"lf")
        assert (await reader.readuntil(b"half")).startswith(b"HTTP/1.1 200 OK\r\n")


STUCK = 290


@pytest.mark.parametrize("data", [b"", HALF])
def test_with_few_descriptors_stuck_connections_do_not_shut_out_health(data):
    """300 open files, 290 connections; the log says so once, not 290 times."""
    with StandaloneHost(SCRIPTS / "standalone_raw.py", descriptors=300) as host:
        with contextlib.ExitStack() as stack:
            for _ in range(STUCK):
                wire = stack.enter_context(Wire(host))
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    wire.send(data)
            for _ in range(3):
                assert exchange(host, LIVE).json == {"state": "Healthy"}
            until(lambda: "There are too many connections" in host.log)
            assert exchange(host, LIVE).json == {"state": "Healthy"}
        until(lambda: exchange(host, HALF + b"lf").status == 200)
    assert 1 <= host.log.count("There are too many connections") <= 2
    assert "Traceback" not in host.log


LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


def test_sigterm_waits_for_good_requests_and_not_for_those_that_stand_still():
    environ = {"SCORING_SHUTDOWN_SECONDS": "600"}
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(StandaloneHost(SCRIPTS / "standalone_raw.py", environ=environ))
        stuck = [stack.enter_context(Wire(host, receive_buffer=4096)) for _ in range(4)]
        stuck[0].send(HALF)
        stuck[1].send(HALF[:10])
        stuck[2].request("GET /score?do=big&size=30000000")
        stuck[3].request("GET /score?do=stream&parts=1000000&size=100000")
        stuck[3].head()
        good = stack.enter_context(Wire(host))
        good.request("GET /score?do=sleep&seconds=6&name=good")
        body = stack.enter_context(Wire(host))
        body.send(
            b"POST /score?do=echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert body.file.readline() == b"HTTP/1.1 100 Continue\r\n"  # both have been accepted
        assert body.file.readline() == b"\r\n"
        host.process.terminate()
        for _ in range(3):  # it goes on, if slowly
            time.sleep(HURRIED_SECONDS / 8)
            body.send(b"x")
        assert good.reply().json == "good"
        assert body.reply().body == b"xxx"
        assert host.process.wait(60) == 0


# --- requests -------------------------------------------------------------------------------------


def test_a_request_sent_byte_by_byte(host):
    whole = b"POST /score?do=echo HTTP/1.1\r\nHost: a\r\nContent-Length: 256\r\n\r\n" + ALL_BYTES
    with Wire(host) as wire:
        for byte in whole:
            wire.send(bytes([byte]))
        assert wire.reply().body == ALL_BYTES


@pytest.mark.parametrize("size", [1, 7, 255, 4096])
def test_chunked_uploads_of_every_split(host, size):
    """Chunks of ``size``, sent in pieces that never end where a chunk does."""
    body = ALL_BYTES * 20
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    coded = b"".join(b"%X;name=value\r\n%b\r\n" % (len(part), part) for part in parts)
    coded = (
        b"POST /score HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
        + coded
        + b"0\r\n\r\n"
    )
    with Wire(host) as wire:
        step = max(5, len(coded) // 50)
        for at in range(0, len(coded), step):
            wire.send(coded[at : at + step])
        assert wire.reply().body == body
        wire.request("GET /")
        assert wire.reply().body == b"Healthy"


def test_50_megabytes_of_every_byte_survive_both_ways(host):
    body = (ALL_BYTES * 4096) * 50
    reply = httpx.post(f"{host.url}/score", content=body, timeout=60)
    assert reply.status_code == 200
    assert hashlib.sha256(reply.content).digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "head",
    ["", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"],
    ids=["nothing", "length 0", "no chunk"],
)
def test_an_empty_body(host, head):
    end = "0\r\n\r\n" if "chunked" in head else ""
    reply = exchange(host, f"POST /score?do=echo HTTP/1.1\r\nhost: a\r\n{head}\r\n{end}")
    assert (reply.status, reply.headers["content-length"], reply.body) == (200, "0", b"")


def test_head_has_the_headers_and_no_body(host):
    with Wire(host) as wire:
        for target, length in (("/", "7"), ("/score?do=big&size=1000", "1000"), ("/x", None)):
            wire.request(f"HEAD {target}")
            reply = wire.reply(has_body=False)
            assert reply.status == (404 if target == "/x" else 200)
            assert length in (None, reply.headers["content-length"])
        wire.request("HEAD /score?do=stream&parts=3&size=9")
        reply = wire.reply(has_body=False)
        assert reply.headers["transfer-encoding"] == "chunked"
        wire.request("POST /score", b"next")
        assert wire.reply().body == b"next"


def test_expect_100_continue(host, small):
    """The client is told to go on before it sends its body, unless that is refused at once."""
    expects = ("Content-Length: 4", "Expect: 100-Continue")
    with Wire(host) as wire:
        for more in ((), ("Connection: upgrade", "Upgrade: h2c")):
            wire.request("POST /score", b"", *expects, *more)
            assert wire.file.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert wire.file.readline() == b"\r\n"
            wire.send("body")
            assert wire.reply().body == b"body"
    with Wire(small) as wire:
        wire.request("POST /score", b"", f"Content-Length: {LIMIT + 1}", expects[1])
        assert wire.reply().status == 413
    # RFC 9110 §10.1.1: an expectation in an HTTP/1.0 request is ignored.
    head = "POST /score HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    assert exchange(host, head, "body").body == b"body"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "lines", ["", "host: a\r\n", "host:\r\n", "host: a\r\nx: y\r\nHOST: a\r\n"]
)
def test_http_1_1_has_one_host_line_and_http_1_0_at_most_one(host, version, lines):
    """RFC 9112 §3.2: anything else is 400, and nothing behind it is answered."""
    count = lines.lower().count("host")
    with Wire(host) as wire:
        wire.send(f"POST /score HTTP/{version}\r\n{lines}content-length: 2\r\n\r\nok")
        wire.send(SMUGGLED)
        reply = wire.reply()
        if count == 1 or (count == 0 and version == "1.0"):
            assert (reply.status, reply.body) == (200, b"ok")
        else:
            assert reply.status == 400
            assert reply.message == f"A request has one Host header line; this one has {count}."
            wire.half_close()
            assert wire.ended


@pytest.mark.parametrize(
    ("target", "args"),
    [
        ("/s%63ore?do=describe", {}),
        ("HTTP://somewhere.example:8080/score?do=describe&a=1", {"a": ["1"]}),
        ("//score?do=describe", {}),
        ("/score?do=describe&a=%C3%A4&a=%20&b", {"a": ["ä", " "], "b": [""]}),
        ("/score?do=describe#fragment", {}),
    ],
)
def test_targets(host, target, args):
    seen = exchange(host, f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").json
    assert (seen["path"], seen["args"]) == ("/score", {"do": ["describe"], **args})


@pytest.mark.parametrize(
    "target", ["*", "/score%2f", "/score%00", "/../score", "/%zz", "/a" * 2000, "http://a", "/%ff"]
)
def test_targets_that_are_none_of_ours_are_404_or_health(host, target):
    reply = exchange(host, f"OPTIONS {target} HTTP/1.1\r\nhost: a\r\n\r\n")
    assert reply.status == (200 if target == "http://a" else 404)


def test_trailers_do_not_pass_for_headers(host):
    with Wire(host) as wire:
        for _ in range(2):
            wire.send(
                "POST /score?do=describe HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n"
                "Trailer: X-User\r\n\r\n1\r\na\r\n0\r\nX-User: admin\r\n"
                "X-Request-Id: forged\r\n\r\n"
            )
            reply = wire.reply()
            assert reply.json["length"] == 1
            assert not {"X-User", "X-Request-Id"} & set(reply.json["headers"])
            assert "Trailer" in reply.json["headers"]
            assert reply.headers["x-request-id"] != "forged"


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("coded", [False, True], ids=["with a length", "chunked"])
def test_a_body_of_exactly_the_limit_is_scored_and_one_byte_more_is_413(small, coded):
    """Before it is read, where its length is said."""
    head = "POST /score HTTP/1.1\r\nhost: a\r\nx-request-id: big\r\n"
    with Wire(small) as wire:
        for size in (LIMIT, LIMIT + 1):
            body = b"x" * size
            if coded:
                wire.send(f"{head}transfer-encoding: chunked\r\n\r\n", b"%x\r\n%b" % (size, body))
            else:
                wire.send(f"{head}content-length: {size}\r\n\r\n")
            if size == LIMIT:
                wire.send(b"\r\n0\r\n\r\n" if coded else body)
                assert wire.reply().json == LIMIT
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert reply.message == f"The body is larger than {LIMIT} bytes (SCORING_MAX_BODY_BYTES)."
        assert reply.headers["x-request-id"] == "big"


@pytest.mark.parametrize("coded", [False, True], ids=["with a length", "chunked"])
def test_memory_does_not_grow_by_a_body_that_is_refused(small, coded):
    memory = Memory(small)
    part = b"x" * MEGABYTE
    with Wire(small) as wire, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        if coded:
            wire.send("POST /score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        else:
            wire.send(
                f"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: {200 * MEGABYTE}\r\n\r\n"
            )
        for _ in range(200):
            wire.send(b"%x\r\n%b\r\n" % (MEGABYTE, part) if coded else part)
        assert wire.reply().status == 413
    assert memory.growth < 15 * MEGABYTE
    assert serves(small)


def test_a_bomb_is_413_and_does_not_explode(small):
    memory = Memory(small)
    bomb = gzip.compress(gzip.compress(bytes(200 * MEGABYTE)))
    assert len(bomb) < LIMIT
    coded = {"content-encoding": "gzip, gzip"}
    reply = httpx.post(f"{small.url}/score", content=bomb, headers=coded, timeout=30)
    assert reply.status_code == 413
    assert "once decompressed (SCORING_MAX_BODY_BYTES)" in reply.json()["message"]
    assert memory.growth < 15 * MEGABYTE


GET = "GET /%s HTTP/1.1\r\nhost: a\r\n%s\r\n"


@pytest.mark.parametrize(
    ("path", "lines", "status", "text"),
    [
        ("", f"x: {'y' * 8300}\r\n", 431, "A header line has more than 8190"),
        ("", f"{'x' * 8300}: y\r\n", 431, "A header line has more than 8190"),
        ("", "x: y\r\n" * 101, 431, "there are more than 100 of them"),
        ("a" * 4100, "", 414, "The request line is longer than 4094"),
        (f"?{'a' * 70000}", "", 414, "The request line is longer than 4094"),
        ("", f"x: {'y' * 8100}\r\n", 200, ""),
        ("", "x: y\r\n" * 99, 200, ""),
        (f"?{'a' * 4000}", "", 200, ""),
    ],
    ids=["value", "name", "count", "path", "query", "small value", "fewer", "shorter query"],
)
def test_heads_that_are_too_large(host, path, lines, status, text):
    """Row 43 of the contract; those that are just small enough are answered."""
    reply = exchange(host, GET % (path, lines))
    assert reply.status == status
    assert reply.body == b"Healthy" if status == 200 else text in reply.message
    assert serves(host)


CHUNKED = b"POST /score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"


@pytest.mark.parametrize(
    ("begin", "on", "status"),
    [
        (b"GET /", b"a" * 1000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: ", b"a" * 1000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n", b"a" * 1000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n", b"a: b\r\n" * 200, 431),
        (CHUNKED + b"x: ", b"a" * 1000, 431),
        (CHUNKED, b"a: b\r\n" * 200, 431),
        (b"", b"A" * 1000, 400),
    ],
    ids=["target", "value", "name", "lines", "trailer", "trailers", "method"],
)
def test_a_head_without_an_end_is_cut(host, begin, on, status):
    """The connection is not fed for ever, nor memory filled."""
    memory = Memory(host)
    with Wire(host) as wire:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            wire.send(begin)
            for _ in range(5000):
                wire.send(on)
        assert wire.reply().status == status
        with contextlib.suppress(OSError):
            wire.half_close()
        assert wire.ended
    assert memory.growth < 15 * MEGABYTE
    assert serves(host)


def test_a_refused_client_that_stays_is_let_go(host):
    """It has a moment to read why; then the connection is closed from this side."""
    with Wire(host) as wire:
        wire.send("NONSENSE\r\n\r\n")
        assert wire.reply().status == 400
        wire.socket.settimeout(10)
        assert wire.ended


# --- what is not HTTP -----------------------------------------------------------------------------


POST = b"POST /score HTTP/1.1\r\nhost: a\r\n%b\r\n\r\n%b"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xe4 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nname : space before colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\nx: y\n\n",
        POST % (b"content-length: +1", b"1"),
        POST % (b"content-length: 99999999999999999999999", b"1"),
        POST % (b"transfer-encoding: chunked", b"-1\r\na\r\n"),
        POST % (b"transfer-encoding: chunked", b"F" * 17 + b"\r\n"),
    ],
)
def test_what_is_not_http_is_400(host, data):
    reply = exchange(host, data)
    assert (reply.status, reply.headers["connection"]) == (400, "close")
    assert reply.message == "This is not an HTTP request."
    assert serves(host)


SMUGGLED = b"GET /score?do=sleep&seconds=0&name=smuggled HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: 0\r\ncontent-length: 0\r\n",
        b"content-length: 0\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 0\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: identity\r\ncontent-length: 0\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"content-length: 0, 0\r\n",
        b"x: y\rtransfer-encoding: chunked\r\n",
    ],
)
def test_requests_of_two_lengths_are_refused_and_nothing_behind_them_is_answered(host, lines):
    """A proxy before this host may see another end of the body: nothing may follow it."""
    with Wire(host) as wire:
        wire.send(b"POST /score?do=describe HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n", SMUGGLED)
        assert wire.reply().status == 400
        wire.half_close()
        assert wire.ended


# --- clients that leave ---------------------------------------------------------------------------


def open_files(host: StandaloneHost) -> int:
    return len(list(Path(f"/proc/{host.worker}/fd").iterdir()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST /sco",
        b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf",
        b"POST /score HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"GET /score?do=sleep&seconds=0.02 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /score?do=big&size=9000000 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /score?do=stream&parts=1000&size=100000 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /score?do=sleep&seconds=0.02 HTTP/1.1\r\nhost: a\r\n\r\n" * 10,
        b"junk\r\n\r\n",
    ],
    ids=["nothing", "head", "body", "chunk", "run", "answer", "stream", "pipelined", "refused"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_leave_harm_nobody(host, data, reset):
    """No error is logged, no file stays open, and others are served."""
    before, log = open_files(host), host.log
    for number in range(5):
        with Wire(host) as wire:
            wire.send(data)
            if number % 2:
                time.sleep(0.03)
            if reset:
                linger = b"\1\0\0\0\0\0\0\0"
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert httpx.post(f"{host.url}/score", content=b"served", timeout=20).content == b"served"
    until(lambda: open_files(host) <= before)
    added = host.log.removeprefix(log)
    assert "Traceback" not in added
    assert " E [" not in added
    assert " W [" not in added


# --- streams --------------------------------------------------------------------------------------


def asked(host: StandaloneHost, do: str) -> Any:
    return httpx.get(f"{host.url}/score?do={do}", timeout=20).json()


def test_the_parts_of_a_stream_arrive_as_they_are_made(host, tmp_path):
    """The first part is here while the script still waits to make the second."""
    go_on = tmp_path / "go-on"
    with Wire(host) as wire:
        wire.request(f"GET /score?do=stream&parts=2&size=3&then=wait&file={go_on}")
        _, status, headers = wire.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert "content-length" not in headers
        chunks = wire.chunks()
        assert next(chunks) == bytes(3)
        go_on.touch()
        assert list(chunks) == [bytes([1]) * 3]
        wire.request("POST /score", b"next")
        assert wire.reply().body == b"next"


def test_a_slow_reader_of_100_megabytes_does_not_fill_the_memory(host):
    """The script makes parts only as fast as they are read, and others are served meanwhile."""
    memory = Memory(host)
    with Wire(host, receive_buffer=65536) as wire:
        wire.request("GET /score?do=stream&parts=1000&size=100000")
        wire.head()
        for number in range(20):  # between two parts the scoring thread does what else waits
            content = b"%d" % number
            assert httpx.post(f"{host.url}/score", content=content).content == content
        time.sleep(0.3)
        made = asked(host, "counts")["parts"]
        assert 0 < made < 300
        time.sleep(0.2)
        assert asked(host, "counts")["parts"] == made
        chunks = list(wire.chunks())
        assert len(chunks) == 1000
        assert all(chunk == bytes([n % 256]) * 100_000 for n, chunk in enumerate(chunks))
    assert asked(host, "counts") == {"parts": 1000, "closed": 1}
    assert memory.growth < 30 * MEGABYTE


def test_a_stream_whose_reader_leaves_is_closed(host):
    with Wire(host, receive_buffer=4096) as wire:
        wire.request("GET /score?do=stream&parts=100000&size=100000")
        wire.head()
        assert asked(host, "counts")["closed"] == 0
    until(lambda: asked(host, "counts")["closed"] == 1)
    assert asked(host, "counts")["parts"] < 300


@pytest.mark.parametrize("then", ["fail", "exit"])
def test_a_stream_that_fails_half_way_is_cut_so_that_the_client_can_tell(host, then):
    """There is no last chunk: the answer must not pass for a whole one."""
    failures = host.log.count("Encountered Exception")
    with Wire(host) as wire:
        wire.request(f"GET /score?do=stream&parts=3&size=4&then={then}")
        wire.head()
        rest = wire.file.read()
    assert rest in (b"4\r\n" + bytes(4) + b"\r\n", b"")
    assert host.log.count("Encountered Exception") == failures + 1
    assert httpx.post(f"{host.url}/score", content=b"served", timeout=20).content == b"served"


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", ["", "&streamed"], ids=["whole", "streamed"])
@pytest.mark.parametrize("code", [200, 204, 304, 599])
def test_replies_of_every_status_can_be_told_from_the_next(host, code, streamed):
    """204 and 304 have no body and no length; a status that has no name is sent too."""
    with Wire(host) as wire:
        for _ in range(2):
            wire.request(f"GET /score?do=status&code={code}{streamed}")
            reply = wire.reply()
            assert reply.status == code
            if code in (204, 304):
                assert not {"content-length", "transfer-encoding"} & set(reply.headers)
            else:
                assert reply.body == (b"part" if streamed else b"whole")
        wire.request("POST /score", b"next")
        assert wire.reply().body == b"next"
