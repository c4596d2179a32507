"""200 clients at once: every answer arrives, and each is the answer to its own request."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.hosts.standalone import StandaloneHost

CLIENTS = 200
SYNC = "def init(): pass\ndef run(data): return {'value': data}"
ASYNC = (
    "import asyncio\ndef init(): pass\n"
    "async def run(data):\n    await asyncio.sleep(0.001)\n    return {'value': data}"
)


class Client(asyncio.Protocol):
    """One connection that sends a request as soon as the last is answered, until told to stop.

    Every request has its own value and id; the answer must have the same.
    """

    def __init__(self, number: int, until: float) -> None:
        self.answered = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._number, self._until = number, until
        self._random = random.Random(number)
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._id = b"%d-%d" % (self._number, self.answered)
        padding = b"." * self._random.choice((0, 10, 100, 3000))
        self._value = self._id + padding
        self._transport.write(
            b"POST /score HTTP/1.1\r\nhost: a\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (self._id, len(self._value), self._value)
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(rest) < length:
            return
        self._buffer = b""
        wrong = (
            not head.startswith(b"HTTP/1.1 200 OK\r\n")
            or b"\r\nx-request-id: %b\r\n" % self._id not in head + b"\r\n"
            or rest != b'{"value":"%b"}' % self._value
        )
        if wrong:
            self._end(AssertionError(f"asked {self._id!r}, got {head!r} {rest!r}"))
            return
        self.answered += 1
        if self._loop.time() < self._until:
            self._send()
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(AssertionError(f"the connection of {self._id!r} was lost: {exc}"))

    def _end(self, error: Exception | None = None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)
            self._transport.close()


def load(host: StandaloneHost, seconds: float) -> list[int]:
    """How many answers each client has had, which all ask for that long; raises what the first of
    them complains about."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        clients = [Client(number, until) for number in range(CLIENTS)]

        async def connect(client: Client) -> None:
            await loop.create_connection(lambda: client, "127.0.0.1", host.port)

        await asyncio.gather(*map(connect, clients))
        await asyncio.wait_for(asyncio.gather(*(each.done for each in clients)), seconds + 30)
        return [each.answered for each in clients]

    return asyncio.run(main())


WAYS = [
    ("two workers", SYNC, ("--workers", "2"), {}),
    ("four threads", SYNC, (), {"SCORING_CONCURRENCY": "4"}),
    ("no deadline", SYNC, (), {"SCORING_TIMEOUT_MS": "0", "WORKER_TIMEOUT": "0"}),
    ("async run", ASYNC, (), {}),
]


@pytest.mark.parametrize("seconds", [1.5, pytest.param(30, marks=pytest.mark.long)])
def test_every_client_gets_every_answer_and_each_its_own(write_script, seconds):
    """All four hosts at the same time, each with 200 clients: none lost, none mixed up."""
    ways = {name: (write_script(source, f"{name}/score.py"), options, environ)
            for name, source, options, environ in WAYS}  # fmt: skip

    def loaded(name: str) -> tuple[list[int], int, str]:
        script, options, environ = ways[name]
        with StandaloneHost(script, *options, environ=environ) as host:
            return load(host, seconds), host.stop(), host.log

    with ThreadPoolExecutor(len(ways)) as executor:
        results = dict(zip(ways, executor.map(loaded, ways), strict=True))
    for name, (answers, code, log) in results.items():
        assert min(answers) > 0, name
        assert code == 0, name
        assert log.count("POST /score 200 ") == sum(answers), name
        assert "Traceback" not in log, name
