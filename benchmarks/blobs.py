"""The blob trigger of the standalone host: throughput, latency, memory, requests.

``python -m benchmarks.blobs`` prints inputs per second and what each costs for growing numbers of
waiting inputs, the time from upload to output, and what a poll with nothing new costs. run() is
empty; the container is one of Azurite in memory on the same machine, or a local folder. The CPU
time of the host's start is left out.

Azurite is one thread, and each of its look-ups goes through all blobs of the account: its CPU time
for each input says what the most is that can be reached (with 18 ms, 55 a second).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from tests.hosts.azurite import Azurite
from tests.hosts.standalone import StandaloneHost

from . import machine
from .machine import Quiet, cpu_seconds, peak_mb, progress

SCRIPT = Path(__file__).parent / "scripts" / "one.py"
SIZES = (100, 1_000, 10_000)
POLLS = {"1 to 10 s (default)": "1-10", "0.2 s": "0.2"}
BODY = b'{"data": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]}'
PATIENCE = 600.0
# What has been scored last may still be on its way.
_LAST = 64
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="waiting inputs")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many (below 5,000)")
    parser.add_argument("--samples", type=int, default=20, help="of each latency; 0 for none")
    options = parser.parse_args()
    with _folder() as folder, Quiet() as quiet:
        shutil.copy(SCRIPT, folder)
        figures = asyncio.run(_measure(folder, options, quiet))
    progress("")
    print(json.dumps(figures) if options.json else tables(figures))


async def _measure(folder: Path, options: argparse.Namespace, quiet: Quiet) -> Figures:
    figures: Figures = {"throughput": [], "latency": [], "idle": {}}
    with StandaloneHost(folder / SCRIPT.name) as host:
        start = cpu_seconds(host.worker)
    for place, measured in (("Azurite", _container), ("folder", _local)):
        for size in options.sizes:
            rounds = []
            for number in range(options.rounds if size < 5_000 else 1):
                quiet.turn()
                progress(f"{size:,} waiting, {place}, round {number + 1}")
                found = await measured(folder, size)
                found["host_cpu_ms"] -= start / size * 1000
                rounds.append(found)
            each = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
            figures["throughput"].append({"place": place, "size": size, **each})
    if options.samples:
        for name, poll in POLLS.items():
            quiet.turn()
            progress(f"latency, poll {name}")
            figures["latency"].append({"poll": name, **await _latency(poll, options.samples)})
    quiet.turn()
    progress("idle polls")
    figures["idle"] = await _idle()
    return figures


# --- throughput -----------------------------------------------------------------------------------


async def _container(folder: Path, size: int) -> Figures:
    with Azurite() as azurite:
        names = [f"{number:06}" for number in range(size)]
        async with _containers(azurite) as (source, output):
            await _upload(source, names)
            before = cpu_seconds(azurite.process.pid)
            environ = {"TriggerConnectionString": azurite.connection_string}
            with StandaloneHost(folder / SCRIPT.name, environ=environ) as host:
                begin = time.perf_counter()
                await _until_logged(host, size)
                await asyncio.gather(*(_exists(output, f"{n}_out.json") for n in names[-_LAST:]))
                seconds = time.perf_counter() - begin
                figures = _figures(host, size, seconds)
                storage = cpu_seconds(azurite.process.pid) - before
                figures["storage_cpu_ms"] = storage / size * 1000
            assert await _count(output) == size
    return figures


async def _local(folder: Path, size: int) -> Figures:
    with _folder() as place:
        (place / "input").mkdir()
        for number in range(size):
            (place / "input" / f"{number:06}.json").write_bytes(BODY)
        environ = {"BLOB_INPUT_FOLDER": str(place / "input")}
        with StandaloneHost(folder / SCRIPT.name, environ=environ) as host:
            begin = time.perf_counter()
            await _until_logged(host, size)
            while sum(each.is_file() for each in os.scandir(place / "output")) < size:
                await asyncio.sleep(0.005)
            return _figures(host, size, time.perf_counter() - begin)


async def _until_logged(host: StandaloneHost, size: int) -> None:
    """Wait until so many inputs have been scored: looking at the storage would slow it down."""
    seen, offset = 0, 0
    until = time.monotonic() + PATIENCE
    while seen < size:
        text = os.pread(host._output.fileno(), 1 << 24, offset)
        whole = text[: text.rfind(b"\n") + 1]
        offset += len(whole)
        seen += len(re.findall(rb"blob \S+ 200 ", whole))
        if time.monotonic() > until or host.process.poll() is not None:
            raise SystemExit(f"{seen} of {size} scored:\n{host.log[-5000:]}")
        await asyncio.sleep(0.01)


def _figures(host: StandaloneHost, size: int, seconds: float) -> Figures:
    return {
        "per_second": size / seconds,
        "host_cpu_ms": cpu_seconds(host.worker) / size * 1000,
        "peak_mb": peak_mb(host.worker),
    }


# --- latency and idle polls -----------------------------------------------------------------------


async def _latency(poll: str, samples: int) -> Figures:
    """From the upload's answer to the first moment the output can be read."""
    took = []
    environ = {"BLOB_POLL_SECONDS": poll}
    at_random = random.Random(1)
    with Azurite() as azurite:
        environ["TriggerConnectionString"] = azurite.connection_string
        async with _containers(azurite) as (source, output):
            with StandaloneHost(SCRIPT, environ=environ):
                for number in range(-2, samples):  # the first two open connections
                    await asyncio.sleep(at_random.uniform(0.2, 1))
                    await source.upload_blob(f"{number}.json", BODY)
                    begin = time.perf_counter()
                    await _exists(output, f"{number}_out.json")
                    if number >= 0:
                        took.append(time.perf_counter() - begin)
    percentiles = statistics.quantiles(took, n=100, method="inclusive")
    return {"p50_ms": percentiles[49] * 1000, "p99_ms": percentiles[98] * 1000}


async def _idle() -> Figures:
    """What looking once a second over 1,000 scored blobs takes."""
    size, seconds = 1_000, 5
    with Azurite() as azurite:
        async with _containers(azurite) as (source, _):
            await _upload(source, [str(number) for number in range(size)])
            environ = {"TriggerConnectionString": azurite.connection_string}
            environ["BLOB_POLL_SECONDS"] = "1"
            with StandaloneHost(SCRIPT, environ=environ) as host:
                await _until_logged(host, size)
                await asyncio.sleep(3)
                before = cpu_seconds(host.worker)
                await asyncio.sleep(seconds)
                percent = (cpu_seconds(host.worker) - before) / seconds * 100
    return {"size": size, "cpu_percent": percent}


# --- storage --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _containers(
    azurite: Azurite,
) -> AsyncIterator[tuple[ContainerClient, ContainerClient]]:
    async with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        yield await service.create_container("input"), await service.create_container("output")


async def _upload(source: ContainerClient, names: list[str]) -> None:
    waiting = iter(names)

    async def some() -> None:
        for name in waiting:
            await source.upload_blob(f"{name}.json", BODY)

    await asyncio.gather(*(some() for _ in range(16)))


async def _exists(output: ContainerClient, name: str) -> None:
    blob = output.get_blob_client(name)
    while True:
        try:
            await blob.get_blob_properties()
            return
        except ResourceNotFoundError:
            await asyncio.sleep(0.005)


async def _count(container: ContainerClient) -> int:
    return len([name async for name in container.list_blob_names()])


# --- output ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def tables(figures: Figures) -> str:
    """In Markdown."""
    head = ["place", "waiting", "inputs per second", "CPU of the host each"]
    rows = [
        [each["place"], f"{each['size']:,}", f"{each['per_second']:,.0f}",
         f"{each['host_cpu_ms']:.2f} ms", f"{each.get('storage_cpu_ms', 0):.1f} ms",
         f"{each['peak_mb']:.0f} MB"]
        for each in figures["throughput"]
    ]  # fmt: skip
    latencies = [
        [each["poll"], f"{each['p50_ms']:.0f} ms", f"{each['p99_ms']:.0f} ms"]
        for each in figures["latency"]
    ]
    idle = figures["idle"]
    return "\n\n".join((
        machine.table([*head, "CPU of Azurite each", "peak memory of the host"], rows),
        machine.table(["BLOB_POLL_SECONDS", "upload to output, p50", "p99"], latencies),
        f"Looking once a second over {idle['size']:,} scored blobs takes "
        f"{idle['cpu_percent']:.1f} % of a core.",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
