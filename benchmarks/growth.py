"""Growth: how throughput and memory of the standalone host grow with what it is given.

``python -m benchmarks.growth`` measures connections, workers, the size of bodies and the number of
rows; waiting blobs and messages have benchmarks of their own (``blobs``, ``messages``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, servers, wrk
from .machine import Quiet, progress
from .servers import LOADS, NO_SCRIPT, NO_SCRIPT_BATCHED, SCRIPT, TWO_WORKERS, Running
from .wrk import Request

CONNECTIONS = (1, 4, 16, 64, 256, 1024)
BODIES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ROWS = (1, 10, 100, 1_000, 10_000)
Figures = dict[str, Any]
Point = tuple[int, Running, Request, int]


def main() -> None:
    """Measure and print."""
    options = machine.options(__doc__, seconds=1).parse_args()
    wrk.needed()
    with tempfile.TemporaryDirectory() as folder, Quiet() as quiet:
        figures = {name: _measured(name, Path(folder), options, quiet) for name in KINDS}
    progress("")
    print(json.dumps(figures) if options.json else tables(figures))


def _connections(start: Callable[..., Running]) -> list[Point]:
    running = start(NO_SCRIPT_BATCHED, "linear-1")
    return [(count, running, running.request, count) for count in CONNECTIONS]


def _workers(start: Callable[..., Running]) -> list[Point]:
    both = (start(NO_SCRIPT, "linear-1"), start(TWO_WORKERS, "linear-1"))
    return [(number, each, each.request, 64) for number, each in enumerate(both, 1)]


def _bodies(start: Callable[..., Running]) -> list[Point]:
    running = start(SCRIPT, "echo")
    return [(size, running, Request("/score", b" " * size), 4) for size in BODIES]


def _rows(start: Callable[..., Running]) -> list[Point]:
    running = start(NO_SCRIPT, "onnx-1")
    return [(count, running, _array(count), 4) for count in ROWS]


def _array(count: int) -> Request:
    array = io.BytesIO()
    np.save(array, np.random.default_rng(1).random((count, 64), dtype=np.float32))
    return Request("/score", array.getvalue(), "application/x-npy")


KINDS: dict[str, Callable[[Callable[..., Running]], list[Point]]] = {
    "connections": _connections,
    "workers": _workers,
    "bytes of a body": _bodies,
    "rows of a body": _rows,
}


def _measured(kind: str, folder: Path, options: argparse.Namespace, quiet: Quiet) -> list[Figures]:
    """Of each size: the medians, and the memory after the first round, from small to large."""
    with contextlib.ExitStack() as stack:

        def start(server: servers.Server, load: str) -> Running:
            room = folder / f"{kind}-{server.name}"
            return stack.enter_context(
                servers.running(server, LOADS[load], folder / "models", room)
            )

        points = KINDS[kind](start)
        for _, running, _, _ in points[:: len(points) - 1]:
            running.load(running.request, 16, 1)
        rounds: dict[int, list[wrk.Figures]] = {size: [] for size, *_ in points}
        for number in range(1 if options.quick else options.rounds):
            for size, running, request, connections in points:
                quiet.turn()
                progress(f"{kind}: {size:,}, round {number + 1}")
                found = running.load(request, connections, options.seconds)
                rounds[size].append(found | machine.memory_mb(running.pid))
    return [
        {"size": size, **wrk.medians(each), "pss_mb": each[0]["pss_mb"]}
        for size, each in rounds.items()
    ]


def tables(figures: Figures) -> str:
    """In Markdown."""
    return "\n\n".join(
        machine.table([kind, "requests per second", "p50 / p99", "memory"], cells(each))
        for kind, each in figures.items()
    )


def cells(points: Sequence[Figures]) -> list[list[str]]:
    """A row for each size."""
    return [
        [
            f"{each['size']:,}",
            f"{each['rate']:,.0f}" + (f", {each['errors']:.0f} failed" if each["errors"] else ""),
            f"{machine.short(each['p50_ms'])} / {machine.short(each['p99_ms'])} ms",
            f"{each['pss_mb']:.0f} MB",
        ]
        for each in points
    ]


if __name__ == "__main__":
    main()
