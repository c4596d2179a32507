"""Nothing is lost and nothing is done twice, whatever is killed or cut: blobs, files, messages.

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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from azure.storage.blob.aio import BlobServiceClient

from tests.hosts.azurite import Azurite
from tests.hosts.broker import BrokerMessage, Counts, ServiceBusBroker
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
STATUSES = {"score": 200, "refuse": 400, "raise": 500, "kill": 500}
REASONS = {"refuse": "InputError", "raise": "RunFailed"}


class Input(NamedTuple):
    """An input and what is to become of it."""

    name: str
    do: str
    seconds: float

    @property
    def body(self) -> bytes:
        """Distinct: it holds the name."""
        return json.dumps(self._asdict()).encode()

    @property
    def document(self) -> str:
        """The name of its only document."""
        return f"{self.name}_{'out' if self.do == 'score' else 'error'}.json"

    def is_answered_by(self, body: bytes) -> bool:
        if self.do == "score":
            return body == b'{"digest":"%s"}' % hashlib.sha256(self.body).hexdigest().encode()
        return "message" in json.loads(body)


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
    assert {each.name: documents[each.document].receipt for each in inputs} == receipts
    for each in inputs:
        found = documents[each.document]
        assert each.is_answered_by(found.body), each
        assert found.status in (str(STATUSES[each.do]), ""), each


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

    def kill_at_work(self, number: int) -> None:
        until = time.monotonic() + PATIENCE
        while " 200 " not in self._hosts[number].log and time.monotonic() < until:
            time.sleep(0.005)
        self.kill(number)

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

    async def check(self, inputs: list[Input]) -> None:
        found = self._input.list_blobs()
        receipts = {each.name.removesuffix(".json"): each.etag.strip('"') async for each in found}
        documents: dict[str, Document] = {}

        async def read(blob) -> None:
            stream = await self._output.download_blob(blob.name)
            said = blob.metadata
            document = Document(said["sourceetag"], await stream.readall(), said["status"])
            documents[blob.name] = document

        listed = self._output.list_blobs(include=["metadata"])
        await at_once(read, [each async for each in listed])
        check(inputs, receipts, documents)


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

    def __init__(self, folder: Path, inputs: list[Input], output: Path | None = None) -> None:
        self._input, self._output = folder / "input", output or folder / "output"
        self.environ = {
            "BLOB_INPUT_FOLDER": str(self._input),
            "BLOB_OUTPUT_FOLDER": str(self._output),
            "BLOB_POLL_SECONDS": "0.1-0.5",
        }
        self._input.mkdir()
        self._output.mkdir()
        for each in inputs:
            (self._input / f"{each.name}.json").write_bytes(each.body)

    async def count(self) -> int:
        return len(self.files())

    def check(self, inputs: list[Input]) -> None:
        receipts = {each.stem: str(each.stat().st_mtime_ns) for each in self._input.iterdir()}
        documents = {
            each.name: Document(str(each.stat().st_mtime_ns), each.read_bytes())
            for each in self.files()
        }
        check(inputs, receipts, documents)
        assert list(self._output.rglob("*.tmp")) == []

    def files(self) -> list[Path]:
        return [each for each in self._output.iterdir() if each.name != ".scoring"]


# --- blobs and files ------------------------------------------------------------------------------


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
            await place.check(inputs)

    with Azurite() as azurite:
        asyncio.run(scenario(azurite))


@pytest.mark.parametrize(
    ("count", "kills"), [(400, 1), pytest.param(2000, 5, marks=pytest.mark.long)]
)
def test_killed_hosts_lose_and_double_no_file(write_script, tmp_path, count, kills):
    script = write_script(SCRIPT)
    inputs = inputs_of(count, seconds=0.006, refuse=3, **{"raise": 2})
    place = Folders(tmp_path, inputs)

    async def scenario() -> None:
        with hosts_on(script, 2, place.environ) as hosts:
            await kill_at_random(hosts, kills, 1.2, place.count, len(inputs))
            await until_there_are(len(inputs), place.count)

    asyncio.run(scenario())
    place.check(inputs)


def test_a_file_that_kills_the_process_ends_as_an_error_and_spares_the_others(
    write_script, tmp_path
):
    """After BLOB_MAX_ATTEMPTS it is not tried again; the files in flight with it are scored."""
    script = write_script(SCRIPT)
    inputs = inputs_of(200, kill=1)
    place = Folders(tmp_path, inputs)

    async def scenario() -> None:
        with hosts_on(script, 1, place.environ, BLOB_MAX_ATTEMPTS="3") as hosts:
            await until_there_are(len(inputs), place.count, hosts)
            assert [killed(host) for host in hosts] == [3]

    asyncio.run(scenario())
    place.check(inputs)


def test_a_host_that_is_told_to_stop_does_not_wait_for_a_free_slot(write_script, tmp_path):
    """More files wait than may be in flight, and run() is slow: SCORING_SHUTDOWN_SECONDS holds."""
    place = Folders(tmp_path, inputs_of(3, seconds=90))
    script = write_script(SCRIPT)
    busy = {"BLOB_MAX_CONCURRENT": "1", "SCORING_SHUTDOWN_SECONDS": "1"}
    with StandaloneHost(script, environ={**place.environ, **busy}) as host:
        until = time.monotonic() + PATIENCE
        while not script.with_name("calls").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        host.process.terminate()
        assert host.process.wait(60) == 0
    assert place.files() == []


async def a_killer_among_blobs(azurite: Azurite, script: Path) -> None:
    inputs = inputs_of(60, kill=1)
    async with containers(azurite, "killer-") as place:
        await place.fill(inputs)
        with hosts_on(script, 1, place.environ, BLOB_MAX_ATTEMPTS="2") as hosts:
            await until_there_are(len(inputs), place.count, hosts)
            assert [killed(host) for host in hosts] == [2]
        await place.check(inputs)


async def slower_than_the_lease(azurite: Azurite, script: Path) -> None:
    inputs = inputs_of(1, seconds=20)
    async with containers(azurite, "slow-") as place:
        await place.fill(inputs)
        with hosts_on(script, 2, place.environ) as hosts:
            await until_there_are(1, place.count)
            await asyncio.sleep(3)  # several polls of both
            assert hosts.ends == []
        await place.check(inputs)
    assert script.with_name("calls").read_text() == "called\n"


@pytest.fixture(scope="module")
def long_ones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Scenarios that wait most of the time, all started at once."""

    def script(name: str) -> Path:
        path = tmp_path_factory.mktemp(name) / "score.py"
        path.write_text(SCRIPT)
        return path

    with Azurite() as azurite, ThreadPoolExecutor() as pool:
        yield {
            "killer": pool.submit(asyncio.run, a_killer_among_blobs(azurite, script("killer"))),
            "slow": pool.submit(asyncio.run, slower_than_the_lease(azurite, script("slow"))),
            "cut": pool.submit(connections_are_cut, script("cut")),
        }


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
            await place.check(inputs)

    with Azurite(location=tmp_path / "data") as azurite:
        asyncio.run(scenario(azurite))


@pytest.mark.long
@pytest.mark.parametrize("name", ["killer", "slow", "cut"])
def test_poison_slowness_and_cuts_cost_no_other_input(long_ones, name):
    """A blob that kills the process ends as an error after BLOB_MAX_ATTEMPTS; a run() longer than
    the lease is called once, since it is renewed; ten cuts, and the broker away twice for 3 s."""
    long_ones[name].result(3 * PATIENCE)


# --- messages -------------------------------------------------------------------------------------


@contextlib.contextmanager
def queues_with(inputs: list[Input]) -> Iterator[ServiceBusBroker]:
    """A broker on which these wait."""
    with ServiceBusBroker() as broker:
        broker.add_queue("input", lock_seconds=5)
        broker.add_queue("output")
        for each in inputs:
            broker.send("input", each.body, message_id=each.name, properties={"x-name": each.name})
        yield broker


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


def check_replies(broker: ServiceBusBroker, inputs: list[Input]) -> None:
    """Each message has one reply after removal of equal ids; dead are the poisoned ones only."""
    try:
        broker.wait_for(lambda: broker.counts("input")[:2] == (0, 0), PATIENCE)
    finally:
        print(broker.counts("input"), broker.counts("output"), broker.statistics)
    replies = broker.messages("output")
    by_id = {each.message_id: each for each in replies}
    assert sorted(each.answers for each in by_id.values()) == [each.name for each in inputs]
    by_name = {each.name: each for each in inputs}
    assert [each for each in replies if not is_right(by_name[each.correlation_id], each)] == []
    letters = broker.dead_letters("input")
    assert sorted(
        (each.message_id, each.application_properties["DeadLetterReason"]) for each in letters
    ) == [(each.name, REASONS[each.do]) for each in inputs if each.do in REASONS]
    poisoned = {each.name: each.body for each in inputs if each.do in REASONS}
    assert {each.message_id: each.body for each in letters} == poisoned


def is_right(source: Input, reply: BrokerMessage) -> bool:
    status = STATUSES[source.do]
    properties = {"x-name": source.name, "status": status}
    properties |= {"x-model-name": "model", "x-model-version": "1"}
    if status >= 400:
        properties["request_id"] = source.name
    return reply.application_properties == properties and source.is_answered_by(reply.body)


def connections_are_cut(script: Path) -> None:
    """A thousand messages, slow enough for ten cuts and for two times without the broker."""
    inputs = inputs_of(990, 0.04, refuse=5, **{"raise": 5})
    with queues_with(inputs) as broker:
        environ = {"TriggerConnectionString": broker.connection_string}
        with hosts_on(script, 2, environ) as hosts:
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
            check_replies(broker, inputs)
            for host in hosts:
                broker.wait_for(partial(is_ready, host), PATIENCE)
                assert "The Service Bus trigger works again." in host.log
                assert host.process.poll() is None
            assert hosts.ends == []


def is_ready(host: StandaloneHost) -> bool:
    return httpx.get(f"{host.url}/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("count", "kills"), [(1000, 1), pytest.param(5000, 5, marks=pytest.mark.long)]
)
def test_killed_hosts_lose_and_double_no_message(write_script, count, kills):
    """Ten messages are poisoned; of two hosts one is killed at random moments."""
    script = write_script(SCRIPT)
    inputs = inputs_of(count - 10, 0.005, refuse=5, **{"raise": 5})
    with queues_with(inputs) as broker:
        environ = {"TriggerConnectionString": broker.connection_string}
        with hosts_on(script, 2, environ) as hosts:
            seeded = a_seed()
            disturb(broker, [lambda: hosts.kill_at_work(seeded.randrange(2))] * kills, 0.1, 1)
            assert hosts.ends == [-signal.SIGKILL] * kills
            check_replies(broker, inputs)
            assert broker.counts("input") == Counts(0, 0, 10)
            assert broker.statistics.locks_expired >= kills, "no kill hit a host at work"
