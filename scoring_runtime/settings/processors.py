"""The processors that a container's quota leaves, and how many threads libraries may have then."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

# OpenBLAS, MKL, BLIS and PyTorch go by OMP_NUM_THREADS too, unless their own variable is set;
# joblib (n_jobs=-1) and onnxruntime (from 1.29) have each their own.
_THREADS = ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "ORT_INTRA_OP_NUM_THREADS")


def for_libraries(environ: Mapping[str, str], workers: int) -> dict[str, str]:
    """The environment variables, of those that are not set, that libraries are to find when they
    are loaded: the threads that each of so many ``workers`` may have, and no telemetry."""
    told = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # it would tell its makers of each start
    threads = threads_of(workers)
    if threads < _usable():  # else they know it by themselves
        told |= dict.fromkeys(_THREADS, str(threads))
    return {name: value for name, value in told.items() if name not in environ}


def threads_of(workers: int) -> int:
    """The threads that compute at the same time in each of so many processes, at least 1."""
    return max(1, processors() // workers)


def processors(root: Path = Path("/")) -> int:
    """The processors that this process may use, at least 1: affinity and the container's quota.

    A quota is microseconds per period, rounded up: ``cpu.max`` of cgroup v2, ``cpu.cfs_quota_us``
    of v1, of the process's own group and of those that it lies in.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/
    sched-bwc.html, and cgroups(7) for ``/proc/self/cgroup``.
    """
    return max(1, min([_usable(), *map(math.ceil, _quotas(root))]))


def _usable() -> int:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return affinity or 1


def _quotas(root: Path) -> Iterator[float]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # In a container the path may be the host's, of which only the last is mounted, as the root.
        own = PurePosixPath(path.lstrip("/"))
        for group in dict.fromkeys((own, *own.parents)):
            yield from _quota(mounted / group)


def _quota(group: Path) -> Iterator[float]:
    of_v1 = (_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    for words in (_text(group / "cpu.max").split(), " ".join(of_v1).split()):
        if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):  # no max, no -1
            yield int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
