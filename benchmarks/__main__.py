"""Every benchmark in turn, its figures into ``results/``, and the plots: ``make bench``.

``python -m benchmarks http cache`` measures these only.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from . import plots

NAMES = ("http", "formats", "functions", "blobs", "messages", "cache", "startup")
RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """What the figures were measured on."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {gigabytes:.0f} GB, Linux; client and server on the same cores"


def main(names: list[str]) -> None:
    """Measure, write, draw."""
    for name in names or NAMES:
        print(f"{name} …", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = {
            "machine": machine(),
            "python": ".".join(platform.python_version_tuple()[:2]),
            "date": datetime.date.today().isoformat(),
            "figures": json.loads(done.stdout),
        }
        text = json.dumps(found, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    for each in plots.PLOTS:
        list(plots.draw(each))


if __name__ == "__main__":
    main(sys.argv[1:])
