"""What is measured on: its name, the versions, and how it is kept quiet meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

OURS = (
    "numpy",
    "scikit-learn",
    "joblib",
    "onnxruntime",
    "pillow",
    "uvicorn",
    "httptools",
    "uvloop",
)


def name() -> str:
    """Cores, memory, and where the client is."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {gigabytes:.0f} GB, Linux; client and server on the same cores"


def versions() -> dict[str, str]:
    """Of the packages that decide the figures."""
    return {each: version(each) for each in OURS}


def options(description: str | None, seconds: int = 2) -> argparse.ArgumentParser:
    """The options that every benchmark with wrk has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=int, default=seconds, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--quick", action="store_true", help="one short round of little")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


def progress(text: str) -> None:
    """One line of a terminal, always the same."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Quiet:
    """Holds the files of ``BENCH_LOCKS`` (flock, in this order), for 80 s at a time.

    For a machine that others use too: they take them while they compute. Without the variable it
    does nothing.
    """

    MOST_SECONDS = 80

    def __init__(self) -> None:
        self._paths = [Path(each) for each in os.environ.get("BENCH_LOCKS", "").split(":") if each]
        self._held = contextlib.ExitStack()
        self._since = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Quiet:
        for path in self._paths:
            lock = self._held.enter_context(path.open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        self._since = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held.close()
        self.seconds += time.monotonic() - self._since
        if self._paths:
            print(f"held the locks for {self.seconds:.0f} s", file=sys.stderr)

    def turn(self) -> None:
        """Between two measurements: lets others work when it is time."""
        if self._paths and time.monotonic() - self._since > self.MOST_SECONDS:
            self._held.close()
            self.seconds += time.monotonic() - self._since
            time.sleep(1)
            self.__enter__()


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from descendants(int(child))


def memory_mb(pid: int) -> dict[str, float]:
    """PSS and RSS of a process and all below it, in MB.

    A file's pages count once and whole, as if nothing else on the machine had mapped it: servers
    that run side by side would share them, which makes each look smaller.
    """
    pss = rss = 0.0
    files: dict[str, float] = {}
    for each in descendants(pid):
        with contextlib.suppress(OSError):
            head = ""
            for line in Path(f"/proc/{each}/smaps").read_text().splitlines():
                kind, _, rest = line.partition(":")
                if " " in kind:
                    head, size = " ".join(line.split()[2:5]), 0.0
                elif kind == "Rss":
                    size = int(rest.split()[0]) / 1024
                    rss += size
                elif kind == "Anonymous":
                    mapped = size - int(rest.split()[0]) / 1024
                    files[head] = max(files.get(head, 0), mapped)
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            pss += sum(int(kb) for kb in re.findall(r"Pss_(?:Anon|Shmem): +(\d+)", rollup)) / 1024
    return {"pss_mb": pss + sum(files.values()), "rss_mb": rss}


def cpu_seconds(pid: int) -> float:
    """Of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most that one process has held, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def short(value: float) -> str:
    """With as many places as say something."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def table(head: list[str], rows: list[list[Any]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
