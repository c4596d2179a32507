"""The process of a local service: started so that it outlives this one, found again, and ended.

A process is known by its id and the time it started: an id alone may belong to another program
later. As the time since the system started it is the same after the clock was set.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from ..errors import LocalServiceError

LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.02
# The shell ends at once, so the command is nobody's child here and needs no waiting for; it stays
# in the session and the process group that the shell was started with.
_DETACHED = 'log=$1; shift; "$@" </dev/null >"$log" 2>&1 & echo $!'


class Process(NamedTuple):
    """One process: its id, and when it started, in seconds since the system did; 0 if gone."""

    pid: int
    started: float

    @property
    def is_alive(self) -> bool:
        """Whether it still runs: neither gone nor a zombie, and its id is not another's now."""
        return self.started > 0 and started_at(self.pid) == self.started


def spawn(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
) -> Process:
    """Start a command in ``folder`` that writes to ``log`` and goes on when this process ends."""
    done = subprocess.run(
        ["/bin/sh", "-c", _DETACHED, "sh", str(log), *command],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    pid = int(done.stdout)
    return Process(pid, started_at(pid))


def started_at(pid: int) -> float:
    """When the process started; 0 if there is none of this id, or it is a zombie."""
    try:
        process = psutil.Process(pid)
        zombie = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        # Until its last thread is gone a process that was killed keeps its port.
        if zombie and process.num_threads() <= 1:
            return 0.0
        booted = psutil.boot_time()  # first, for older ones keep it for the other
        return round(float(process.create_time() - booted), 2)
    except psutil.NoSuchProcess:
        return 0.0


def end(process: Process, grace_seconds: float) -> None:
    """End the process: SIGTERM, and after the grace SIGKILL for it and its children.

    A process that is not this one any more is left alone.
    """
    if not process.is_alive:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        running = psutil.Process(process.pid)
        children = running.children(recursive=True)
        running.terminate()
        if not ended(process, grace_seconds):
            for each in (running, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            ended(process, grace_seconds)


def ended(process: Process, seconds: float) -> bool:
    """Wait until the process has ended, or that long; whether it has."""
    return _comes_true(lambda: not process.is_alive, seconds)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def check_port(port: int, patience_seconds: float = 0.0) -> None:
    """Raise LocalServiceError if another program listens there, still after that long."""
    if not _comes_true(lambda: is_free(port), patience_seconds):
        raise LocalServiceError(
            f"Port {port} is in use: choose another one, none for a free one, or stop what uses it."
        )


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True
