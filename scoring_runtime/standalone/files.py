"""What folders hold, reached without following a link below them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Where there is no openat(2), as on Windows, paths have to do.
_HAS_AT = os.open in os.supports_dir_fd
_FOLDER = getattr(os, "O_DIRECTORY", 0)
# A pipe that takes a file's place must not hold up who opens it.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Opened(NamedTuple):
    """A folder that was reached without following a link, and what it has directly in it."""

    path: Path
    descriptor: int | None

    def at(self, name: str) -> str:
        """What to call a file by, together with ``dir_fd=descriptor``."""
        return str(self.path / name) if self.descriptor is None else name

    def open(self, name: str, flags: int) -> int:
        """A descriptor, never of what a link leads to."""
        return os.open(self.at(name), flags | _NO_LINKS, 0o666, dir_fd=self.descriptor)

    def file(self, name: str, mode: str) -> IO[Any]:
        """The same as a file."""
        return open(self.at(name), mode, opener=lambda _, flags: self.open(name, flags))

    def regular(self, name: str) -> os.stat_result | None:
        """The status of a regular file; None if there is none."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.at(name), dir_fd=self.descriptor, follow_symlinks=False)
            return found if stat.S_ISREG(found.st_mode) else None
        return None

    def is_written(self, name: str) -> bool | None:
        """Whether a process of this machine has the file open for writing; None if nobody knows.

        The kernel gives no read lease then. Source: https://man7.org/linux/man-pages/man2/fcntl.2.html
        """
        if not hasattr(fcntl, "F_SETLEASE"):
            return None
        descriptor = -1
        try:
            descriptor = self.open(name, os.O_RDONLY)
            # Who opens it meanwhile waits until the lease is gone; the signal of that is ignored.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:  # a file of somebody else, or a file system without leases
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return False

    def unlink(self, name: str) -> None:
        """Remove a file or a link, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.at(name), dir_fd=self.descriptor)

    def write(self, name: str, body: bytes, moment: int, target: Opened, target_name: str) -> None:
        """Write a file and rename it to its place with this time (ns), wholly or not at all."""
        self.unlink(name)
        try:
            with self.file(name, "xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
                os.utime(file.fileno() if _HAS_AT else file.name, ns=(moment, moment))
            ends = {"src_dir_fd": self.descriptor, "dst_dir_fd": target.descriptor}
            os.replace(self.at(name), target.at(target_name), **ends)
        except BaseException:
            self.unlink(name)
            raise


@contextlib.contextmanager
def opened(folder: Path, below: Sequence[str] = (), *, make: bool = False) -> Iterator[Opened]:
    """A folder, or one ``below`` it; NotADirectoryError if a link is on the way there."""
    path = folder
    descriptor = os.open(path, os.O_RDONLY | _FOLDER) if _HAS_AT else None
    try:
        for name in below:
            above = Opened(path, descriptor)
            path /= name
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(above.at(name), dir_fd=descriptor)
            if descriptor is not None:
                inner = above.open(name, os.O_RDONLY | _FOLDER)
                os.close(descriptor)
                descriptor = inner
        yield Opened(path, descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def claim_name(name: str) -> str:
    """The name of an input's claim file: as short whatever the input's is."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def files(folder: Path, ignored: dict[str, str]) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files of a folder and below, without those that are hidden.

    ``ignored`` gets each link, special file and unreadable folder, and why; OSError is raised if
    the folder itself cannot be listed.
    """

    def refused(error: OSError) -> None:
        if error.filename == str(folder):
            raise error
        ignored[error.filename] = f"it cannot be listed: {error.strerror}"

    for parent, folders, names in os.walk(folder, onerror=refused):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in (*folders, *(each for each in names if not each.startswith("."))):
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    yield path, status
                elif stat.S_ISLNK(status.st_mode):
                    ignored[str(path)] = "a link is not followed"
                elif not stat.S_ISDIR(status.st_mode):
                    ignored[str(path)] = "it is no regular file"


def age(status: os.stat_result) -> float:
    """Seconds since the last change."""
    return time.time() - status.st_mtime
