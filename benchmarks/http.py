"""HTTP: this runtime against other servers, with the same models and inputs, by wrk.

``python -m benchmarks.http`` starts all servers of a model, which then take turns: A B C A B C …,
so that what the machine does meanwhile falls on all of them. Medians of three rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import machine, servers, wrk
from .machine import Quiet, progress
from .servers import LOADS, SERVERS, Load, Server

# Which numbers of connections each load is measured with.
CONNECTIONS: dict[str, tuple[int, ...]] = {
    "echo": (1, 64),
    "linear-1": (1, 16, 64, 256),
    "linear-100": (16,),
    "forest-1": (16,),
    "forest-100": (16,),
    "onnx-1": (1, 16, 64, 256),
    "onnx-100": (16,),
    "image": (16,),
}
QUICK = {"linear-1": (1, 64), "onnx-1": (1, 64)}
Plan = Mapping[int, Sequence[Server]]
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    options = _options()
    wrk.needed()
    figures = measured_all(options)
    print(json.dumps(figures) if options.json else tables(figures))


def _options() -> argparse.Namespace:
    parser = machine.options(__doc__, seconds=1)
    names = [each.name for each in SERVERS]
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[])
    parser.add_argument("--servers", nargs="+", choices=names, default=names)
    parser.add_argument("--connections", type=int, nargs="+", default=[])
    return parser.parse_args()


def measured_all(options: argparse.Namespace) -> Figures:
    """Every load in turn."""
    wanted = [each for each in SERVERS if each.name in options.servers]
    installed, missing = available(wanted)
    chosen = QUICK if options.quick and not options.loads else CONNECTIONS
    with Bench(options.seconds, options.rounds, options.quick) as bench:
        loads = bench.loads(
            {
                name: dict.fromkeys(options.connections or chosen.get(name, (16,)), installed)
                for name in options.loads or chosen
            }
        )
        for name, each in loads.items():
            each["alone"] = bench.alone(LOADS[name])
    versions = {each.name: servers.peer_versions(each.peer) for each in installed if each.peer}
    return {
        "loads": loads,
        "missing": missing,
        "versions": {"scoring-runtime": machine.versions(), **versions},
    }


def available(wanted: Sequence[Server]) -> tuple[list[Server], dict[str, str]]:
    """Those that can be started here, and why the others cannot."""
    said = {each.name: servers.install(each.peer) for each in wanted if each.peer}
    missing = {name: error for name, error in said.items() if error}
    return [each for each in wanted if each.name not in missing], missing


class Bench:
    """Models on disk, the machine for itself, and how long each measurement is."""

    def __init__(self, seconds: int, rounds: int, quick: bool = False) -> None:
        self._seconds, self._rounds = (1, 1) if quick else (seconds, rounds)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._models = self._folder / "models"
        self._quiet = self._stack.enter_context(Quiet())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        progress("")

    def loads(self, plans: Mapping[str, Plan]) -> Figures:
        """Of each load: its servers with the medians of their points, memory and first answer."""
        found: Figures = {}
        for model in dict.fromkeys(LOADS[name].model for name in plans):
            some = {name: plan for name, plan in plans.items() if LOADS[name].model == model}
            points, about, failed = self.points(some, self._rounds, self._seconds)
            for name in some:
                each: Figures = {
                    server: {**said, "connections": {}} for server, said in about.items()
                }
                for (load, connections, server), rounds in points.items():
                    if load == name:
                        each[server]["connections"][str(connections)] = wrk.medians(rounds)
                found[name] = {"load": LOADS[name].name, "servers": each, "failed": failed}
        return found

    def points(
        self, plans: Mapping[str, Plan], rounds: int, seconds: int
    ) -> tuple[dict[tuple[str, int, str], list[wrk.Figures]], Figures, dict[str, str]]:
        """Start every server of the plans, which are of one model, and let them take turns.

        Each round of each load, number of connections and server; memory and first answer of each
        server; and those that did not answer.
        """
        points: dict[tuple[str, int, str], list[wrk.Figures]] = {}
        with contextlib.ExitStack() as stack:
            started, failed = self._start(plans, stack)
            for number in range(rounds):
                for name, connections, server in _turns(plans):
                    if server not in started:
                        continue
                    progress(f"{name}: round {number + 1}, {connections}, {server.name}")
                    self._quiet.turn()
                    request = servers.request_of(server, LOADS[name])
                    point = started[server].load(request, connections, seconds)
                    points.setdefault((name, connections, server.name), []).append(point)
            about: Figures = {
                server.name: {"first_answer_s": each.first_answer_s, **machine.memory_mb(each.pid)}
                for server, each in started.items()
            }
        return points, about, failed

    def _start(
        self, plans: Mapping[str, Plan], stack: contextlib.ExitStack
    ) -> tuple[dict[Server, servers.Running], dict[str, str]]:
        """Those that answer, each after a second of load, and why the others do not."""
        started: dict[Server, servers.Running] = {}
        failed: dict[str, str] = {}
        load = LOADS[next(iter(plans))]
        for number, server in enumerate(dict.fromkeys(each[2] for each in _turns(plans))):
            progress(f"{load.model}: starting {server.name}")
            self._quiet.turn()
            room = self._folder / f"{load.model}-{number}"
            try:
                each = stack.enter_context(servers.running(server, load, self._models, room))
            except (SystemExit, subprocess.CalledProcessError) as error:
                failed[server.name] = str(error).strip().splitlines()[-1]
                continue
            each.load(each.request, 16, 1)
            started[server] = each
        return started, failed

    def alone(self, load: Load) -> float:
        """Calls per second of the script's run() with nothing around it."""
        body = self._folder / "body"
        body.write_bytes(servers.requests(load)["score"].body)
        self._quiet.turn()
        stage = servers.Stage(load, self._models / load.model, 0, self._folder)
        command = [sys.executable, "-m", "benchmarks.alone", str(body)]
        environ = servers.environ_of(servers.BARE, stage)
        done = subprocess.run(
            command, env=environ, cwd=servers.ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return float(done.stdout)


def _turns(plans: Mapping[str, Plan]) -> Iterator[tuple[str, int, Server]]:
    for name, plan in plans.items():
        for connections, wanted in plan.items():
            for server in wanted:
                if LOADS[name].model in server.models:
                    yield name, connections, server


def tables(figures: Figures) -> str:
    """In Markdown."""
    parts = []
    for found in figures["loads"].values():
        counts = list(dict.fromkeys(c for e in found["servers"].values() for c in e["connections"]))
        rows = [[name, *cells(each, counts)] for name, each in found["servers"].items()]
        rows += [[name, f"failed: {error}"] for name, error in found["failed"].items()]
        rows += [["run() alone", f"{found['alone']:,.0f}/s"]]
        head = [found["load"], *(f"{count} connections" for count in counts)]
        parts.append(machine.table([*head, "memory", "first answer"], rows))
    parts += [f"{name} is missing: {error}" for name, error in figures["missing"].items()]
    return "\n\n".join(parts)


def cells(each: Figures, counts: Sequence[str]) -> list[str]:
    """Of one server: what is measured with each number of connections, memory, start."""
    found = [figure(each["connections"].get(count)) for count in counts]
    return [*found, f"{each['pss_mb']:.0f} MB", f"{each['first_answer_s']:.1f} s"]


def figure(point: wrk.Figures | None) -> str:
    """Requests per second, p50 and p99."""
    if point is None:
        return ""
    failed = f", {point['errors']:.0f} failed" if point["errors"] else ""
    times = f"{machine.short(point['p50_ms'])} / {machine.short(point['p99_ms'])} ms"
    return f"{point['rate']:,.0f}/s, {times}{failed}"


if __name__ == "__main__":
    main()
