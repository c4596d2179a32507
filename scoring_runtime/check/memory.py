"""How much memory this process holds, held, and may hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_MB = 1 << 20
_KEPT_MB = 16.0
# https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files, and version 1 of it
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak_mb() -> float:
    """The most it has held, in MB; 0 where that is not known.

    Source: https://man7.org/linux/man-pages/man2/getrusage.2.html (ru_maxrss)
    """
    if resource is None:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def now_mb() -> float:
    """What it holds; without Linux's /proc the most that it has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MB
    except (OSError, ValueError, IndexError, AttributeError):
        return peak_mb()


def kept_mb(measured: Sequence[float]) -> float:
    """What grows at every step, the first left out, which is the warm-up; 0 if that is little."""
    steps = [after - before for before, after in pairwise(measured[1:])]
    least = _KEPT_MB / max(len(steps), 1)
    return sum(steps) if len(steps) > 1 and min(steps) > least else 0.0


def limit_mb() -> float:
    """The limit of this container, else the memory of this machine; 0 where that is not known."""
    found = []
    for path in _LIMITS:
        try:
            found.append(int(Path(path).read_text()) / _MB)
        except (OSError, ValueError):  # "max"
            continue
    try:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MB)
    except (OSError, ValueError, AttributeError):
        pass
    return min(found, default=0.0)
