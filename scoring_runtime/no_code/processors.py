"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


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
