"""Many instances on one queue and one container: nothing lost, nothing doubled, shares, speed-up.

``python -m benchmarks.instances`` prints two tables. In the first 1, 2, 4 and 8 standalone hosts,
each in a network namespace of its own, share what waits in a queue (the double of the tests, in the
process that measures) and in a container (Azurite), undisturbed. In the second instances are killed
and paused, connections are cut, broker and storage go away and come back, a clock is set, at random
moments to the last: each message must have one reply after removal of equal ids, as a queue with
duplicate detection does it, and each blob one document with the right content, or it ends with an
error. What run() was called for twice was scored twice, to no effect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.fleet import Faults, Fleet, a_clock_for
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.network import Network, network
from tests.standalone.test_nothing_lost import (
    Containers,
    check_replies,
    containers,
    inputs_of,
)

from . import machine
from .machine import progress

COUNTS = (1, 2, 4, 8)
PATIENCE = 1800.0
Figures = dict[str, Any]


class Work(NamedTuple):
    """What waits, and how long run() takes for each."""

    messages: int
    blobs: int
    seconds: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="undisturbed")
    parser.add_argument("--work", type=float, nargs=3, default=(3_000, 500, 0.02),
                        metavar=("MESSAGES", "BLOBS", "SECONDS"), help="undisturbed")  # fmt: skip
    parser.add_argument("--disturbed", type=int, nargs="*", default=COUNTS, help="instances")
    parser.add_argument("--disturbed-work", type=float, nargs=3, default=(20_000, 10_000, 0.002),
                        metavar=("MESSAGES", "BLOBS", "SECONDS"), help="of the last; of the others "
                        "a tenth")  # fmt: skip
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the faults")
    options = parser.parse_args()
    figures: Figures = {"seed": options.seed, "load": os.getloadavg()[0]}
    figures["undisturbed"] = _row(options.counts, [_work(options.work)] * len(options.counts))
    large = _work(options.disturbed_work)
    small = Work(large.messages // 10, large.blobs // 10, large.seconds)
    works = [small] * (len(options.disturbed) - 1) + [large]
    figures["disturbed"] = _row(options.disturbed, works, random.Random(options.seed))
    figures["load_after"] = os.getloadavg()[0]
    progress("")
    print(json.dumps(figures) if options.json else tables(figures))


def _work(given: Any) -> Work:
    messages, blobs, seconds = given
    return Work(int(messages), int(blobs), seconds)


def _row(counts: list[int], works: list[Work], seeded: random.Random | None = None) -> Any:
    rows = []
    for count, work in zip(counts, works, strict=False):
        with tempfile.TemporaryDirectory() as folder:
            progress(f"{count} instances, {work.messages:,} messages, {work.blobs:,} blobs")
            rows.append(trial(Path(folder), count, work, seeded))
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


# --- one trial ------------------------------------------------------------------------------------


class Trial:
    """What waits where, and how much of it is done."""

    def __init__(self, folder: Path, work: Work, address: str) -> None:
        self.messages = inputs_of(work.messages, work.seconds)
        self.blobs = [
            each._replace(name=f"blob-{each.name}") for each in inputs_of(work.blobs, work.seconds)
        ]
        self.broker = ServiceBusBroker(address=address)
        self.azurite = Azurite(location=folder / "azurite", address=address)
        self.at: dict[str, float] = {}

    def fill_queue(self) -> None:
        """As many messages as there are to be."""
        self.broker.add_queue("input", lock_seconds=10)
        self.broker.add_queue("output", duplicate_detection=True)
        for each in self.messages:
            named = {"x-name": each.name}
            self.broker.send("input", each.body, message_id=each.name, properties=named)

    def replied(self, began: float) -> int:
        """How many replies there are; ``at`` has the time of the last."""
        replies = self.broker.counts("output").active
        if replies >= len(self.messages):
            self.at.setdefault("messages", time.monotonic() - began)
        return replies

    async def scored(self, fleet: Fleet, began: float) -> None:
        """Until run() has ended for each input once; the storage is not asked.

        Azurite works for seconds at a listing of thousands, and begins anew at each restart.
        """
        until = time.monotonic() + PATIENCE
        wanted = {each.name for each in [*self.messages, *self.blobs]}
        while left := wanted.difference(*fleet.noted("ended")):
            assert time.monotonic() < until, f"{len(left)} not scored"
            progress(f"{len(left):,} not scored, {self.replied(began):,} replies")
            await asyncio.sleep(1)

    async def done(self, place: Containers, began: float) -> None:
        """Until each input has its answer; ``at`` has the time of each half since ``began``."""
        until = time.monotonic() + PATIENCE
        replies = documents = 0
        while "messages" not in self.at or "blobs" not in self.at:
            assert time.monotonic() < until, f"{replies} replies, {documents} documents"
            replies = self.replied(began)
            looked = time.monotonic()
            if "blobs" not in self.at:
                documents = await place.count()
                if documents >= len(self.blobs):
                    self.at["blobs"] = time.monotonic() - began
            # Azurite works for seconds at long listings.
            await asyncio.sleep(max(0.1, 4 * (time.monotonic() - looked)))
            progress(f"{replies:,} replies, {documents:,} documents")


def trial(folder: Path, count: int, work: Work, seeded: random.Random | None = None) -> Figures:
    """So many instances at this work, disturbed if ``seeded`` is given.

    Raises:
        AssertionError: something was lost, doubled or wrong.
    """
    with ExitStack() as stack:
        net = stack.enter_context(network(count))
        each = Trial(folder, work, net.address)
        stack.enter_context(each.azurite)
        stack.enter_context(each.broker)
        each.fill_queue()
        found = asyncio.run(_tried(each, folder, net.places, seeded))
    return {
        "instances": count,
        "namespaces": isinstance(net, Network),
        **work._asdict(),
        **found,
    }


async def _tried(
    trial: Trial, folder: Path, places: list[Any], seeded: random.Random | None
) -> Figures:
    async with containers(trial.azurite) as place:
        await place.fill(trial.blobs)
        environ = place.environ | {"ServiceBusConnectionString": trial.broker.connection_string}
        fleet = Fleet(folder, places, environ)
        clocks = seeded is not None and a_clock_for(fleet.instances[-1])
        with fleet, _disturbed(trial, fleet, seeded) as faults:
            fleet.go()
            began = time.monotonic()
            if seeded:
                await trial.scored(fleet, began)
                await asyncio.to_thread(faults.end)
            await trial.done(place, began)
            codes = await asyncio.to_thread(fleet.end)
            for code, each in zip(codes, fleet.instances, strict=True):
                if code:
                    print(each.running.log[-5000:], file=sys.stderr)
        with contextlib.redirect_stdout(sys.stderr):
            check_replies(trial.broker, trial.messages)
        await place.check(trial.blobs)
    assert codes == [0] * len(places), codes
    return _figures(trial, fleet) | ({"faults": faults.done, "clocks": clocks} if seeded else {})


class _Disturbance(threading.Thread):
    """Faults until it is over; none without a seed."""

    def __init__(self, faults: Faults | None) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._faults = faults

    @property
    def done(self) -> dict[str, int]:
        return self._faults.done if self._faults else {}

    def run(self) -> None:
        if self._faults:
            self._faults.until(self._over.is_set, 1, 4)

    def end(self) -> None:
        """No more of them; what is away comes back."""
        self._over.set()
        self.join()


@contextmanager
def _disturbed(trial: Trial, fleet: Fleet, seeded: random.Random | None) -> Iterator[_Disturbance]:
    faults = Faults(seeded, fleet, trial.broker, trial.azurite) if seeded else None
    disturbance = _Disturbance(faults)
    disturbance.start()
    try:
        yield disturbance
    finally:
        disturbance.end()


def _figures(trial: Trial, fleet: Fleet) -> Figures:
    """How quickly, by whom, and how often run() was called for more than was there."""
    ended = [len(each) for each in fleet.noted("ended")]
    wanted = len(trial.messages) + len(trial.blobs)
    return {
        "messages_seconds": trial.at["messages"],
        "blobs_seconds": trial.at["blobs"],
        "shares": [each / sum(ended) for each in ended],
        "scored_again": sum(ended) - wanted,
        "replies_removed": trial.broker.statistics.duplicates_removed,
        "locks_expired": trial.broker.statistics.locks_expired,
    }


# --- output ---------------------------------------------------------------------------------------


def tables(figures: Figures) -> str:
    """In Markdown."""
    return f"{undisturbed(figures['undisturbed'])}\n\n{disturbed(figures['disturbed'])}"


def undisturbed(rows: list[Figures]) -> str:
    """Speed-up and shares."""
    head = ["instances", "messages/s", "blobs/s", "all of it", "times one", "least and most share"]
    cells = []
    for each in rows:
        seconds = _seconds(each)
        cells.append(
            [
                each["instances"],
                machine.short(each["messages"] / each["messages_seconds"]),
                machine.short(each["blobs"] / each["blobs_seconds"]),
                f"{seconds:.0f} s",
                f"{_seconds(rows[0]) / seconds:.1f}",
                _shares(each),
            ]
        )
    return machine.table(head, cells)


def disturbed(rows: list[Figures]) -> str:
    """What was done to them, and what became of it."""
    head = ["instances", "messages", "blobs", "all of it", "faults", "scored again",
            "least and most share"]  # fmt: skip
    return machine.table(
        head,
        [
            [
                each["instances"],
                f"{each['messages']:,}",
                f"{each['blobs']:,}",
                f"{_seconds(each):.0f} s",
                ", ".join(f"{count} {kind}" for kind, count in each["faults"].items() if count),
                f"{each['scored_again']:,}",
                _shares(each),
            ]
            for each in rows
        ],
    )


def _seconds(each: Figures) -> float:
    return float(max(each["messages_seconds"], each["blobs_seconds"]))


def _shares(each: Figures) -> str:
    return f"{min(each['shares']):.0%}, {max(each['shares']):.0%}"


if __name__ == "__main__":
    main()
