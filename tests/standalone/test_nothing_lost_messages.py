"""Nothing is lost and nothing is done twice, whatever is killed or cut: messages.

The moments are random; a run that failed is repeated with SCORING_TEST_SEED set to what it printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.conftest import WriteScript
from tests.hosts.broker import BrokerMessage, Counts, ServiceBusBroker
from tests.hosts.standalone import StandaloneHost

PATIENCE = 90.0
LOCK_SECONDS = 5
# Read at import: fixtures take variables of this prefix out of the environment.
_SEED = os.environ.get("SCORING_TEST_SEED")

SCRIPT = """
import hashlib, json, time
from scoring_runtime import InputError

def init():
    pass

def run(data):
    asked = json.loads(data)
    time.sleep(asked["seconds"])
    if asked["do"] == "refuse":
        raise InputError("not to be scored")
    if asked["do"] == "raise":
        raise RuntimeError("broken")
    return {"digest": hashlib.sha256(data.encode()).hexdigest()}
"""
REASONS = {"refuse": "InputError", "raise": "RunFailed"}
STATUSES = {"score": 200, "refuse": 400, "raise": 500}


class Input(NamedTuple):
    """A message and what is to become of it."""

    name: str
    do: str
    seconds: float

    @property
    def body(self) -> bytes:
        """Distinct: it holds the name."""
        return json.dumps(self._asdict()).encode()

    def is_answered_by(self, reply: BrokerMessage) -> bool:
        """Whether this is the right reply, content and properties."""
        if reply.application_properties != {"x-name": self.name, "status": STATUSES[self.do]}:
            return False
        if self.do == "score":
            return reply.body == b'{"digest":"%s"}' % sha256(self.body)
        return set(json.loads(reply.body)) == {"message"}


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def inputs_of(count: int, poisoned: int, seconds: float) -> list[Input]:
    """So many inputs, of which some are poisoned, spread among the others."""
    kinds = ["score"] * (count - poisoned)
    for number in range(poisoned):
        kinds.insert(number * count // poisoned, "refuse" if number % 2 else "raise")
    return [Input(f"{number:05}", do, seconds) for number, do in enumerate(kinds)]


@contextmanager
def queues_with(inputs: list[Input]) -> Iterator[ServiceBusBroker]:
    """A broker on which these wait."""
    with ServiceBusBroker() as broker:
        broker.add_queue("input", lock_seconds=LOCK_SECONDS)
        broker.add_queue("output")
        for each in inputs:
            broker.send("input", each.body, message_id=each.name, properties={"x-name": each.name})
        yield broker


class Hosts:
    """Two hosts on the same queue."""

    def __init__(self, script: Path, environ: Mapping[str, str]) -> None:
        self._script, self._environ = script, environ
        self._hosts = [self._started(), self._started()]

    def __iter__(self) -> Iterator[StandaloneHost]:
        return iter(self._hosts)

    def kill(self, number: int) -> int:
        """SIGKILL one that is at work, and start another in its place; the exit code."""
        until = time.monotonic() + PATIENCE
        while " 200 " not in self._hosts[number].log and time.monotonic() < until:
            time.sleep(0.005)
        code = self._hosts[number].stop(signal.SIGKILL)
        self._hosts[number] = self._started()
        return code

    def stop(self) -> list[int]:
        """SIGTERM, to both at once; the exit codes."""
        for host in self._hosts:
            host.process.terminate()
        for host in self._hosts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.process.wait(PATIENCE)
        return [host.stop(signal.SIGKILL) for host in self._hosts]

    def _started(self) -> StandaloneHost:
        host = StandaloneHost(self._script, environ=self._environ)
        host.start()
        return host


@contextmanager
def two_hosts(script: Path, broker: ServiceBusBroker) -> Iterator[Hosts]:
    """They are to end normally."""
    hosts = Hosts(script, {"TriggerConnectionString": broker.connection_string})
    try:
        yield hosts
    except BaseException:
        hosts.stop()
        for each in hosts:
            print(each.log[-3000:])
        raise
    assert hosts.stop() == [0, 0]


def a_seed() -> random.Random:
    seed = int(_SEED) if _SEED else random.randrange(2**32)
    print(f"SCORING_TEST_SEED={seed}")
    return random.Random(seed)


def disturb(
    broker: ServiceBusBroker,
    moments: Sequence[Callable[[], object]],
    shortest: float,
    longest: float,
) -> None:
    """Do each at a random moment while there is work, which there must be to the last."""
    seeded = a_seed()
    broker.wait_for(lambda: broker.counts("output").active, PATIENCE)
    for act in moments:
        time.sleep(seeded.uniform(shortest, longest))
        act()
    assert broker.counts("input").active > 0, "the last one came too late"


def check(broker: ServiceBusBroker, inputs: list[Input]) -> None:
    """Each message has one reply after removal of equal ids; dead are the poisoned ones only."""
    try:
        broker.wait_for(lambda: broker.counts("input")[:2] == (0, 0), PATIENCE)
    finally:
        print(broker.counts("input"), broker.counts("output"), broker.statistics)
    replies = broker.messages("output")
    by_id = {each.message_id: each for each in replies}
    assert sorted(each.answers for each in by_id.values()) == [each.name for each in inputs]
    by_name = {each.name: each for each in inputs}
    wrong = [each for each in replies if not by_name[each.correlation_id].is_answered_by(each)]
    assert wrong == []
    letters = broker.dead_letters("input")
    assert sorted(
        (each.message_id, each.application_properties["DeadLetterReason"]) for each in letters
    ) == [(each.name, REASONS[each.do]) for each in inputs if each.do in REASONS]
    poisoned = {each.name: each.body for each in inputs if each.do in REASONS}
    assert {each.message_id: each.body for each in letters} == poisoned


def connections_are_cut(script: Path) -> None:
    """A thousand messages, slow enough for ten cuts and for two times without the broker."""
    inputs = inputs_of(1000, 10, seconds=0.04)
    with queues_with(inputs) as broker, two_hosts(script, broker) as hosts:
        processes = [each.process for each in hosts]
        cut: list[int] = []

        def cut_off() -> None:
            broker.wait_for(lambda: broker.open_connections, PATIENCE)
            cut.append(broker.cut_connections())

        def go_away() -> None:
            broker.stop_listening()
            time.sleep(3)
            broker.start_listening()

        disturb(broker, [*[cut_off] * 5, go_away, *[cut_off] * 5, go_away], 0.2, 1.2)
        assert len(cut) == 10
        assert all(cut)
        check(broker, inputs)
        for host in hosts:
            broker.wait_for(partial(is_ready, host), PATIENCE)
            assert "The Service Bus trigger works again." in host.log
        assert [each.process for each in hosts] == processes
        assert all(each.poll() is None for each in processes)


def is_ready(host: StandaloneHost) -> bool:
    return httpx.get(f"{host.url}/health/ready").status_code == 200


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[None]]:
    """The scenario with cuts, which waits most of the time, by itself."""
    script = tmp_path_factory.mktemp("cut") / "score.py"
    script.write_text(SCRIPT)
    with ThreadPoolExecutor() as pool:
        yield pool.submit(connections_are_cut, script)


@pytest.mark.parametrize(
    ("count", "kills"), [(1000, 1), pytest.param(5000, 5, marks=pytest.mark.long)]
)
def test_killed_hosts_lose_and_double_no_message(
    write_script: WriteScript, count: int, kills: int
) -> None:
    """Ten messages are poisoned; of two hosts one is killed at random moments."""
    script = write_script(SCRIPT)
    inputs = inputs_of(count, 10, seconds=0.005)
    with queues_with(inputs) as broker, two_hosts(script, broker) as hosts:
        ends: list[int] = []
        seeded = a_seed()
        disturb(broker, [lambda: ends.append(hosts.kill(seeded.randrange(2)))] * kills, 0.1, 1)
        assert ends == [-signal.SIGKILL] * kills
        check(broker, inputs)
        assert broker.counts("input") == Counts(0, 0, 10)
        assert broker.statistics.locks_expired >= kills, "no kill hit a host at work"


@pytest.mark.long
def test_cut_connections_lose_and_double_no_message(cut: Future[None]):
    """Ten cuts, and the broker away twice for 3 s: the same two processes answer everything."""
    cut.result(3 * PATIENCE)
