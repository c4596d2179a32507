"""Which calls are so quick that the event loop makes them itself, when nothing else waits.

To hand a call over to the scoring thread and its result back takes two wake-ups, more than the
call of a small model.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

from ..messages import ScoringRequest

QUICK_SECONDS = 0.0005
_CALLS = 100


class Quickness:
    """What was seen of a callee: it is quick while 99 of its last 100 calls were.

    An input is expected to be quick that is no larger than one that was. After a call that was
    slow by the clock it is the processor's time that counts, for a while: what else this machine
    does makes no model slow. That clock takes a system call, so it is not asked before.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        """Seconds that its calls took since somebody set it to 0."""
        self._calls = self._last_slow = self._slow_before = 0
        self._largest = 0
        self._in_doubt = 0

    def is_quick(self) -> bool:
        """Whether its calls were quick lately."""
        return self._calls - self._slow_before >= _CALLS

    def expects(self, request: ScoringRequest) -> bool:
        """Whether this call is expected to be quick."""
        return (
            self._calls - self._slow_before >= _CALLS
            and len(request.body) <= self._largest
            and not request.header(b"content-encoding")
        )

    def watches(self, callee: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The callee, each of its calls seen."""

        def call(request: ScoringRequest) -> Any:
            clock = thread_time if self._in_doubt else perf_counter
            began = clock()
            try:
                return callee(request)
            finally:
                seconds = clock() - began
                self.spent += seconds
                if seconds >= QUICK_SECONDS and not self._in_doubt:
                    self._in_doubt = _CALLS
                else:
                    self._saw(len(request.body), seconds)

        return call

    def _saw(self, size: int, seconds: float) -> None:
        if seconds < QUICK_SECONDS:
            self._calls += 1
            if size > self._largest:
                self._largest = size
        elif size <= self._largest:  # of larger ones nothing was expected
            self._calls += 1
            self._slow_before, self._last_slow = self._last_slow, self._calls
        if self._in_doubt:
            self._in_doubt -= 1
