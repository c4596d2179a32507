"""TLS of the standalone host: with real clients, certificates of clients, and files renewed."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from scoring_runtime import Settings
from scoring_runtime.errors import ConfigurationError
from scoring_runtime.standalone.tls import tls_of
from tests.conftest import WriteScript
from tests.hosts.certificates import Authority
from tests.hosts.standalone import StandaloneHost, free_port
from tests.hosts.waiting import until

RAW = """
from scoring_runtime import rawhttp, AMLResponse
def init(): pass
@rawhttp
def run(request):
    if request.args.get("large"):
        return AMLResponse(b"x" * 5_000_000, 200)
    return [request.url, len(request.get_data())]
"""
DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text()
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


class SecureHost(StandaloneHost):
    """The host with TLS, asked by a client that trusts an authority."""

    def __init__(
        self,
        script: Path,
        authority: Authority,
        environ: Mapping[str, str],
        client: tuple[Path, Path] | None = None,
        descriptors: int = 0,
    ) -> None:
        super().__init__(script, environ=environ, descriptors=descriptors)
        self.url = self.url.replace("http:", "https:")
        self.trust = ssl.create_default_context(cafile=str(authority.path))
        if client is not None:
            self.trust.load_cert_chain(*client)

    def wait_ready(self) -> None:
        until(self._is_ready, seconds=60)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url, verify=self.trust).status_code == 200
        return False

    def wire(self) -> ssl.SSLSocket:
        """A connection of its own."""
        plain = socket.create_connection(("127.0.0.1", self.port), 30)
        return self.trust.wrap_socket(plain, server_hostname="127.0.0.1")

    def served(self) -> bytes:
        """The certificate that it shows now."""
        with self.wire() as wire:
            return wire.getpeercert(binary_form=True) or b""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def tls(pair: tuple[Path, Path]) -> dict[str, str]:
    return {"SCORING_TLS_CERT": str(pair[0]), "SCORING_TLS_KEY": str(pair[1])}


@WORKERS
def test_clients_speak_https_and_nothing_older_than_tls_1_2(
    write_script: WriteScript, authority: Authority, workers: str
) -> None:
    """The script knows the scheme; large bodies pass both ways; connections are kept."""
    environ = {**tls(authority.issue("server")), "WORKER_COUNT": workers}
    with SecureHost(write_script(RAW), authority, environ) as host:
        assert f"{host.url}/score\n" in host.log
        assert "without a key and with TLS\n" in host.log
        with httpx.Client(base_url=host.url, verify=host.trust) as client:
            for size in (0, 1, 3_000_000):
                answer = client.post("/score?a=1", content=b"x" * size)
                assert answer.json() == [f"{host.url}/score?a=1", size]
            assert client.get("/score?large=1").content == b"x" * 5_000_000
        for version, works in (("TLSv1_2", True), ("TLSv1_3", True), ("TLSv1_1", False)):
            with pytest.warns(DeprecationWarning) if not works else contextlib.nullcontext():
                host.trust.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
                host.trust.maximum_version = getattr(ssl.TLSVersion, version)
            with contextlib.nullcontext() if works else pytest.raises(OSError), host.wire() as wire:
                assert wire.version() == version.replace("_", ".")
    assert "Traceback" not in host.log


def ended_within(wire: socket.socket, seconds: float) -> bool:
    wire.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        while wire.recv(65536):
            pass
    return True


@WORKERS
def test_what_is_no_handshake_ends_soon_and_disturbs_nobody(
    write_script: WriteScript, authority: Authority, workers: str
) -> None:
    """Plain HTTP at once; one that begins and does not go on within ten seconds or so."""
    environ = {**tls(authority.issue("server")), "WORKER_COUNT": workers}
    with SecureHost(write_script(RAW), authority, environ) as host:
        address = ("127.0.0.1", host.port)
        with socket.create_connection(address) as plain:
            plain.sendall(b"GET /score HTTP/1.1\r\nHost: x\r\n\r\n")
            assert ended_within(plain, 5)
        halves = [socket.create_connection(address) for _ in range(20)]
        for each in halves[::2]:
            each.sendall(HELLO)
        began = time.monotonic()
        for _ in range(5):
            assert httpx.get(host.url, verify=host.trust, timeout=5).status_code == 200
        for each in halves:
            assert ended_within(each, 20)
            each.close()
        assert time.monotonic() - began < 20
        assert httpx.get(host.url, verify=host.trust).status_code == 200
    assert host.process.returncode == 0
    assert "Traceback" not in host.log


HELLO = b"\x16\x03\x01\x02\x00\x01"  # the beginning of one


@WORKERS
def test_handshakes_that_stand_still_shut_nobody_out(
    write_script: WriteScript, authority: Authority, workers: str
) -> None:
    """They count as connections do, and the oldest gives way; the port of health answers too."""
    health = {"SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(free_port())}
    environ = {**tls(authority.issue("server")), **health, "WORKER_COUNT": workers}
    environ |= {"SCORING_METRICS_OPEN": "true"}
    probe = f"http://127.0.0.1:{health['HEALTH_PORT']}"
    host = SecureHost(write_script(RAW), authority, environ, descriptors=300)
    with host, contextlib.ExitStack() as stack:
        for _ in range(300 * int(workers)):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", host.port)))
            half.sendall(HELLO)
        for _ in range(3):
            assert httpx.get(host.url, verify=host.trust, timeout=5).status_code == 200
            assert httpx.get(f"{probe}/health/live", timeout=5).status_code == 200
        until(lambda: "one whose handshake stood still is ended" in host.log)
        metrics = httpx.get(f"{probe}/metrics").text
        assert re.search(r'refused_total\{reason="too_many"\} [1-9]', metrics)
    assert host.log.count("There are too many connections") <= 2 * int(workers)
    assert "could not be taken" not in host.log


@WORKERS
def test_sigterm_does_not_wait_for_handshakes_that_stand_still(
    write_script: WriteScript, authority: Authority, workers: str
) -> None:
    """At most for as long as for requests that do."""
    environ = {**tls(authority.issue("server")), "WORKER_COUNT": workers}
    with (
        SecureHost(write_script(RAW), authority, environ) as host,
        socket.create_connection(("127.0.0.1", host.port)) as half,
    ):
        half.sendall(HELLO)
        time.sleep(0.2)
        began = time.monotonic()
        assert host.stop(timeout=30) == 0
        assert time.monotonic() - began < 8


def test_a_worker_that_is_replaced_waits_for_handshakes(
    write_script: WriteScript, authority: Authority
) -> None:
    """The request that comes after one is answered."""
    environ = {**tls(authority.issue("server")), "SCORING_MAX_REQUESTS": "1"}
    with (
        SecureHost(write_script(RAW), authority, environ) as host,
        socket.create_connection(("127.0.0.1", host.port)) as wire,
    ):
        read, written = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = host.trust.wrap_bio(read, written, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = written.read()
        wire.sendall(hello[:100])
        assert httpx.post(f"{host.url}/score", verify=host.trust).status_code == 200
        until(lambda: "Another worker is ready" in host.log)
        time.sleep(1)
        wire.sendall(hello[100:])
        read.write(wire.recv(65536))
        client.do_handshake()
        wire.sendall(written.read())
        time.sleep(0.5)
        client.write(b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
        wire.sendall(written.read())
        answer = b""
        while not answer:
            came = wire.recv(65536)
            assert came, "ended without an answer"
            read.write(came)
            with contextlib.suppress(ssl.SSLWantReadError):  # tickets come first
                answer = client.read(65536)
        assert answer.startswith(b"HTTP/1.1 200")


@WORKERS
def test_clients_have_a_certificate_where_an_authority_is_named(
    write_script: WriteScript, authority: Authority, tmp_path: Path, workers: str
) -> None:
    """One of that authority; health has a port without TLS, for probes have none."""
    second = free_port()
    environ = {
        **tls(authority.issue("server")),
        "SCORING_TLS_CA": str(authority.path),
        "WORKER_COUNT": workers,
        "SEPERATE_HEALTH_ENDPOINT": "true",
        "HEALTH_PORT": str(second),
    }
    client = authority.issue("client")
    stranger = Authority(tmp_path / "other", "Others").issue("stranger")
    with SecureHost(write_script(RAW), authority, environ, client) as host:
        assert "with TLS for clients with a certificate (SCORING_TLS_CA)\n" in host.log
        assert httpx.post(f"{host.url}/score", verify=host.trust).status_code == 200
        for pair in (None, stranger):
            trust = ssl.create_default_context(cafile=str(authority.path))
            if pair is not None:
                trust.load_cert_chain(*pair)
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{host.url}/score", verify=trust)
        assert httpx.get(f"http://127.0.0.1:{second}/health/ready").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{second}/score").status_code == 404


def load(host: SecureHost, stop: threading.Event, failed: list[str], count: list[int]) -> None:
    """Requests over connections that stay, and over new ones."""
    with httpx.Client(base_url=host.url, verify=host.trust) as client:
        while not stop.is_set():
            try:
                count.append(client.post("/score").status_code)
                count.append(httpx.post(f"{host.url}/score", verify=host.trust).status_code)
            except httpx.TransportError as error:
                failed.append(repr(error))


@WORKERS
def test_renewed_files_are_taken_while_clients_go_on(
    write_script: WriteScript, authority: Authority, tmp_path: Path, workers: str
) -> None:
    """No request fails; a pair that does not fit is said in the log, and the old one stays."""
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def put(cert_from: Path, key_from: Path) -> None:
        for source, target in ((cert_from, cert), (key_from, key)):
            shutil.copy(source, tmp_path / "new")
            (tmp_path / "new").replace(target)

    def shown(pair: tuple[Path, Path]) -> bytes:
        return ssl.PEM_cert_to_DER_cert(pair[0].read_text())

    first, second, third = (authority.issue(name) for name in ("first", "second", "third"))
    put(*first)
    environ = {**tls((cert, key)), "WORKER_COUNT": workers}
    stop, failed, count = threading.Event(), list[str](), list[int]()
    with SecureHost(write_script(RAW), authority, environ) as host:
        assert host.served() == shown(first)
        given = (host, stop, failed, count)
        threads = [threading.Thread(target=load, args=given) for _ in range(4)]
        for each in threads:
            each.start()
        try:
            put(*second)
            until(lambda: {host.served() for _ in range(8)} == {shown(second)}, seconds=30)
            put(third[0], first[1])  # of two pairs
            until(lambda: host.log.count("The certificates stay as they were") >= int(workers))
            assert {host.served() for _ in range(8)} == {shown(second)}
            put(*third)
            until(lambda: {host.served() for _ in range(8)} == {shown(third)}, seconds=30)
        finally:
            stop.set()
            for each in threads:
                each.join()
        assert failed == []
        assert set(count) == {200}
        assert len(count) > 20
    assert "it is none of the certificate's" in host.log
    assert "Traceback" not in host.log


def test_a_stopped_client_of_an_unread_answer_is_ended(
    write_script: WriteScript, authority: Authority
) -> None:
    """As without TLS, and what it held is free again."""
    environ = {**tls(authority.issue("server")), "SCORING_IDLE_TIMEOUT_SECONDS": "1"}
    with SecureHost(write_script(RAW), authority, environ) as host:
        with host.wire() as wire:
            wire.sendall(b"GET /score?large=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: "An answer was not read by its client" in host.log, seconds=30)
        with host.wire() as wire:
            wire.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n1")
            assert b" 408 " in wire.recv(4096)


# --- files that cannot be used --------------------------------------------------------------------


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Iterator[dict[str, str]]:
    cert, key = authority.issue("server")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    damaged = tmp_path / "damaged.pem"
    lines = cert.read_text().splitlines()
    damaged.write_text("\n".join([*lines[:3], lines[-1], ""]))
    both = tmp_path / "both.pem"
    both.write_text(key.read_text() + cert.read_text())
    yield {
        "cert": str(cert), "key": str(key), "text": str(text), "damaged": str(damaged),
        "both": str(both), "other": str(authority.issue("other")[1]),
        "encrypted": str(authority.issue("encrypted", b"secret")[1]),
        "missing": str(tmp_path / "missing.pem"),
    }  # fmt: skip


WRONG: dict[tuple[str, str, str], str] = {
    ("missing", "key", ""): "SCORING_TLS_CERT names {missing}, which cannot be read: No such file",
    ("cert", "missing", ""): "SCORING_TLS_KEY names {missing}, which cannot be read: No such file",
    ("cert", "key", "missing"): "SCORING_TLS_CA names {missing}, which cannot be read: No such",
    ("text", "key", ""): 'SCORING_TLS_CERT: {text} is no PEM file with "BEGIN CERTIFICATE-----"',
    ("cert", "text", ""): 'SCORING_TLS_KEY: {text} is no PEM file with "PRIVATE KEY-----" in it.',
    ("cert", "", ""): 'SCORING_TLS_CERT: {cert} is no PEM file with "PRIVATE KEY-----" in it.',
    ("key", "cert", ""): 'SCORING_TLS_CERT: {key} is no PEM file with "BEGIN CERTIFICATE-----"',
    ("cert", "other", ""): "the key in {other} cannot be used: it is none of the certificate's.",
    ("cert", "encrypted", ""): "SCORING_TLS_KEY: the key in {encrypted} is encrypted: decrypt it",
    ("damaged", "key", ""): "SCORING_TLS_CERT={damaged} and the key in {key} cannot be used: ",
    ("cert", "key", "damaged"): "SCORING_TLS_CA={damaged} cannot be used: ",
    ("", "key", ""): "SCORING_TLS_KEY is set, but SCORING_TLS_CERT, which turns TLS on, is not.",
    ("", "", "cert"): "SCORING_TLS_CA is set, but SCORING_TLS_CERT, which turns TLS on, is not.",
}


@pytest.mark.parametrize("given", list(WRONG))
def test_files_that_cannot_be_used_are_named(given: Any, files: dict[str, str]) -> None:
    cert, key, ca = (files.get(each, "") for each in given)
    with pytest.raises(ConfigurationError) as caught:
        tls_of(Settings(tls_cert=cert, tls_key=key, tls_ca=ca))
    assert WRONG[given].format(**files) in str(caught.value)


def test_one_file_may_have_both(files: dict[str, str]) -> None:
    assert tls_of(Settings(tls_cert=files["both"])) is not None
    assert tls_of(Settings()) is None


@WORKERS
def test_a_start_without_its_files_is_exit_3(
    write_script: WriteScript, files: dict[str, str], workers: str
) -> None:
    """And asks nobody for a password, with an encrypted key."""
    environ = {"SCORING_TLS_CERT": files["cert"], "SCORING_TLS_KEY": files["encrypted"]}
    host = StandaloneHost(write_script(RAW), environ={**environ, "WORKER_COUNT": workers})
    host.start()
    assert host.process.wait(60) == 3
    log = host.log
    host.stop()
    said = f"SCORING_TLS_KEY: the key in {files['encrypted']} is encrypted: decrypt it first."
    assert log.rstrip().splitlines()[-1] == f"Cause: {said}"
    assert "Traceback" not in log


# --- the image's own check ------------------------------------------------------------------------


@pytest.mark.parametrize("second", [False, True], ids=["one port", "two ports"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_the_check_of_an_image_asks_where_health_is(
    write_script: WriteScript, authority: Authority, secure: bool, second: bool
) -> None:
    """By the variables that the container has; with certificates of clients at the second port."""
    environ = tls(authority.issue("server")) if secure else {}
    if second:
        environ |= {"SEPERATE_HEALTH_ENDPOINT": "true", "HEALTH_PORT": str(free_port())}
        environ |= {"SCORING_TLS_CA": str(authority.path)} if secure else {}
    client = authority.issue("client")
    [command] = re.findall(r'HEALTHCHECK .*\n    CMD \["python", "-I", "-c", "(.*)"\]', DOCKERFILE)
    host = SecureHost(write_script(RAW), authority, environ, client)
    host.url = host.url if secure else host.url.replace("https:", "http:")

    def check() -> int:
        variables = {**environ, "SERVER_PORT": str(host.port)}
        return subprocess.run([sys.executable, "-I", "-c", command], env=variables).returncode

    with host:
        assert check() == 0
    assert check() == 1
