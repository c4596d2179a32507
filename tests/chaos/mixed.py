"""Mixed load with random faults: ``make chaos``, or ``python -m tests.chaos.mixed --seconds 600``.

Three hosts: two on one container and one queue, the third on a folder of a small disk; all answer
HTTP with a cache in Redis. The first is never killed: its memory is looked at. One fault at a time
strikes host, worker, Redis, storage, broker, disk or clock; what was sent before it goes on, and
after it each host is asked anew over every trigger, which must be answered within ten seconds. In
the end each message has one reply, each blob and each file one document, all of them right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient

from benchmarks import machine
from tests.chaos.fleet import CLOCK_SECONDS, Fleet, Instance, a_clock_for
from tests.hosts.azurite import Azurite
from tests.hosts.broker import ServiceBusBroker
from tests.hosts.network import Place
from tests.hosts.redis import RedisServer
from tests.standalone.test_nothing_lost import (
    LEASE,
    Containers,
    Folders,
    Input,
    check_replies,
    containers,
)

RECOVERY_SECONDS, GIVE_UP_SECONDS, LAST_SECONDS = 10.0, 60.0, 120.0
DISK = 16 * 1024 * 1024
Figures = dict[str, Any]


# --- the disk -------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 16 MB at ``folder``, where one may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
    try:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    """Until the disk takes no more."""
    with file.open("wb", buffering=0) as to:
        try:
            while True:
                to.write(bytes(65536))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


# --- load -----------------------------------------------------------------------------------------


class Asked:
    """One host over HTTP, all the time: what failed and when, what was wrong."""

    def __init__(self, instance: Instance, over: threading.Event) -> None:
        self._instance, self._over = instance, over
        self.right, self.wrong = 0, 0
        self.failed: list[float] = []
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        number = 0
        with httpx.Client(timeout=30) as client:
            while not self._over.wait(0.03):
                number += 1
                # Of two equal ones the second is in the cache.
                source = Input(f"http-{number // 2}", "score", 0)
                try:
                    url = f"{self._instance.running.url}/score"
                    answer = client.post(url, content=source.body)
                except httpx.TransportError:
                    self.failed.append(time.monotonic())
                    continue
                if answer.status_code != 200:
                    self.failed.append(time.monotonic())
                elif source.is_answered_by(answer.content):
                    self.right += 1
                else:
                    self.wrong += 1


class Fed:
    """What was sent to queue, container and folder."""

    def __init__(self, broker: ServiceBusBroker, azurite: Azurite, folders: Folders) -> None:
        self._broker, self._folder = broker, folders.environ["BLOB_INPUT_FOLDER"]
        self._output = Path(folders.environ["BLOB_OUTPUT_FOLDER"])
        options: Any = {"retry_total": 0, "connection_timeout": 2, "read_timeout": 5}
        self._service = BlobServiceClient.from_connection_string(
            azurite.connection_string, **options
        )
        self.messages: list[Input] = []
        self.blobs: list[Input] = []
        self.files: list[Input] = []
        self._lock = threading.Lock()

    def feed(self, over: threading.Event) -> None:
        """Some of each, all the time."""
        number = 0
        while not over.wait(0.5):
            number += 1
            for part in range(5):
                self.message(Input(f"{number:06}-{part}", "score", 0.005))
            self.file(Input(f"{number:06}", "score", 0.005))
            self.blob(Input(f"{number:06}", "score", 0.005), over)

    def message(self, source: Input, **options: Any) -> None:
        self._broker.send("input", source.body, message_id=source.name,
                          properties={"x-name": source.name}, **options)  # fmt: skip
        if not options:
            self.messages.append(source)

    def file(self, source: Input) -> None:
        """Whole at once, as whoever feeds a watched folder should."""
        path = Path(self._folder, f"{source.name}.json")
        aside = path.with_suffix(".part")
        aside.write_bytes(source.body)
        aside.rename(path)
        self.files.append(source)

    def blob(self, source: Input, over: threading.Event) -> None:
        """Again until the storage has it."""
        blob = self._service.get_blob_client("input", f"{source.name}.json")
        while not over.is_set():
            with contextlib.suppress(AzureError):
                blob.upload_blob(source.body, overwrite=True)
                self.blobs.append(source)
                return
            time.sleep(0.1)

    def has_document(self, source: Input) -> bool:
        with contextlib.suppress(AzureError):
            return bool(self._service.get_blob_client("output", source.document).exists())
        return False

    def has_file(self, source: Input) -> bool:
        return (self._output / source.document).exists()

    def close(self) -> None:
        self._service.close()


# --- faults ---------------------------------------------------------------------------------------


class Chaos:
    """The parts, the faults that strike them, and how long each took to be over."""

    def __init__(self, seeded: random.Random, fleet: Fleet, fed: Fed, broker: ServiceBusBroker,
                 azurite: Azurite, redis: RedisServer, disk: Path | None) -> None:  # fmt: skip
        self._random, self.fleet, self.fed = seeded, fleet, fed
        self._broker, self._azurite, self._redis, self._disk = broker, azurite, redis, disk
        mortal = fleet.instances[1:]
        self.kinds: dict[str, Callable[[], None]] = {
            "host": lambda: seeded.choice(mortal).kill(),
            "worker": lambda: seeded.choice(mortal).kill_worker(),
            "worker paused": lambda: seeded.choice(fleet.instances).pause(self._a_while()),
            "Redis away": partial(self._away, redis.stop, redis.start),
            "Redis silent": partial(self._away, redis.pause, redis.go_on),
            "storage": partial(self._away, azurite.stop, azurite.start),
            "broker away": partial(self._away, broker.stop_listening, broker.start_listening),
            "connections cut": self._cut,
        }
        if disk is not None:
            full = disk / "full"
            self.kinds["disk full"] = partial(self._away, lambda: fill(full), full.unlink)
        if clock := mortal[0].clock:
            self.kinds["clock"] = lambda: clock.set(seeded.randint(-CLOCK_SECONDS, CLOCK_SECONDS))
        self.recoveries: dict[str, list[float]] = {kind: [] for kind in self.kinds}
        self.windows: list[tuple[float, float]] = []
        self.memory: list[float] = []
        self._probes = 0

    def strike(self, kind: str) -> None:
        """One fault, and the time from its end until everything answers again."""
        began = time.monotonic()
        self.kinds[kind]()
        ended = time.monotonic()
        last = self._recovered()
        self.recoveries[kind].append(time.monotonic() - ended)
        self.windows.append((began, time.monotonic() + 0.5))
        print(f"{kind}: {self.recoveries[kind][-1]:.1f} s, {last} last", file=sys.stderr)
        self.memory.append(machine.memory_mb(self.fleet.instances[0].running.process.pid)["pss_mb"])

    def _a_while(self) -> float:
        return self._random.uniform(0.5, 3)

    def _away(self, go: Callable[[], object], come: Callable[[], object]) -> None:
        go()
        time.sleep(self._a_while())
        come()

    def _cut(self) -> None:
        self._broker.cut_connections()

    def _recovered(self) -> str:
        """Wait until what is sent now is answered by every host and over every trigger.

        Which was the last.
        """
        self._probes += 1
        source = Input(f"probe-{self._probes}", "score", 0)
        answered = self._broker.counts("probes").active
        self.fed.message(source, reply_to="probes")
        self.fed.file(source)
        self.fed.blob(source, threading.Event())
        left: dict[str, Callable[[], bool]] = {
            "message": lambda: self._broker.counts("probes").active > answered,
            "file": lambda: self.fed.has_file(source),
            "blob": lambda: self.fed.has_document(source),
        }
        for number, each in enumerate(self.fleet.instances):
            left[f"host {number}"] = partial(_answers, each, source)
        until = time.monotonic() + GIVE_UP_SECONDS
        last = ""
        while left:
            last = next(reversed(left))
            left = {name: is_so for name, is_so in left.items() if not is_so()}
            assert time.monotonic() < until, f"no answer within {GIVE_UP_SECONDS} s: {list(left)}"
            time.sleep(0.05)
        return last


def _answers(instance: Instance, source: Input) -> bool:
    try:
        url = f"{instance.running.url}/score"
        answer = httpx.post(url, content=source.body, timeout=5)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and source.is_answered_by(answer.content)


# --- a run ----------------------------------------------------------------------------------------


def run(folder: Path, seconds: float, seed: int) -> Figures:
    """So long, or as long as each kind of fault once takes.

    Raises:
        AssertionError: something was lost, doubled, wrong or not answered.
    """
    with contextlib.ExitStack() as stack:
        disk = folder / "disk"
        is_small = stack.enter_context(small_disk(disk))
        broker = stack.enter_context(ServiceBusBroker())
        for name in ("input", "output", "probes"):
            broker.add_queue(name, lock_seconds=5, duplicate_detection=name == "output")
        azurite = stack.enter_context(Azurite(location=folder / "azurite"))
        redis = stack.enter_context(RedisServer())
        folders = Folders(folder, [], output=disk / "output")
        fed = Fed(broker, azurite, folders)
        stack.callback(fed.close)
        return asyncio.run(
            _run(folder, seconds, seed, fed, folders, (broker, azurite, redis, is_small))
        )


async def _run(
    folder: Path, seconds: float, seed: int, fed: Fed, folders: Folders, parts: Any
) -> Figures:
    broker, azurite, redis, is_small = parts
    async with containers(azurite) as place:
        await place.fill([])
        common = {"CACHE_URL": redis.url}
        queue = {"ServiceBusConnectionString": broker.connection_string}
        shared = {**common, **queue, **place.environ}
        fleet = Fleet(folder, [Place()] * 3, shared, {2: common | folders.environ})
        a_clock_for(fleet.instances[1])
        with fleet:
            fleet.go()
            disk = folder / "disk" if is_small else None
            chaos = Chaos(random.Random(seed), fleet, fed, broker, azurite, redis, disk)
            asked = await asyncio.to_thread(_loaded, chaos, fed, seconds, seed)
            await _all_done(fed, place, folders)
            codes = await asyncio.to_thread(fleet.end)
        with contextlib.redirect_stdout(sys.stderr):
            check_replies(broker, sorted(fed.messages))
        await place.check(fed.blobs)
        folders.check(fed.files)
    assert codes == [0, 0, 0], codes
    return _figures(chaos, asked, fed, seconds, seed)


def _loaded(chaos: Chaos, fed: Fed, seconds: float, seed: int) -> list[Asked]:
    """Load and faults, until the time is over and each kind was there."""
    over = threading.Event()
    asked = [Asked(each, over) for each in chaos.fleet.instances]
    threads = [each.thread for each in asked]
    threads.append(threading.Thread(target=fed.feed, args=(over,), daemon=True))
    for each in threads:
        each.start()
    seeded, deck, until = random.Random(seed + 1), sorted(chaos.kinds), time.monotonic() + seconds
    seeded.shuffle(deck)
    try:
        while deck or time.monotonic() < until:
            time.sleep(seeded.uniform(0.5, 2))
            deck = deck or seeded.sample(sorted(chaos.kinds), len(chaos.kinds))
            chaos.strike(deck.pop())
    finally:
        over.set()
        for each in threads:
            each.join()
    return asked


async def _all_done(fed: Fed, place: Containers, folders: Folders) -> None:
    """A blob of a killed host is taken up when its lease is over."""
    until = time.monotonic() + LAST_SECONDS + float(LEASE["BLOB_LEASE_SECONDS"])
    while await place.count() < len(fed.blobs) or await folders.count() < len(fed.files):
        there = await place.count(), await folders.count()
        assert time.monotonic() < until, f"{there} of {len(fed.blobs)}, {len(fed.files)}"
        await asyncio.sleep(1)


def _figures(chaos: Chaos, asked: list[Asked], fed: Fed, seconds: float, seed: int) -> Figures:
    def in_a_window(when: float) -> bool:
        return any(begin <= when <= end for begin, end in chaos.windows)

    third = max(1, len(chaos.memory) // 3)
    early, late = (statistics.median(chaos.memory[part])
                   for part in (slice(third, 2 * third), slice(-third, None)))  # fmt: skip
    return {
        "seconds": seconds,
        "seed": seed,
        "requests": sum(each.right for each in asked),
        "messages": len(fed.messages),
        "blobs": len(fed.blobs),
        "files": len(fed.files),
        "wrong": sum(each.wrong for each in asked),
        "failed_meanwhile": sum(len(each.failed) for each in asked),
        "failed_else": sum(not in_a_window(when) for each in asked for when in each.failed),
        "failed_of_the_first": len(asked[0].failed),
        "recoveries": {kind: each for kind, each in chaos.recoveries.items() if each},
        "memory_mb": [early, late],
        "load": os.getloadavg()[0],
    }


def tables(figures: Figures) -> str:
    """In Markdown."""
    rows = [
        [kind, str(len(each)), f"{statistics.median(each):.1f} s", f"{max(each):.1f} s"]
        for kind, each in sorted(figures["recoveries"].items())
    ]
    return machine.table(["fault", "times", "all answer again after", "at most"], rows)


def main() -> None:
    """Run, print, and fail if it took too long to recover."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), options.seconds, options.seed)
    print(json.dumps(figures) if options.json else f"{tables(figures)}\n\n{figures}")
    if problems := problems_of(figures):
        raise SystemExit("\n".join(problems))


def problems_of(figures: Figures, growth: float = 0.05) -> list[str]:
    """What does not hold."""
    early, late = figures["memory_mb"]
    slowest = max(max(each) for each in figures["recoveries"].values())
    found = {
        f"a recovery took {slowest:.1f} s": slowest > RECOVERY_SECONDS,
        f"{figures['wrong']} answers were wrong": figures["wrong"] > 0,
        f"{figures['failed_else']} requests failed without a fault": figures["failed_else"] > 0,
        f"memory grew from {early:.0f} to {late:.0f} MB": late > early * (1 + growth),
    }
    return [problem for problem, is_so in found.items() if is_so]


if __name__ == "__main__":
    main()
