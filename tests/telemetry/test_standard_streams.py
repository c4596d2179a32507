"""A log that cannot be written costs no answer and no time: full pipe, reader gone, full disk."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from scoring_runtime.telemetry import standard_streams
from scoring_runtime.telemetry.standard_streams import MOST_WAITING_BYTES, Outlet
from tests.conftest import WriteScript
from tests.hosts.standalone import StandaloneHost
from tests.hosts.waiting import until

PIPE_BYTES = 65_536
LOUD = """
import sys, logging, warnings
def init(): ...
def run(data):
    print("out " + "x" * 100_000)
    print("err " + "x" * 100_000, file=sys.stderr)
    sys.stdout.write("raw\\n")
    sys.stdout.buffer.write(b"bytes\\n")
    sys.stdout.flush()
    logging.warning("logged")
    warnings.warn("warned")
    return data
"""


class Host(StandaloneHost):
    """A standalone host with the standard streams that it is given."""

    def __init__(self, script: Path, out: int, *options: str, file_bytes: int = 0) -> None:
        super().__init__(script, *options, startup_timeout=60)
        self._out, self._file_bytes = out, file_bytes

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            env=self._environ,
            cwd=self._cwd,
            stdout=self._out,
            stderr=self._out,
            preexec_fn=self._limit if self._file_bytes else None,
        )

    def _limit(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._file_bytes, hard))


def ask_often(host: Host) -> None:
    """So often that what is printed fills pipe and memory; health answers too."""
    with httpx.Client(timeout=60) as client:
        for number in range(300):
            answer = client.post(f"{host.url}/score", content=str(number).encode())
            assert (answer.status_code, answer.json()) == (200, str(number))
        assert client.get(f"{host.url}/health/ready").status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reader_that_does_not_read_blocks_nobody_and_is_told_what_it_missed(
    workers: str, write_script: WriteScript
):
    reader, writer = os.pipe()
    got = bytearray()

    def read() -> None:
        while part := os.read(reader, 1 << 20):
            got.extend(part)

    with Host(write_script(LOUD), writer, "--workers", workers) as host:
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK  # it is its parent's too
        os.close(writer)
        ask_often(host)
        reading = threading.Thread(target=read)
        reading.start()
        until(lambda: b" are lost.\n" in got)
        assert host.stop(timeout=60) == 0
    reading.join(60)
    os.close(reader)
    for each in (
        b" azmlinfsrv.print - out xxx",
        b"err xxx",
        b"raw\n",
        b"bytes\n",
        b" root - logged",
    ):
        assert each in got


def test_a_reader_that_is_gone_costs_no_answer(write_script: WriteScript):
    reader, writer = os.pipe()
    with Host(write_script(LOUD), writer) as host:
        os.close(writer)
        os.close(reader)
        ask_often(host)
        assert host.stop(timeout=60) == 0


def test_a_full_disk_costs_no_answer_and_what_is_lost_is_said(
    write_script: WriteScript, tmp_path: Path
):
    """A limit on the size of files stands for the disk; when it is lifted, the log goes on."""
    path = tmp_path / "log"
    with path.open("ab") as out, Host(write_script(LOUD), out.fileno(), file_bytes=500_000) as host:
        ask_often(host)
        assert path.stat().st_size == 500_000
        unlimited = (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        for each in (host.process.pid, host.worker):
            resource.prlimit(each, resource.RLIMIT_FSIZE, unlimited)
        until(lambda: b" are lost.\n" in path.read_bytes())
        assert host.stop(timeout=60) == 0


def test_no_text_of_a_client_is_a_line_of_the_log(write_script: WriteScript, tmp_path: Path):
    """Paths, queries, ids, bodies and the names of files, through the standalone host."""
    script = write_script("def init(): ...\ndef run(data): raise ValueError(data)")
    forged, said = "x\n2026-01-01 forged\x1b[31m\u2028", "2026-01-01 forged\\x1b[31m\\u2028"
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / f"{forged}.json").write_text(forged)
    settings = {"BLOB_INPUT_FOLDER": str(inputs), "BLOB_MAX_ATTEMPTS": "1"}
    with StandaloneHost(script, environ=settings, startup_timeout=60) as host:
        path, ids = quote(forged, safe=""), {b"x-request-id": b"i\x85d"}
        for target in (f"/score/{path}?{path}", "/score"):
            httpx.post(host.url + target, content=forged.encode(), headers=ids, timeout=60)
        until(lambda: f" x\\n{said}.json cannot be scored" in host.log)
        until(lambda: f"POST /score/x\\n{said}" in host.log)
        assert host.stop() == 0
    assert f"    {said}" in host.log  # of what run() has raised
    assert not re.search("^2026-01-01 forged|[\x1b\x85\u2028]", host.log, re.MULTILINE)


# --- one stream -----------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for each in (reader, writer):
        os.close(each)


@pytest.mark.parametrize("reopened", [True, False], ids=["opened once more", "by the thread"])
def test_all_is_written_in_order_once_somebody_reads(
    reopened: bool, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    """Also where a pipe of somebody else cannot be opened."""
    if not reopened:
        monkeypatch.setattr(standard_streams, "_unblocked", lambda descriptor: (descriptor, True))
    outlet = Outlet(pipe[1])
    wanted = b"".join(b"%06d\n" % number for number in range(100_000))
    for start in range(0, len(wanted), 7):
        outlet.write(wanted[start : start + 7])
    got = b""
    while len(got) < len(wanted):
        got += os.read(pipe[0], 1 << 20)
    assert got == wanted


def test_what_is_beyond_the_bound_is_counted(pipe: tuple[int, int]):
    outlet, line = Outlet(pipe[1]), b"x" * (1 << 20) + b"\n"
    count = MOST_WAITING_BYTES // len(line) + 10
    for _ in range(count):
        outlet.write(line)
    got = b""
    while not got.endswith(b"are lost.\n"):
        got += os.read(pipe[0], 1 << 20)
    *kept, said = got.splitlines()
    assert set(kept) == {line[:-1]}
    assert said == b"%d lines that could not be written here are lost." % (count - len(kept))
    outlet.write(b"on\n")
    assert os.read(pipe[0], 100) == b"on\n"


def test_the_end_of_the_process_waits_for_what_is_written_and_not_for_ever(pipe: tuple[int, int]):
    outlet = Outlet(pipe[1])
    outlet.write(b"x" * PIPE_BYTES)
    outlet.write(b"last")
    began = time.monotonic()
    outlet.settle(0.5)
    assert 0.5 <= time.monotonic() - began < 30
    os.read(pipe[0], 1 << 20)
    outlet.settle(60)
    assert os.read(pipe[0], 100) == b"last"


def test_the_streams_of_a_process_stay_what_they_are():
    """Encoding, descriptor and name; characters that the encoding has not are escaped."""
    code = (
        "import sys; from scoring_runtime.telemetry import standard_streams\n"
        "standard_streams.install(); standard_streams.install()\n"
        "print(sys.stdout.fileno(), sys.stdout.name, sys.stdout.encoding, sys.stdout.isatty(), 'é')"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"1 <stdout> ascii False \\xe9\n"
