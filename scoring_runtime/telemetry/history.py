"""What the metrics were in the last 15 minutes: a row each 5 seconds, over all models and workers.

Each worker keeps the same rows, as all of them see all pages.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from .metrics import (
    BLOCK,
    CACHE_ERRORS,
    CACHE_HITS,
    CACHE_MISSES,
    IN_FLIGHT,
    OUTCOMES,
    QUEUE_DEPTH,
    REQUEST_SECONDS,
    REQUESTS,
    Metrics,
)

STEP_SECONDS = 5.0
ROWS = 181
_SIZE = REQUEST_SECONDS.size
_BUCKETS = (*(f"{bound:g}" for bound in REQUEST_SECONDS.buckets), "more")
_OTHERS = (QUEUE_DEPTH, IN_FLIGHT, CACHE_HITS, CACHE_MISSES, CACHE_ERRORS)
COLUMNS = (
    "time", *OUTCOMES, *(f"within_{each}" for each in _BUCKETS),
    "queued", "queue_seconds", "run", "run_seconds",
    *(each.name.removeprefix("scoring_") for each in _OTHERS), "memory_bytes",
)  # fmt: skip
"""Of a row. Counts since the start: inputs by outcome and by the seconds within which they were
answered, how many were taken up by a scoring thread and how long they waited, how long run() took.
Of ``queue_depth``, ``in_flight`` and ``memory_bytes`` the value itself."""


class History:
    """Rows of COLUMNS; one more each 5 s, when the metrics are published."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        places = metrics.layout.places
        of_inputs = (at for (metric, labels), at in places.items() if metric is REQUESTS)
        self._blocks = list(of_inputs)[:: len(OUTCOMES)]
        self._cells = [
            [at for (metric, _), at in places.items() if metric is each] for each in _OTHERS
        ]
        self._rows: deque[list[float]] = deque(maxlen=ROWS)
        metrics.publish_by(self._look)

    def since(self, moment: float) -> list[list[float]]:
        """The rows after a moment, in seconds since 1970."""
        return [row for row in self._rows if row[0] > moment]

    def _look(self) -> None:
        now = time.time()
        if not self._rows or now - self._rows[-1][0] >= STEP_SECONDS:
            self._rows.append([round(now, 3), *self._sums()])

    def _sums(self) -> Iterable[float]:
        pages = self._metrics.pages.read()
        blocks = [cells[at : at + BLOCK] for _, cells in pages for at in self._blocks]
        sums = [sum(each) for each in zip(*blocks, strict=True)]
        counts, of_requests = sums[: len(OUTCOMES)], sums[len(OUTCOMES) :]
        answered, queued, run = (of_requests[at : at + _SIZE] for at in range(0, 3 * _SIZE, _SIZE))
        yield from [*counts, *answered[1:]]
        yield from [sum(queued[1:]), round(queued[0], 6), sum(run[1:]), round(run[0], 6)]
        for metric, places in zip(_OTHERS, self._cells, strict=True):
            counted = [cells for process, cells in pages if process or metric.kind == "counter"]
            yield sum(cells[at] for cells in counted for at in places)
        yield sum(resident_bytes(process) for process, _ in pages if process)


def resident_bytes(process: int) -> int:
    """The memory that a process holds, without what was swapped out; 0 where it is not told.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html (resident)
    """
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
