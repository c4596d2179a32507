"""Instances on one queue and one container, and what is done to them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Self

from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.clock import Clock, can_be_made
from tests.hosts.network import Place
from tests.hosts.standalone import StandaloneHost

# What each input asks for is in its text. It waits for the file ``go`` above, and notes what began
# and what ended: each instance in a folder of its own, its successors after a kill too.
SCRIPT = """
import hashlib, json, pathlib, time

here = pathlib.Path(__file__).parent
go = here.parent / "go"
notes = here.joinpath("notes").open("a", buffering=1)

def init():
    pass

def run(data):
    asked = json.loads(data)
    while not go.exists():
        time.sleep(0.02)
    notes.write(f"began {asked['name']}\\n")
    time.sleep(asked["seconds"])
    notes.write(f"ended {asked['name']}\\n")
    return {"digest": hashlib.sha256(data.encode()).hexdigest()}
"""
END_SECONDS = 60.0
CLOCK_SECONDS = 600


class Instance:
    """A place among the instances; the process in it may be killed and replaced."""

    def __init__(self, folder: Path, place: Place, environ: Mapping[str, str]) -> None:
        folder.mkdir()
        self._script = folder / "score.py"
        self._script.write_text(SCRIPT)
        self._notes = folder / "notes"
        self._place, self._environ = place, dict(environ)
        self.clock: Clock | None = None
        self.codes: list[int] = []
        self.host: StandaloneHost | None = None

    def give_clock(self) -> None:
        """From the next start on its clock can be set."""
        self.clock = Clock(self._script.parent)
        self._environ |= self.clock.environ

    def start(self) -> None:
        """A new process, which need not be ready yet."""
        self.host = StandaloneHost(
            self._script,
            environ=self._environ,
            address=self._place.address,
            within=self._place.within,
        )
        self.host.start()

    @property
    def running(self) -> StandaloneHost:
        """Its process."""
        assert self.host is not None, "it was never started"
        return self.host

    @property
    def worker(self) -> int | None:
        """The process that scores, if there is one now."""
        pid = self.running.process.pid
        with contextlib.suppress(OSError, IndexError):
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return None

    def kill(self) -> None:
        """SIGKILL, and another in its place, as an orchestrator does."""
        self.running.stop(signal.SIGKILL)
        self.start()

    def kill_worker(self) -> None:
        """SIGKILL of the one process that scores, which its supervisor replaces."""
        self._signal_worker(signal.SIGKILL)

    def pause(self, seconds: float) -> None:
        """It keeps its connections and does nothing for so long."""
        self._signal_worker(signal.SIGSTOP)
        time.sleep(seconds)
        self._signal_worker(signal.SIGCONT)

    def _signal_worker(self, number: int) -> None:
        if (worker := self.worker) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)

    def end(self) -> int:
        """SIGTERM; the exit code once it has finished what it had begun."""
        code = self.running.stop(timeout=END_SECONDS)
        self.codes.append(code)
        return code

    def noted(self, word: str) -> list[str]:
        """The names of the inputs that began, or ended, here."""
        text = self._notes.read_text() if self._notes.exists() else ""
        return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(word)]


class Fleet:
    """`with Fleet(folder, places, environ) as fleet:` starts an instance at each place.

    ``others``: what some get in place of ``environ``, by number.
    """

    def __init__(
        self,
        folder: Path,
        places: list[Place],
        environ: Mapping[str, str],
        others: Mapping[int, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self._go = folder / "go"
        self.instances = [
            Instance(folder / f"instance-{number}", place, others.get(number, environ))
            for number, place in enumerate(places)
        ]

    def __enter__(self) -> Self:
        try:
            for each in self.instances:
                each.start()
            for each in self.instances:
                each.running.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def go(self) -> None:
        """Nothing was scored until now."""
        self._go.touch()

    def end(self) -> list[int]:
        """SIGTERM to all at once; their exit codes."""
        started = [each for each in self.instances if each.host is not None]
        with ThreadPoolExecutor(len(started) or 1) as pool:
            return list(pool.map(Instance.end, started))

    def __exit__(self, *exc_info: object) -> None:
        for each in self.instances:
            if each.host is not None:
                each.host.stop(signal.SIGKILL)

    def noted(self, word: str) -> list[list[str]]:
        """What began, or ended, at each instance."""
        return [each.noted(word) for each in self.instances]


class Faults:
    """Does at random what may happen to instances, a broker and a storage; counts it."""

    def __init__(
        self,
        seeded: random.Random,
        fleet: Fleet,
        broker: ServiceBusBroker,
        azurite: Azurite,
    ) -> None:
        self._random, self._fleet = seeded, fleet
        self._broker, self._azurite = broker, azurite
        self._kinds: dict[str, Callable[[], None]] = {
            "kill": lambda: self._one().kill(),
            "kill of a worker": lambda: self._one().kill_worker(),
            "pause": lambda: self._one().pause(seeded.uniform(0.5, 7)),
            "cut": lambda: _ignored(broker.cut_connections()),
            "broker away": self._broker_away,
            "storage restarted": self._storage_restarted,
        }
        if any(each.clock for each in fleet.instances):
            self._kinds["clock step"] = self._clock_step
        self.done: dict[str, int] = dict.fromkeys(self._kinds, 0)

    def until(self, is_over: Callable[[], object], shortest: float, longest: float) -> None:
        """One after another, each kind once before any comes again, until it is over."""
        deck: list[str] = []
        while not is_over():
            time.sleep(self._random.uniform(shortest, longest))
            if not deck:
                deck = self._random.sample(sorted(self._kinds), len(self._kinds))
            if not is_over():
                kind = deck.pop()
                self._kinds[kind]()
                self.done[kind] += 1

    def _one(self) -> Instance:
        return self._random.choice(self._fleet.instances)

    def _broker_away(self) -> None:
        self._broker.stop_listening()
        time.sleep(self._random.uniform(0.5, 3))
        self._broker.start_listening()

    def _storage_restarted(self) -> None:
        self._azurite.stop()
        time.sleep(self._random.uniform(0, 2))
        self._azurite.start()

    def _clock_step(self) -> None:
        clock = self._random.choice([each.clock for each in self._fleet.instances if each.clock])
        clock.set(self._random.randint(-CLOCK_SECONDS, CLOCK_SECONDS))


def _ignored(value: object) -> None:
    """For what is called for its effect."""


def a_clock_for(instance: Instance) -> bool:
    """Give it a clock that can be set, where one can be made; before it starts."""
    if can_be_made():
        instance.give_clock()
    return instance.clock is not None
