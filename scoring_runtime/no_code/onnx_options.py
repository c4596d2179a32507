"""How onnxruntime's sessions are made, and on how many processors."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class OnnxOptions(NamedTuple):
    """How sessions are made; threads of 0 mean as many as the processors that may be used."""

    providers: Sequence[str] = ()
    optimization: str = "all"
    intra_op_threads: int = 0
    inter_op_threads: int = 1
    processes: int = 1


def processors() -> int:
    """The processors that this process may use, at least 1: affinity and the container's quota.

    The quota is that of cgroup v2 (``cpu.max``: microseconds per period) or v1, rounded up.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(Path("/sys/fs/cgroup"))
    return max(1, min(usable or 1, math.ceil(quota) if quota else usable or 1))


def _quota(root: Path) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)
