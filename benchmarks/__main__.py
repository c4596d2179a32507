"""Every benchmark in turn, its figures into ``results/``, and the plots: ``make bench``.

``python -m benchmarks http cache`` measures these only, ``--quick`` one short round, which is kept
nowhere; ``python -m benchmarks must`` says what holds.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from . import machine, plots

NAMES = (
    "http", "must", "growth", "formats", "functions", "blobs", "messages", "cache", "startup",
    "scale",
)  # fmt: skip
# Only when it is named: it takes long, or its figures are on no page.
MORE = ("workers", "instances", "endurance")
WITH_QUICK = ("http", "must", "growth", "formats", "cache")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES + MORE))
    parser.add_argument("--quick", action="store_true", help="one short round of little")
    options = parser.parse_args()
    unknown = [each for each in options.names if each not in NAMES + MORE]
    if unknown:
        parser.error(f"{unknown[0]}: one of {', '.join(NAMES + MORE)}")
    for name in options.names or NAMES:
        if options.quick:
            _run(name, *(["--quick"] * (name in WITH_QUICK)))
        else:
            _kept(name)
    if not options.quick:
        for each in plots.PLOTS:
            list(plots.draw(each))


def _kept(name: str) -> None:
    begin = time.monotonic()
    found = {
        "machine": machine.name(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "date": datetime.date.today().isoformat(),
        "figures": json.loads(_run(name, "--json")),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    tables: str = importlib.import_module(f".{name}", __package__).tables(found["figures"])
    print(f"{name}, {time.monotonic() - begin:.0f} s:\n\n{tables}\n", flush=True)


def _run(name: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    pipe = subprocess.PIPE if "--json" in options else None
    done = subprocess.run(command, check=pipe is not None, stdout=pipe, text=True)
    return done.stdout or ""


if __name__ == "__main__":
    main()
