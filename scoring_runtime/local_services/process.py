"""The process of a local service: started so that it outlives this one, found again, and ended.

A process is known by its id and the time it started: an id alone may belong to another program
later. ``proc(5)`` has both; where there is no ``/proc``, ``ps`` tells them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_POLL_SECONDS = 0.02
# The shell ends at once, so the command is nobody's child here and needs no waiting for; it stays
# in the session and the process group that the shell was started with.
_DETACHED = 'log=$1; shift; "$@" </dev/null >"$log" 2>&1 & echo $!'


class Process(NamedTuple):
    """One process: its id, and when it started, in the system's own words; empty if it is gone."""

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether it still runs: neither gone nor a zombie, and its id is not another's now."""
        return bool(self.started) and started_at(self.pid) == self.started


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


def started_at(pid: int) -> str:
    """When the process started; empty if there is none of this id, or it is a zombie."""
    if not _BOOT_ID.exists():
        return _told_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # Until its last thread is gone a process that was killed keeps its port.
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return ""
    # Fields 3 and 22 of proc(5); the second, the program's name, may hold anything.
    fields = stat.rpartition(")")[2].split()
    gone = fields[0] in "ZX" and threads <= 1
    return "" if gone else f"{_BOOT_ID.read_text().strip()} {fields[19]}"


def _told_by_ps(pid: int) -> str:
    command = ["ps", "-p", str(pid), "-o", "stat=,lstart="]
    state, _, started = (
        subprocess.run(command, capture_output=True, text=True, check=False)
        .stdout.strip()
        .partition(" ")
    )
    return "" if state.startswith("Z") else started.strip()


def end(process: Process, grace_seconds: float) -> None:
    """End the process: SIGTERM, and after the grace SIGKILL for it and its whole group.

    A process that is not this one any more is left alone.
    """
    if not process.is_alive:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    if not ended(process, grace_seconds):
        _kill(process)
        ended(process, grace_seconds)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        group = os.getpgid(process.pid)
        if process.is_alive and group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)


def ended(process: Process, seconds: float) -> bool:
    """Wait until the process has ended, or that long; whether it has."""
    until = time.monotonic() + seconds
    while process.is_alive:
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


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


def became_free(port: int, seconds: float) -> bool:
    """Wait until the port is free, or that long; whether it is."""
    until = time.monotonic() + seconds
    while not is_free(port):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True
