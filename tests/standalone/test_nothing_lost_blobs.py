"""Nothing is lost and nothing is done twice, whatever is killed: blobs and watched folders.

The moments are random; a run that failed is repeated with SCORING_TEST_SEED set to what it printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from azure.storage.blob.aio import BlobServiceClient

from tests.hosts.azurite import Azurite
from tests.hosts.standalone import StandaloneHost

PATIENCE = 240.0
LEASE = {"BLOB_LEASE_SECONDS": "15", "BLOB_POLL_SECONDS": "0.2-1"}
# Read at import: fixtures take variables of this prefix out of the environment.
_SEED = os.environ.get("SCORING_TEST_SEED")

# What each input asks for is in its text; run() notes its calls in a file beside the script.
SCRIPT = """
import hashlib, json, os, pathlib, signal, time
from scoring_runtime import InputError

calls = pathlib.Path(__file__).with_name("calls")

def init():
    pass

def run(data):
    with calls.open("a") as file:
        file.write("called\\n")
    asked = json.loads(data)
    time.sleep(asked["seconds"])
    if asked["do"] == "refuse":
        raise InputError("not to be scored")
    if asked["do"] == "raise":
        raise RuntimeError("broken")
    if asked["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"digest": hashlib.sha256(data.encode()).hexdigest()}
"""
STATUSES = {"refuse": 400, "raise": 500, "kill": 500}


class Input(NamedTuple):
    """An input and what is to become of it."""

    name: str
    do: str
    seconds: float

    @property
    def body(self) -> bytes:
        """Distinct: it holds the name."""
        return json.dumps({"name": self.name, "do": self.do, "seconds": self.seconds}).encode()

    @property
    def document(self) -> str:
        """The name of its only document."""
        return f"{self.name}_{'out' if self.do == 'score' else 'error'}.json"


class Document(NamedTuple):
    """A document with its receipt: the input's etag, or its modification time."""

    receipt: str
    body: bytes
    status: str = ""


def inputs_of(count: int, seconds: float = 0, **poisoned: int) -> list[Input]:
    """So many inputs to score, and so many of the others, spread among them."""
    kinds = ["score"] * count
    for do, several in poisoned.items():
        for number in range(several):
            kinds.insert((number * 2 + 1) * len(kinds) // (several * 2), do)
    return [Input(f"{number:05}", do, seconds) for number, do in enumerate(kinds)]


def check(
    inputs: list[Input], receipts: Mapping[str, str], documents: Mapping[str, Document]
) -> None:
    """Each input has exactly one document, the right one, and there are no others."""
    assert sorted(documents) == sorted(each.document for each in inputs)
    wrong = [each.name for each in inputs if not is_right(each, documents[each.document])]
    assert wrong == []
    assert {each.name: documents[each.document].receipt for each in inputs} == receipts


def is_right(source: Input, document: Document) -> bool:
    if source.do == "score":
        digest = hashlib.sha256(source.body).hexdigest()
        return document.body == b'{"digest":"%s"}' % digest.encode() and document.status in (
            "200",
            "",
        )
    error = json.loads(document.body)
    return set(error) == {"message"} and document.status in (str(STATUSES[source.do]), "")


# --- hosts ----------------------------------------------------------------------------------------


class Hosts:
    """Several hosts on the same inputs; one that ends is replaced by a new process."""

    def __init__(self, script: Path, count: int, environ: Mapping[str, str]) -> None:
        self._script, self._environ = script, environ
        self.ends: list[int] = []
        self._hosts = [self._started() for _ in range(count)]

    def __iter__(self) -> Iterator[StandaloneHost]:
        return iter(self._hosts)

    def kill(self, number: int) -> None:
        """SIGKILL one, and start another in its place."""
        self.ends.append(self._hosts[number].stop(signal.SIGKILL))
        self._hosts[number] = self._started()

    def replace_ended(self) -> None:
        """As an orchestrator does."""
        for number, host in enumerate(self._hosts):
            if host.process.poll() is not None:
                self.kill(number)

    def stop(self) -> list[int]:
        """SIGTERM, to all at once; the exit codes."""
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


@contextlib.contextmanager
def hosts_on(script: Path, count: int, environ: Mapping[str, str], **more: str) -> Iterator[Hosts]:
    """Hosts that are to end normally."""
    hosts = Hosts(script, count, {**environ, **more})
    try:
        yield hosts
    except BaseException:
        hosts.stop()
        for each in hosts:
            print(each.log[-2000:])
        raise
    assert hosts.stop() == [0] * count


def killed(host: StandaloneHost) -> int:
    """How often its worker was killed, and replaced."""
    return host.log.count("ended with signal SIGKILL; starting another")


def a_seed() -> random.Random:
    seed = int(_SEED) if _SEED else random.randrange(2**32)
    print(f"SCORING_TEST_SEED={seed}")
    return random.Random(seed)


async def kill_at_random(
    hosts: Hosts, kills: int, longest: float, documents: Callable[[], Awaitable[int]], most: int
) -> None:
    """Kill one of two hosts so many times while there is work."""
    seeded = a_seed()
    for _ in range(kills):
        before = await documents()
        await asyncio.sleep(seeded.uniform(longest / 6, longest))
        await until_there_are(before + 1, documents)  # a busy machine takes longer to begin
        hosts.kill(seeded.randrange(2))
    assert hosts.ends == [-signal.SIGKILL] * kills
    there = await documents()
    assert 0 < there < most, "the kills came too early or too late"
    print(f"{there} documents after the last of {kills} kills")


async def until_there_are(
    wanted: int,
    documents: Callable[[], Awaitable[int]],
    hosts: Hosts | None = None,
    rest: float = 10,
) -> None:
    """Wait for so many documents; hosts that end meanwhile are replaced."""
    until, before = time.monotonic() + PATIENCE, -1
    while True:
        began = time.monotonic()
        if (found := await documents()) >= wanted:
            return
        if found > before:  # on a busy machine it takes as long as it takes
            until, before = began + PATIENCE, found
        assert began < until, f"{found} of {wanted} documents"
        # Azurite works for seconds at long listings.
        await asyncio.sleep(max(0.2, rest * (time.monotonic() - began)))
        if hosts is not None:
            hosts.replace_ended()


# --- places ---------------------------------------------------------------------------------------


class Containers:
    """An input and an output container, and how a host finds them."""

    def __init__(self, azurite: Azurite, service: BlobServiceClient, prefix: str) -> None:
        self._input = service.get_container_client(f"{prefix}input")
        self._output = service.get_container_client(f"{prefix}output")
        self.environ = {
            "TriggerConnectionString": azurite.connection_string,
            "BLOB_INPUT_PATH": f"{prefix}input/{{name}}.json",
            "BLOB_OUTPUT_PATH": f"{prefix}output/{{name}}_out.json",
            **LEASE,
        }

    async def fill(self, inputs: list[Input]) -> None:
        for each in (self._input, self._output):
            await each.create_container()
        await at_once(lambda each: self._input.upload_blob(f"{each.name}.json", each.body), inputs)

    async def count(self) -> int:
        return len([name async for name in self._output.list_blob_names()])

    async def receipts(self) -> dict[str, str]:
        """The etag of every input, by its name without extension."""
        found = self._input.list_blobs()
        return {each.name.removesuffix(".json"): each.etag.strip('"') async for each in found}

    async def documents(self) -> dict[str, Document]:
        found: dict[str, Document] = {}

        async def read(blob) -> None:
            stream = await self._output.download_blob(blob.name)
            said = blob.metadata
            found[blob.name] = Document(said["sourceetag"], await stream.readall(), said["status"])

        listed = self._output.list_blobs(include=["metadata"])
        await at_once(read, [each async for each in listed])
        return found


@contextlib.asynccontextmanager
async def containers(azurite: Azurite, prefix: str = "") -> AsyncIterator[Containers]:
    async with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        yield Containers(azurite, service, prefix)


async def at_once(act: Callable[..., Awaitable[object]], values: list[Any]) -> None:
    """Act on all of them, sixteen at a time."""
    waiting = iter(values)

    async def some() -> None:
        for each in waiting:
            await act(each)

    await asyncio.gather(*(some() for _ in range(16)))


class Folders:
    """A watched folder and the folder of the documents."""

    def __init__(self, folder: Path) -> None:
        self._input, self._output = folder / "input", folder / "output"
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self._input),
            "BLOB_OUTPUT_FOLDER": str(self._output),
            "BLOB_POLL_SECONDS": "0.1-0.5",
        }

    def fill(self, inputs: list[Input]) -> None:
        for folder in (self._input, self._output):
            folder.mkdir()
        for each in inputs:
            (self._input / f"{each.name}.json").write_bytes(each.body)

    async def count(self) -> int:
        return len(self._files())

    def receipts(self) -> dict[str, str]:
        """The modification time of every input, by its name without extension."""
        return {each.stem: str(each.stat().st_mtime_ns) for each in self._input.iterdir()}

    def documents(self) -> dict[str, Document]:
        return {
            each.name: Document(str(each.stat().st_mtime_ns), each.read_bytes())
            for each in self._files()
        }

    def unfinished(self) -> list[str]:
        """Documents that were cut off while they were written, and are still there."""
        return [each.name for each in self._output.rglob("*.tmp")]

    def _files(self) -> list[Path]:
        return [each for each in self._output.iterdir() if each.name != ".scoring"]


# --- promises -------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_hosts_lose_and_double_no_blob(write_script):
    """2,000 blobs, two hosts, five SIGKILLs: one right document each, errors for the poisoned."""
    script = write_script(SCRIPT)
    inputs = inputs_of(2000, refuse=3, **{"raise": 2})

    async def scenario(azurite: Azurite) -> None:
        async with containers(azurite) as place:
            await place.fill(inputs)
            with hosts_on(script, 2, place.environ) as hosts:
                await kill_at_random(hosts, 5, 2.5, place.count, len(inputs))
                await until_there_are(len(inputs), place.count)
            check(inputs, await place.receipts(), await place.documents())

    with Azurite() as azurite:
        asyncio.run(scenario(azurite))


@pytest.mark.parametrize(
    ("count", "kills"), [(400, 1), pytest.param(2000, 5, marks=pytest.mark.long)]
)
def test_killed_hosts_lose_and_double_no_file(write_script, tmp_path, count, kills):
    """The same on local folders."""
    script = write_script(SCRIPT)
    inputs = inputs_of(count, seconds=0.006, refuse=3, **{"raise": 2})
    place = Folders(tmp_path)
    place.fill(inputs)

    async def scenario() -> None:
        with hosts_on(script, 2, place.environ) as hosts:
            await kill_at_random(hosts, kills, 1.2, place.count, len(inputs))
            await until_there_are(len(inputs), place.count)

    asyncio.run(scenario())
    check(inputs, place.receipts(), place.documents())
    assert place.unfinished() == []


def test_a_file_that_kills_the_process_ends_as_an_error_and_spares_the_others(
    write_script, tmp_path
):
    """After BLOB_MAX_ATTEMPTS it is not tried again; the files in flight with it are scored."""
    script = write_script(SCRIPT)
    inputs = inputs_of(200, kill=1)
    place = Folders(tmp_path)
    place.fill(inputs)

    async def scenario() -> None:
        with hosts_on(script, 1, place.environ, BLOB_MAX_ATTEMPTS="3") as hosts:
            await until_there_are(len(inputs), place.count, hosts)
            assert [killed(host) for host in hosts] == [3]

    asyncio.run(scenario())
    check(inputs, place.receipts(), place.documents())


def test_a_host_that_is_told_to_stop_does_not_wait_for_a_free_slot(write_script, tmp_path):
    """More files wait than may be in flight, and run() is slow: SCORING_SHUTDOWN_SECONDS holds."""
    place = Folders(tmp_path)
    place.fill(inputs_of(3, seconds=90))
    script = write_script(SCRIPT)
    busy = {"BLOB_MAX_CONCURRENT": "1", "SCORING_SHUTDOWN_SECONDS": "1"}
    with StandaloneHost(script, environ={**place.environ, **busy}) as host:
        until = time.monotonic() + PATIENCE
        while not script.with_name("calls").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        host.process.terminate()
        assert host.process.wait(60) == 0
    assert place.documents() == {}


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite() as azurite:
        yield azurite


@pytest.fixture(scope="module")
def long_ones(
    azurite: Azurite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Scenarios that wait for leases most of the time, all started at once."""

    def started(name: str, scenario: Callable[[Azurite, Path], Awaitable[None]]) -> Future[None]:
        script = tmp_path_factory.mktemp(name) / "score.py"
        script.write_text(SCRIPT)
        return pool.submit(asyncio.run, scenario(azurite, script))  # type: ignore[arg-type]

    with ThreadPoolExecutor() as pool:
        yield {
            "killer": started("killer", a_killer_among_blobs),
            "slow": started("slow", slower_than_the_lease),
        }


async def a_killer_among_blobs(azurite: Azurite, script: Path) -> None:
    inputs = inputs_of(60, kill=1)
    async with containers(azurite, "killer-") as place:
        await place.fill(inputs)
        with hosts_on(script, 1, place.environ, BLOB_MAX_ATTEMPTS="2") as hosts:
            await until_there_are(len(inputs), place.count, hosts)
            assert [killed(host) for host in hosts] == [2]
        check(inputs, await place.receipts(), await place.documents())


async def slower_than_the_lease(azurite: Azurite, script: Path) -> None:
    inputs = inputs_of(1, seconds=20)
    async with containers(azurite, "slow-") as place:
        await place.fill(inputs)
        with hosts_on(script, 2, place.environ) as hosts:
            await until_there_are(1, place.count)
            await asyncio.sleep(3)  # several polls of both
            assert hosts.ends == []
        check(inputs, await place.receipts(), await place.documents())
    assert script.with_name("calls").read_text() == "called\n"


@pytest.mark.long
def test_storage_that_goes_away_delays_and_does_no_more(long_ones, write_script, tmp_path):
    """Azurite is stopped and started three times: all is scored, by the same healthy process."""
    script = write_script(SCRIPT)
    inputs = inputs_of(300, seconds=0.01)

    async def scenario(azurite: Azurite) -> None:
        async with containers(azurite) as place:
            await place.fill(inputs)
            with hosts_on(script, 1, place.environ) as hosts:
                seeded = a_seed()
                for wanted in (20, 80, 140):
                    await until_there_are(wanted, place.count, rest=1)
                    azurite.stop()
                    await asyncio.sleep(seeded.uniform(0.2, 2))
                    azurite.start()
                    assert await place.count() < len(inputs), "it was stopped too late"
                await until_there_are(len(inputs), place.count)
                for host in hosts:
                    host.wait_ready()
                    assert httpx.get(f"{host.url}/health/ready", timeout=60).status_code == 200
                assert hosts.ends == []
            check(inputs, await place.receipts(), await place.documents())

    with Azurite(location=tmp_path / "data") as azurite:
        asyncio.run(scenario(azurite))


@pytest.mark.long
def test_a_blob_that_kills_the_process_ends_as_an_error_and_spares_the_others(long_ones):
    """After BLOB_MAX_ATTEMPTS it is not tried again; the blobs in flight with it are scored."""
    long_ones["killer"].result(PATIENCE)


@pytest.mark.long
def test_a_run_longer_than_the_lease_is_called_once(long_ones):
    """The lease is renewed while run() takes 20 s: the other host leaves the blob alone."""
    long_ones["slow"].result(PATIENCE)
