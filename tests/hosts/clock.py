"""A clock that can be set for one process and its children; the machine's own is never touched.

A library before libc's adds what stands in a file to the time of day; what is measured
(``monotonic``), and how long is slept, stays as it is. (libfaketime shifts that too: Python's
``sleep(0)`` fails with it.) It is built with the machine's C compiler.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
  void *at = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (at != MAP_FAILED) ahead = at;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += *ahead;
  return failed;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  to->tv_sec = now.tv_sec;
  to->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


def can_be_made() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


class Clock:
    """What a process gets whose clock can be set: ``environ``."""

    def __init__(self, folder: Path) -> None:
        self._file, source = folder / "clock", folder / "clock.c"
        library = folder / "clock.so"
        self._file.write_bytes(bytes(8))
        source.write_text(SOURCE)
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._file)}

    def set(self, seconds: int) -> None:
        """So many seconds ahead of the machine's clock, or behind it."""
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("q", seconds))
