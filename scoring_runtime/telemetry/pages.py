"""Memory in which the workers of one service count, each in a page of its own.

Nobody waits for a lock, and what a worker has counted stays when it is killed: its page goes to the
one that replaces it. Numbers are doubles, which the processors that there are write as a whole.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: one process
    fcntl = None  # type: ignore[assignment]

HEAD = 2
"""Cells before those that are counted in: whose page it is, and since when that process lives."""
_BYTES = 8
_MOST_SIBLINGS = 32
_PREFIX = "scoring-metrics"


class Pages:
    """The pages of all workers, side by side.

    Args:
        memory: that all of them see.
        cells: in one page, its head included.
    """

    def __init__(self, memory: mmap.mmap, cells: int) -> None:
        whole: memoryview[float] = memoryview(memory).cast("d")
        starts = range(0, len(whole) - cells + 1, cells)
        self._pages: list[memoryview[float]] = [whole[at : at + cells] for at in starts]

    @classmethod
    def of_children(cls, count: int, cells: int) -> Pages:
        """Pages for this process and those that it forks."""
        return cls(mmap.mmap(-1, count * cells * _BYTES), cells)

    def take(self, number: int) -> memoryview[float]:
        """The page of this number, which is this process's from now on."""
        page = self._pages[number]
        page[0], page[1] = os.getpid(), born(os.getpid())
        return page

    def free(self) -> int:
        """The number of a page that no living process has; the last one if all are taken."""
        taken = (number for number, page in enumerate(self._pages) if not _is_alive(page))
        return next(taken, len(self._pages) - 1)

    def read(self) -> list[tuple[int, list[float]]]:
        """The process of each page that was taken, 0 if it is gone, and what the page holds."""
        return [(process, list(page)) for process, page in self._taken()]

    def bytes_from(self, cell: int) -> list[tuple[int, bytes]]:
        """The same, with the bytes of each page from a cell on."""
        return [(process, bytes(page[cell:].cast("B"))) for process, page in self._taken()]

    def _taken(self) -> Iterator[tuple[int, memoryview[float]]]:
        for page in self._pages:
            if page[0]:
                yield int(page[0]) if _is_alive(page) else 0, page


def of_siblings(purpose: str, cells: int) -> tuple[Pages, int]:
    """Pages for the processes that the parent of this one has started, and the number of ours.

    They are in a file that lives as long as the parent does; where there can be none, the page is
    this process's alone.

    Args:
        purpose: what siblings have in common that count together; in letters and digits.
        cells: in one page.
    """
    parent = os.getppid()
    path = Path(tempfile.gettempdir(), f"{_PREFIX}-{parent}-{born(parent):.0f}-{purpose}-{cells}")
    try:
        return _shared(path, cells)
    except (OSError, AttributeError):
        return Pages.of_children(1, cells), 0


def _shared(path: Path, cells: int) -> tuple[Pages, int]:
    _remove_those_left()
    size = _MOST_SIBLINGS * cells * _BYTES
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, size)
        pages = Pages(mmap.mmap(descriptor, size), cells)
        number = pages.free()
        pages.take(number)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # the map keeps the file open, and so its lock
        os.close(descriptor)
    atexit.register(_last_removes, path, pages.read, os.getpid())
    return pages, number


def _last_removes(
    path: Path, read: Callable[[], list[tuple[int, list[float]]]], process: int
) -> None:
    if os.getpid() == process and not any(pid not in (0, process) for pid, _ in read()):
        path.unlink(missing_ok=True)


def _remove_those_left() -> None:
    """Files of parents that are gone, whose children were killed with them."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent, since = path.name.removeprefix(f"{_PREFIX}-").split("-")[:2]
            if born(int(parent)) != float(since):
                path.unlink()


def _is_alive(page: memoryview[float]) -> bool:
    process = int(page[0])
    return bool(process) and page[1] == born(process)


def born(process: int) -> float:
    """When a process was started, in ticks of the system's clock; -1 if there is none.

    Where there is no /proc it is 0 for every process: then the parent is asked whether it lives.
    Source: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html (starttime)
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()
        return -1.0 if fields[0] == "Z" else float(fields[19])
    except (OSError, IndexError):
        return -1.0 if Path("/proc/self/stat").exists() else _born_elsewhere(process)


def _born_elsewhere(process: int) -> float:
    try:
        if os.name == "nt":  # where it would be a signal
            return 0.0
        os.kill(process, 0)
    except OSError:
        return -1.0
    return 0.0
