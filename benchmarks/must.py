"""What must hold: ``python -m benchmarks must`` measures it in one run and says what does.

Each row compares two servers that took turns in the same minutes, as medians of three rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from . import machine, servers, wrk
from .http import Bench, available
from .servers import (
    AZUREML,
    BARE,
    BATCHED,
    NO_SCRIPT,
    NO_SCRIPT_BATCHED,
    ROOT,
    SCRIPT,
    TWO_WORKERS,
    WITH_BATCHES,
    Server,
)

# What nothing may have become slower than: the state before there were batches.
BEFORE = "0bdc03b308c3b7777cd561b8c71e8319399ff065"
MOST_LINES = 900
Figures = dict[str, Any]
Points = dict[str, dict[str, dict[str, wrk.Figures]]]
# Without `mlflow models serve`, which is never the best and takes long to start.
OTHERS = (AZUREML, *WITH_BATCHES)
PLANS: dict[str, dict[int, tuple[Server, ...]]] = {
    "linear-1": {
        64: (NO_SCRIPT_BATCHED, BATCHED, NO_SCRIPT, TWO_WORKERS, *OTHERS),
        16: (NO_SCRIPT, SCRIPT),
        1: (NO_SCRIPT, NO_SCRIPT_BATCHED),
    },
    "onnx-1": {
        64: (NO_SCRIPT_BATCHED, *OTHERS),
        16: (NO_SCRIPT, SCRIPT),
        1: (NO_SCRIPT, NO_SCRIPT_BATCHED, BARE),
    },
    "onnx-100": {16: (NO_SCRIPT, AZUREML)},
}
BEFORE_LOADS, BEFORE_CONNECTIONS = ("echo", "linear-1", "onnx-1"), (1, 16, 64)
# Pairs of a second each: a share of 3 % is less than what one pair differs by.
PAIRS = 6


# Text, load, connections, one server, the other, how many times it must be.
RATIOS: tuple[tuple[str, str, int, Server, Server, float], ...] = (
    ("scikit-learn, batched, to the old server", "linear-1", 64, NO_SCRIPT_BATCHED, AZUREML, 10),
    ("the same by a `@batched` script", "linear-1", 64, BATCHED, AZUREML, 8),
    ("the same, batched to unbatched", "linear-1", 64, NO_SCRIPT_BATCHED, NO_SCRIPT, 4),
    ("ONNX, batched, to the old server", "onnx-1", 64, NO_SCRIPT_BATCHED, AZUREML, 12),
    ("ONNX, no script, to its script", "onnx-1", 16, NO_SCRIPT, SCRIPT, 1),
    ("scikit-learn, no script, to its script", "linear-1", 16, NO_SCRIPT, SCRIPT, 1),
    ("ONNX, 100 rows of JSON, no script, to the old server", "onnx-100", 16, NO_SCRIPT, AZUREML, 6),
    ("scikit-learn, two workers to one", "linear-1", 64, TWO_WORKERS, NO_SCRIPT, 1.6),
    ("ONNX, no script, to a bare uvicorn app", "onnx-1", 1, NO_SCRIPT, BARE, 0.85),
)


class Row(NamedTuple):
    """What is found, and whether it holds."""

    text: str
    found: float
    bound: float
    is_most: bool = False
    about: str = ""
    # Two standard errors of what was found, where it is known.
    noise: float = 0

    @property
    def holds(self) -> bool:
        """At least, or at most, what was asked for, as far as the noise lets it be said."""
        if self.is_most:
            return self.found - self.noise <= self.bound
        return self.found + self.noise >= self.bound


def main() -> None:
    """Measure and print."""
    options = _options()
    wrk.needed()
    rows = [{**row._asdict(), "holds": row.holds} for row in measured(options)]
    print(json.dumps(rows) if options.json else tables(rows))


def _options() -> argparse.Namespace:
    parser = machine.options(__doc__)
    parser.add_argument("--before", default=BEFORE, help="the commit that nothing is slower than")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> list[Row]:
    """All rows, from one run."""
    installed, missing = available(OTHERS)
    with Bench(options.seconds, options.rounds, options.quick) as bench, _before(options) as before:
        found = bench.loads(
            {
                name: {
                    c: [e for e in wanted if e.name not in missing] for c, wanted in plan.items()
                }
                for name, plan in PLANS.items()
            }
        )
        points = {
            load: {name: each["connections"] for name, each in about["servers"].items()}
            for load, about in found.items()
        }
        rows = _ratios(points, [each.name for each in installed])
        rows += _not_slower(bench, before, options.quick) if before else []
    return rows + _functions(options) + _lines(options.before)


def _ratios(points: Points, peers: Sequence[str]) -> list[Row]:
    def of(load: str, server: Server, connections: int, key: str = "rate") -> float:
        return points[load][server.name][str(connections)][key]

    def ratio(text: str, load: str, count: int, one: Server, other: Server, bound: float) -> Row:
        found, base = of(load, one, count), of(load, other, count)
        many = f"{count} connection{'s' * (count > 1)}"
        return Row(f"{text}, {many}", found / base, bound, about=f"{found:,.0f}/s to {base:,.0f}/s")

    rows = [ratio(*each) for each in RATIOS]
    rows.append(_best_with_batches(points, of))
    for load, name in (("linear-1", "scikit-learn"), ("onnx-1", "ONNX")):
        best = min(peers, key=lambda peer: points[load][peer]["64"]["p99_ms"])
        theirs = points[load][best]["64"]["p99_ms"]
        ours = of(load, NO_SCRIPT_BATCHED, 64, "p99_ms")
        about, text = f"{ours:.1f} ms to {theirs:.1f} ms, {best}", "p99, 64 connections"
        rows.append(
            Row(f"{name}, batched, {text}, to the best peer", ours / theirs, 1, True, about)
        )
        on, off = (of(load, each, 1, "p50_ms") for each in (NO_SCRIPT_BATCHED, NO_SCRIPT))
        about, text = f"{on:.3f} ms to {off:.3f} ms", "a lone request with batches on"
        rows.append(Row(f"{name}, {text}, p50, to off", on / off, 1.05, True, about))
    return rows


def _best_with_batches(points: Points, of: Callable[..., float]) -> Row:
    rates = {e.name: of("linear-1", e, 64) for e in WITH_BATCHES if e.name in points["linear-1"]}
    best = max(rates, key=rates.__getitem__)
    ours = of("linear-1", NO_SCRIPT_BATCHED, 64)
    text = "scikit-learn, batched, 64 connections, to the best of MLServer, LitServe, BentoML"
    return Row(text, ours / rates[best], 6, about=f"{ours:,.0f}/s to {rates[best]:,.0f}/s, {best}")


# --- not slower than before -----------------------------------------------------------------------


@contextlib.contextmanager
def _before(options: argparse.Namespace) -> Iterator[Server | None]:
    """The same server as it was, out of git; None where the history is not there."""
    folder = servers.CACHE / f"before-{options.before[:12]}"
    git = ["git", "-C", str(ROOT)]
    if not folder.exists():
        archive = subprocess.run([*git, "archive", options.before], capture_output=True)
        if archive.returncode:
            print(f"no commit {options.before} to compare with", file=sys.stderr)
            yield None
            return
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    yield SCRIPT._replace(name="before", root=folder)


def _not_slower(bench: Bench, before: Server, quick: bool) -> list[Row]:
    rows = []
    for load in BEFORE_LOADS:
        plan = dict.fromkeys(BEFORE_CONNECTIONS, (before, SCRIPT))
        points, _, failed = bench.points({load: plan}, 2 if quick else PAIRS, 1)
        if failed:
            raise SystemExit(str(failed))
        for connections in BEFORE_CONNECTIONS:
            then, now = (
                [point["rate"] for point in points[load, connections, each.name]]
                for each in (before, SCRIPT)
            )
            ratios = [a / b for a, b in zip(now, then, strict=True)]
            noise = 2 * 1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5
            many = f"{connections} connection{'s' * (connections > 1)}"
            about = f"{statistics.median(now):,.0f}/s to {statistics.median(then):,.0f}/s"
            text = f"{servers.LOADS[load].name}, script, {many}, to before"
            found, about = statistics.median(ratios), f"{about}, noise {noise:.2f}"
            rows.append(Row(text, found, 0.97, about=about, noise=noise))
    return rows


def _lines(before: str) -> list[Row]:
    """Source lines more than before."""
    git = ["git", "-C", str(ROOT), "ls-tree", "-r", "--name-only", before, "scoring_runtime"]
    names = subprocess.run(git, capture_output=True, text=True).stdout.split()
    if not names:
        return []
    show = ["git", "-C", str(ROOT), "show", *(f"{before}:{n}" for n in names if n.endswith(".py"))]
    then = subprocess.run(show, capture_output=True, text=True, check=True).stdout.count("\n")
    now = sum(p.read_text().count("\n") for p in (ROOT / "scoring_runtime").rglob("*.py"))
    return [Row("source lines more than before", now - then, MOST_LINES, True, f"{now:,}")]


# --- Functions ------------------------------------------------------------------------------------


def _functions(options: argparse.Namespace) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.functions", "--json"]
    command += ["--rounds", "1" if options.quick else str(options.rounds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found = json.loads(done.stdout)
    rows = []
    for kind, most, least in (("script", 4.5, 0.5), ("no script", 2.5, 0.6)):
        ours, empty = found[kind], found["empty"]
        about = f"{ours['p50_us']:.0f} µs to {empty['p50_us']:.0f} µs"
        text = f"Functions worker library, {kind}, p50 with one in flight, to an empty function"
        rows.append(Row(text, ours["p50_us"] / empty["p50_us"], most, True, about))
        about = f"{ours['per_second']:,.0f}/s to {empty['per_second']:,.0f}/s"
        text = f"Functions worker library, {kind}, 16 in flight, to an empty function"
        rows.append(Row(text, ours["per_second"] / empty["per_second"], least, about=about))
    return rows


def tables(rows: Sequence[Figures]) -> str:
    """In Markdown."""
    lines = []
    for row in rows:
        bound = f"{'at most' if row['is_most'] else 'at least'} {row['bound']:g}"
        found = f"{row['found']:.0f}" if row["bound"] > 100 else f"{row['found']:.2f}"
        lines.append([row["text"], bound, found, row["about"], "yes" if row["holds"] else "**no**"])
    return machine.table(["", "must be", "is", "", "holds"], lines)


if __name__ == "__main__":
    main()
