"""Start-up: time to import, time until an empty script is ready, memory of an idle worker."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.hosts.standalone import StandaloneHost

from .machine import Quiet

SCRIPT = Path(__file__).parent / "scripts" / "one.py"


def main() -> None:
    """Measure five times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args()
    with Quiet():
        figures = _measured()
    print(json.dumps(figures) if options.json else tables(figures))


def tables(figures: dict[str, float]) -> str:
    """A line for each figure."""
    return "\n".join(f"{name}: {value:.2f}" for name, value in figures.items())


def _measured() -> dict[str, float]:
    rounds = [_ready() for _ in range(5)]
    return {
        "import_ms": statistics.median(_import_ms() for _ in range(5)),
        "ready_s": statistics.median(seconds for seconds, _ in rounds),
        "idle_memory_mb": statistics.median(megabytes for _, megabytes in rounds),
    }


def _import_ms() -> float:
    code = (
        "import time; t = time.perf_counter();"
        "import scoring_runtime.scoring.runtime, scoring_runtime.cli.main;"
        "print((time.perf_counter() - t) * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _ready() -> tuple[float, float]:
    begin = time.perf_counter()
    with StandaloneHost(SCRIPT) as host:
        seconds = time.perf_counter() - begin
        status = Path(f"/proc/{host.worker}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return seconds, int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
