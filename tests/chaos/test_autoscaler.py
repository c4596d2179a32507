"""Instances come and go by the length of a queue, and nothing that has begun is cut off."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from tests.chaos.autoscaler import Autoscaler
from tests.chaos.fleet import Fleet, Instance
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.network import Place
from tests.standalone.test_nothing_lost import check_replies, inputs_of

POLL, PATIENCE = 0.5, 240.0


@pytest.mark.parametrize(
    ("length", "before", "after"),
    [(0, 0, 0), (1, 0, 1), (800, 0, 1), (800, 1, 5), (800, 5, 8), (9000, 5, 8), (205, 2, 2)],
)
def test_it_goes_up_as_kubernetes_does(length: int, before: int, after: int) -> None:
    scaler = Autoscaler(target=100, most=8, cooldown=300, stable=300, instances=before)
    assert scaler.look(0, length) == after


def test_it_goes_down_late_and_to_none_after_the_cool_down() -> None:
    scaler = Autoscaler(target=100, most=8, cooldown=60, stable=30, instances=8)
    lengths = {0: 800, 10: 300, 20: 250, 31: 250, 45: 80, 51: 0, 62: 0, 100: 0, 106: 0}
    assert [scaler.look(now, length) for now, length in lengths.items()] == [
        8, 8, 8, 3, 3, 3, 1, 1, 0,
    ]  # fmt: skip


class Orchestrator:
    """Starts the places of a fleet one after another, and ends the newest first."""

    def __init__(self, fleet: Fleet, pool: ThreadPoolExecutor) -> None:
        self._idle = list(reversed(fleet.instances))
        self._pool = pool
        self.running: list[Instance] = []
        self.ends: list[Future[int]] = []
        self.counts: list[int] = []

    def have(self, wanted: int, at_work: bool) -> None:
        """From now on so many run; those that are to end get SIGTERM, and time."""
        while len(self.running) < wanted and self._idle:
            self.running.append(self._idle.pop())
            self.running[-1].start()
        while len(self.running) > wanted:
            ending = self.running.pop()
            self.ends.append(self._pool.submit(self._ended, ending))
            self.ended_at_work += at_work
        self.counts.append(len(self.running))

    ended_at_work = 0

    def _ended(self, instance: Instance) -> int:
        code = instance.end()
        self._idle.append(instance)
        return code


@pytest.mark.parametrize(
    ("messages", "seconds", "target", "most"),
    [(250, 0.02, 60, 3), pytest.param(6000, 0.03, 400, 8, marks=pytest.mark.long)],
)
def test_from_none_to_the_most_and_back(
    tmp_path: Path, messages: int, seconds: float, target: int, most: int
) -> None:
    """The backlog is drained; each message is scored once, by an instance that ends with 0."""
    inputs = inputs_of(messages, seconds)
    scaler = Autoscaler(target, most, cooldown=2, stable=1)
    with ServiceBusBroker() as broker, ThreadPoolExecutor(most) as pool:
        broker.add_queue("input", lock_seconds=60)
        broker.add_queue("output")
        environ = {"TriggerConnectionString": broker.connection_string}
        fleet = Fleet(tmp_path, [Place()] * most, environ)
        fleet.go()
        orchestrator = Orchestrator(fleet, pool)
        try:
            orchestrator.have(scaler.look(time.monotonic(), 0), False)
            for each in inputs:
                named = {"x-name": each.name}
                broker.send("input", each.body, message_id=each.name, properties=named)
            followed(broker, scaler, orchestrator)
            codes = [each.result(PATIENCE) for each in orchestrator.ends]
        finally:
            fleet.__exit__()
        check_replies(broker, inputs)
    print(orchestrator.counts, orchestrator.ended_at_work)
    assert set(codes) == {0}
    assert max(orchestrator.counts) == most
    assert orchestrator.counts[0] == orchestrator.counts[-1] == 0
    assert orchestrator.ended_at_work > 0, "no instance was told to end while there was work"
    began, ended = (Counter(chain(*fleet.noted(word))) for word in ("began", "ended"))
    assert began == ended == Counter(each.name for each in inputs)


def followed(broker: ServiceBusBroker, scaler: Autoscaler, orchestrator: Orchestrator) -> None:
    """Do what the autoscaler says, until it says none."""
    until = time.monotonic() + PATIENCE
    while True:
        waiting, locked, _ = broker.counts("input")
        wanted = scaler.look(time.monotonic(), waiting + locked)
        orchestrator.have(wanted, waiting + locked > 0)
        if wanted == 0:
            return
        assert time.monotonic() < until, (waiting, locked)
        time.sleep(POLL)
