"""The Service Bus trigger of the standalone host: throughput and latency.

``python -m benchmarks.messages`` prints a table of messages per second for growing numbers of
waiting messages, from the first delivery to the last reply, and one of the time from a message to
its reply when they come one at a time. run() is empty; the broker is the double of the tests, in a
process of its own on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.hosts.broker import Counts, ServiceBusBroker
from tests.hosts.standalone import StandaloneHost

from . import machine
from .machine import Quiet, cpu_seconds, peak_mb, progress

SCRIPT = Path(__file__).parent / "scripts" / "one.py"
SIZES = (100, 1_000, 10_000)
BODY = b'{"data": [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]}'
PATIENCE = 300.0
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="waiting messages")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--samples", type=int, default=100, help="of the latency; 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Quiet() as quiet:
        script = Path(shutil.copy(SCRIPT, folder))
        figures = _measure(script, options, quiet)
    progress("")
    print(json.dumps(figures) if options.json else tables(figures))


def _measure(script: Path, options: argparse.Namespace, quiet: Quiet) -> Figures:
    figures: Figures = {"throughput": [], "latency": {}}
    with StandaloneHost(script) as host:
        start = cpu_seconds(host.worker)
    for size in options.sizes:
        rounds = []
        for number in range(options.rounds):
            quiet.turn()
            progress(f"{size:,} waiting, round {number + 1} of {options.rounds}")
            found = _throughput(script, size)
            found["host_cpu_ms"] -= start / size * 1000
            rounds.append(found)
        each = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        figures["throughput"].append({"size": size, **each})
    if options.samples:
        progress(f"latency, {options.samples} messages one at a time")
        figures["latency"] = _latency(script, options.samples)
    return figures


# --- the host's side ------------------------------------------------------------------------------


def _throughput(script: Path, size: int) -> Figures:
    with _broker() as (call, pid):
        call("fill", size)
        broker = cpu_seconds(pid)
        with _host(script, call("connection_string")) as host:
            seconds = call("drained", size)
            return {
                "per_second": size / seconds,
                "host_cpu_ms": cpu_seconds(host.worker) / size * 1000,
                "broker_cpu_ms": (cpu_seconds(pid) - broker) / size * 1000,
                "peak_mb": peak_mb(host.worker),
            }


def _latency(script: Path, samples: int) -> Figures:
    with _broker() as (call, _), _host(script, call("connection_string")):
        took: list[float] = call("answered_one_at_a_time", samples)
    hundredths = statistics.quantiles(took, n=100)
    return {"samples": samples, "p50_ms": hundredths[49], "p99_ms": hundredths[98]}


def _host(script: Path, connection_string: str) -> StandaloneHost:
    return StandaloneHost(script, environ={"TriggerConnectionString": connection_string})


# --- the broker's side ----------------------------------------------------------------------------


@contextlib.contextmanager
def _broker() -> Iterator[tuple[Callable[..., Any], int]]:
    """A broker process: a function that calls one of :class:`_Controls` in it, and its id."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None

    def call(name: str, *values: Any) -> Any:
        ours.send((name, values))
        return ours.recv()

    try:
        yield call, process.pid
    finally:
        ours.close()
        process.join(10)


def _serve(pipe: Connection) -> None:
    with ServiceBusBroker() as broker, contextlib.suppress(EOFError):
        broker.add_queue("input", lock_seconds=60)
        broker.add_queue("output")
        controls = _Controls(broker)
        while True:
            name, values = pipe.recv()
            pipe.send(getattr(controls, name)(*values))


class _Controls:
    """What the benchmark asks of the broker, in the broker's process."""

    def __init__(self, broker: ServiceBusBroker) -> None:
        self._broker = broker

    def connection_string(self) -> str:
        return self._broker.connection_string

    def fill(self, size: int) -> None:
        for number in range(size):
            self._broker.send("input", BODY, message_id=f"m{number}")

    def drained(self, size: int) -> float:
        """The seconds from the first delivery to the last reply."""
        self._until(lambda: self._broker.statistics.delivered, 0.001)
        begin = time.perf_counter()
        self._until(lambda: self._broker.counts("output").active >= size, 0.005)
        seconds = time.perf_counter() - begin
        self._until(lambda: self._broker.counts("input") == Counts(0, 0, 0), 0.01)
        replies = self._broker.messages("output")
        assert len({each.message_id for each in replies}) == len(replies) == size
        assert {each.body for each in replies} == {b"1"}
        return seconds

    def answered_one_at_a_time(self, samples: int) -> list[float]:
        """Milliseconds from each message to its reply."""
        at_random = random.Random(1)
        took = []
        for number in range(-5, samples):  # the first open connections
            time.sleep(at_random.uniform(0.02, 0.3))
            before = self._broker.counts("output").active
            begin = time.perf_counter()
            self._broker.send("input", BODY, message_id=f"m{number}")
            self._until(lambda: self._broker.counts("output").active > before, 0.0003)  # noqa: B023
            if number >= 0:
                took.append((time.perf_counter() - begin) * 1000)
        return took

    def _until(self, is_so: Callable[[], object], pause: float) -> None:
        end = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > end:
                raise TimeoutError("The host does not answer.")
            time.sleep(pause)


# --- output ---------------------------------------------------------------------------------------


def tables(figures: Figures) -> str:
    """In Markdown."""
    head = ["waiting messages", "messages/s", "CPU of the host each", "CPU of the broker each"]
    rows = [
        [f"{each['size']:,}", f"{each['per_second']:,.0f}", f"{each['host_cpu_ms']:.2f} ms",
         f"{each['broker_cpu_ms']:.2f} ms", f"{each['peak_mb']:.0f} MB"]
        for each in figures["throughput"]
    ]  # fmt: skip
    latency = figures["latency"] or {"samples": 0, "p50_ms": 0, "p99_ms": 0}
    return (
        machine.table([*head, "peak memory of the host"], rows)
        + f"\n\n{latency['samples']} messages one at a time: p50 {latency['p50_ms']:.1f} ms, "
        f"p99 {latency['p99_ms']:.1f} ms"
    )


if __name__ == "__main__":
    main()
