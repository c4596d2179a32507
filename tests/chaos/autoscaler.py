"""How many instances there are to be: KEDA's rule for none and one, Kubernetes' for more.

KEDA asks a queue how long it is, which what is locked counts to; any length is a reason for one
instance, and none for the cool-down for none. Between them Kubernetes takes ceil(length / target),
at most twice as many or four more each time, and goes down to the highest wish of a while only.
https://keda.sh/docs/latest/concepts/scaling-deployments/
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Autoscaler:
    """``target``: of the queue's length for each instance; the periods are in seconds."""

    target: int
    most: int
    cooldown: float
    stable: float
    instances: int = 0
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _active: float = -math.inf

    def look(self, now: float, length: int) -> int:
        """How many there are to be from now on."""
        if length:
            self._active = now
        if self.instances == 0:
            self.instances = 1 if length else 0
        elif now - self._active > self.cooldown:
            self.instances = 0
            self._wishes.clear()
        else:
            self.instances = self._between_one_and_most(now, length)
        return self.instances

    def _between_one_and_most(self, now: float, length: int) -> int:
        wish = math.ceil(length / self.target)
        if abs(length / (self.target * self.instances) - 1) <= 0.1:
            wish = self.instances  # within the tolerance
        wish = min(wish, self.most, max(2 * self.instances, self.instances + 4))
        self._wishes.append((now, max(1, wish)))
        while self._wishes[0][0] < now - self.stable:
            self._wishes.popleft()
        return max(each for _, each in self._wishes)
