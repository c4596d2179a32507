"""Many machines, on paper: instances, waits and cost by a simulation, from figures measured on one.

``python -m benchmarks.scale`` prints a table for each trigger at 10, 1,000 and 100,000 inputs a
second. Time passes in simpy (https://simpy.readthedocs.io); inputs come and are scored by the
second, as a fluid: at 100,000 a second each by itself would be 10^9 events. The autoscaler is that
of deploy/kubernetes: Kubernetes' formula, ceil(metric / target), looked at every 15 seconds, at
most twice as many or four more each time, the highest wish of the last five minutes counts, and
there are never more than the peak needs (maxReplicaCount); an instance takes half a minute until it
is ready.
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details

Prices are list prices in US dollars (2025, one region), to be replaced by those of a contract.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import simpy

RESULTS = Path(__file__).parent / "results"
RATES = (10, 1_000, 100_000)
SYNC_SECONDS, STABLE_SECONDS, START_SECONDS = 15, 300, 30
# An instance: one core, 2 GB, for a second of Azure Container Apps.
INSTANCE_SECOND = 0.000024 + 2 * 0.000003
Figures = dict[str, Any]


class Trigger(NamedTuple):
    """What brings inputs.

    ``per_second``: of one instance with one core, measured. ``alone_ms``: the whole way of an input
    that waits for nobody, p50 and p99. ``target``: waiting inputs for each instance, of the
    autoscaler; 0 when it goes by the processor, at 70 %. ``least``: instances. ``dollars``: of what
    is around it, for a million inputs. ``limit``: what ends first, and at how many inputs a second.
    """

    per_second: float
    alone_ms: tuple[float, float]
    target: float
    least: int
    dollars: float
    limit: str
    at: float


def measured(name: str) -> Any:
    """The figures of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["figures"]


def triggers() -> dict[str, Trigger]:
    """One row of scikit-learn with batches by HTTP; an empty run() by messages and blobs."""
    server = measured("http")["loads"]["linear-1"]["servers"]["no script, batches"]["connections"]
    alone = server["1"]
    messages = measured("messages")
    message = messages["throughput"][-1]
    blobs = measured("blobs")
    blob = [each for each in blobs["throughput"] if each["place"] == "Azurite"][-1]
    return {
        # Client and server shared two cores: one core's worth is half of it.
        "HTTP": Trigger(
            server["64"]["rate"] / 2,
            (alone["p50_ms"], alone["p99_ms"]),
            0,
            2,
            0.40,
            "the ingress",
            math.inf,
        ),
        # Receive, complete, send and take the reply: four operations of Standard at 0.80 a million.
        "messages": Trigger(
            1000 / message["host_cpu_ms"],
            (messages["latency"]["p50_ms"], messages["latency"]["p99_ms"]),
            10 * 1000 / message["host_cpu_ms"],
            0,
            4 * 0.80,
            "a Premium namespace with 16 messaging units",
            16 * 1_000,
        ),
        # Get, two of the lease, put, and its share of the listing: a storage account takes 20,000
        # requests a second. https://learn.microsoft.com/azure/storage/common/scalability-targets-standard-account
        "blobs": Trigger(
            1000 / blob["host_cpu_ms"],
            (blobs["latency"][0]["p50_ms"], blobs["latency"][0]["p99_ms"]),
            10 * 1000 / blob["host_cpu_ms"],
            1,
            1e6 * (3 * 0.065 + 2 * 0.005) / 10_000,
            "a storage account",
            20_000 / 5,
        ),
    }


# --- what comes -----------------------------------------------------------------------------------


def steady(second: int) -> float:
    """All day the same."""
    return 1.0


def daily(second: int) -> float:
    """Ten times as much at noon as at midnight, the mean of a day being 1."""
    return 1 + 9 / 11 * math.sin(2 * math.pi * (second / 86_400 - 0.25))


def bursts(second: int) -> float:
    """Every two hours five minutes of five times as much as is usual."""
    return (5.0 if second % 7200 < 300 else 1.0) / (1 + 4 * 300 / 7200)


PATTERNS: dict[str, Callable[[int], float]] = {"steady": steady, "daily": daily, "bursts": bursts}


# --- the simulation -------------------------------------------------------------------------------


class Fleet:
    """Instances that take from one queue."""

    def __init__(self, trigger: Trigger, rate: float, pattern: Callable[[int], float]) -> None:
        self.trigger, self.rate, self.pattern = trigger, rate, pattern
        self.environment = simpy.Environment()
        self.ready = self.wanted = max(trigger.least, self._needed(rate * pattern(0)))
        self._most = self._needed(rate * max(map(pattern, range(0, 86_400, 60))))
        self.waiting = 0.0
        self.came = self.busy_share = 0.0
        self.waits: list[tuple[float, float]] = []
        self.counts: list[int] = []
        self._wishes: deque[tuple[float, int]] = deque()
        self._random = random.Random(0)

    def run(self, seconds: int) -> None:
        """Let so much time pass."""
        self.environment.process(self._inputs())
        self.environment.process(self._autoscaler())
        self.environment.run(until=seconds)

    def _needed(self, rate: float) -> int:
        return math.ceil(rate / self.trigger.per_second / 0.7)

    def _inputs(self) -> Generator[simpy.Event, Any, None]:
        while True:
            mean = self.rate * self.pattern(int(self.environment.now))
            come = max(0.0, self._random.gauss(mean, math.sqrt(mean)))
            capacity = self.ready * self.trigger.per_second
            before = self.waiting
            scored = min(before + come, capacity)
            self.waiting = before + come - scored
            self.came += come
            self.busy_share = scored / capacity if capacity else 1.0
            # Those of this second, in the middle of what waits; with none ready, until one is.
            if come:
                wait = (before + come / 2) / capacity if capacity else START_SECONDS + SYNC_SECONDS
                self.waits.append((max(0.0, wait - 0.5) if before == 0 else wait, come))
            self.counts.append(max(self.ready, self.wanted))
            yield self.environment.timeout(1)

    def _autoscaler(self) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self.environment.timeout(SYNC_SECONDS)
            now = self.environment.now
            self._wishes.append((now, self._wish()))
            while self._wishes[0][0] < now - STABLE_SECONDS:
                self._wishes.popleft()
            wanted = max(wish for _, wish in self._wishes)
            if wanted > self.wanted:
                self.environment.process(self._start(wanted - self.wanted))
            elif wanted < self.wanted:
                self.ready = min(self.ready, wanted)
            self.wanted = wanted

    def _wish(self) -> int:
        if self.trigger.target:
            in_work = self.rate * self.pattern(int(self.environment.now))
            # A queue's length has what is locked, too: some ten seconds' worth.
            wish = math.ceil((self.waiting + 10 * in_work) / self.trigger.target / 0.7)
        else:
            wish = math.ceil(self.ready * self.busy_share / 0.7)
        # Kubernetes' own bound: in 15 seconds twice as many, or four more.
        wish = min(wish, max(2 * self.wanted, self.wanted + 4), self._most)
        return max(self.trigger.least, wish)

    def _start(self, count: int) -> Generator[simpy.Event, Any, None]:
        yield self.environment.timeout(START_SECONDS)
        self.ready = min(self.ready + count, max(self.wanted, self.trigger.least))


def quantile(waits: list[tuple[float, float]], share: float) -> float:
    """The wait within which this share of the inputs is, in seconds."""
    total = sum(count for _, count in waits)
    seen = 0.0
    for wait, count in sorted(waits):
        seen += count
        if seen >= share * total:
            return wait
    return math.nan


def simulated(trigger: Trigger, rate: float, pattern: Callable[[int], float], day: int) -> Figures:
    """What a day of it is like."""
    fleet = Fleet(trigger, rate, pattern)
    fleet.run(day)
    p50, p99 = (quantile(fleet.waits, each) for each in (0.5, 0.99))
    instances = sum(fleet.counts)
    return {
        "instances_mean": statistics.fmean(fleet.counts),
        "instances_most": max(fleet.counts),
        "p50_ms": p50 * 1000 + trigger.alone_ms[0],
        "p99_ms": p99 * 1000 + trigger.alone_ms[1],
        "dollars": instances * INSTANCE_SECOND / fleet.came * 1e6 + trigger.dollars,
        "places": max(1, math.ceil(max(map(pattern, range(0, day, 60))) * rate / trigger.at)),
    }


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--hours", type=int, default=24, help="of simulated time")
    options = parser.parse_args()
    figures = {
        name: {
            pattern: {
                str(rate): simulated(trigger, rate, shape, options.hours * 3600) for rate in RATES
            }
            for pattern, shape in PATTERNS.items()
        }
        for name, trigger in triggers().items()
    }
    print(json.dumps(figures) if options.json else tables(figures))


def tables(figures: Figures) -> str:
    """One table for each trigger."""
    return "\n\n".join(table(name, found) for name, found in figures.items())


def table(name: str, found: Figures) -> str:
    """That of a trigger."""
    lines = [
        f"| {name} | instances, mean (most) | p50 | p99 | US dollars a million |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rate in RATES:
        for pattern, by_rate in found.items():
            each = by_rate[str(rate)]
            lines.append(
                f"| {rate:,}/s, {pattern} | {each['instances_mean']:,.1f} "
                f"({each['instances_most']:,}) | {time(each['p50_ms'])} | {time(each['p99_ms'])} | "
                f"{each['dollars']:,.2f} |"
            )
    return "\n".join(lines)


def time(milliseconds: float) -> str:
    """In the unit that suits it."""
    return f"{milliseconds / 1000:,.1f} s" if milliseconds >= 1000 else f"{milliseconds:,.0f} ms"


if __name__ == "__main__":
    main()
