"""Endurance: the memory of one worker after 100,000 requests, and on the way to two million.

``python -m benchmarks.endurance`` prints it. Requests are one row of JSON to an empty run() over
64 connections, counted by the server itself (``/metrics``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.hosts.standalone import StandaloneHost

from . import machine, wrk
from .machine import progress
from .messages import BODY, SCRIPT

EARLY, REQUESTS = 100_000, 2_000_000
SLICE_SECONDS, CONNECTIONS = 2, 64
Figures = dict[str, Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--early", type=int, default=EARLY, help="requests before the first look")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="requests in all")
    options = parser.parse_args()
    wrk.needed()
    with tempfile.TemporaryDirectory() as folder:
        figures = endured(Path(shutil.copy(SCRIPT, folder)), options.early, options.requests)
    progress("")
    print(json.dumps(figures) if options.json else tables(figures))


def endured(script: Path, early: int, requests: int) -> Figures:
    """Load one worker until it has answered so many; its memory (PSS, and what is its alone)."""
    request = wrk.Request("/score", BODY)
    failed, looks, began = 0.0, [], time.monotonic()
    load_before = os.getloadavg()[0]
    with StandaloneHost(script) as host:
        for wanted in (early, *(requests * part // 4 for part in range(1, 5))):
            while (done := _answered(host)) < wanted:
                progress(f"{done:,} of {requests:,}")
                failed += wrk.load(host.url, request, CONNECTIONS, SLICE_SECONDS)["errors"]
            looks.append({"requests": done, "pss_mb": machine.memory_mb(host.worker)["pss_mb"],
                          "own_mb": _own_mb(host.worker)})  # fmt: skip
    return {
        "looks": looks,
        "failed": failed,
        "growth": looks[-1]["pss_mb"] / looks[0]["pss_mb"] - 1,
        "seconds": time.monotonic() - began,
        "load": [load_before, os.getloadavg()[0]],
    }


def _own_mb(pid: int) -> float:
    """Memory that is no file's, in MB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Anonymous: +(\d+)", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def _answered(host: StandaloneHost) -> int:
    """What the host has scored, by its own count."""
    text = httpx.get(f"{host.url}/metrics", timeout=30).text
    pattern = r'^scoring_requests_total\{[^}]*outcome="scored"[^}]*\} (\S+)'
    return int(sum(float(each) for each in re.findall(pattern, text, re.MULTILINE)))


def tables(figures: Figures) -> str:
    """In Markdown."""
    rows = [
        [f"{each['requests']:,}", f"{each['pss_mb']:.1f} MB", f"{each['own_mb']:.1f} MB"]
        for each in figures["looks"]
    ]
    return machine.table(["requests to one worker", "its memory", "of it no file's"], rows)


if __name__ == "__main__":
    main()
