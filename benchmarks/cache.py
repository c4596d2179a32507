"""The cache: hits against misses, and what it costs traffic that never hits.

``python -m benchmarks.cache`` serves a script whose run() computes for 5 ms and for 1 ms without a
cache, with memory:// and with a Redis-compatible server, and loads it with wrk at 16 connections:
with one body (hits) and with a new body each time (misses). Medians of three rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.http import ROOT, SCRIPTS, _need_wrk, _parser, _progress, _wait
from scoring_runtime.cache.memory import MemoryStore
from scoring_runtime.cache.results import Cache
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from tests.hosts.redis import RedisServer
from tests.hosts.standalone import clean_environ, free_port

_TRAFFIC = {
    "hits": "wrk.body = '{\"data\": [[1,2,3,4,5,6,7,8,9,10]]}'\n",
    "misses": (
        "n = os.time() % 100000 * 1000000\n"
        "request = function() n = n + 1\n"
        "return wrk.format(nil, nil, nil, '{\"data\": [[1,2,3,4,5,6,7,8,9,' .. n .. ']]}') end\n"
    ),
}
_CONNECTIONS = 16


def main() -> None:
    """Measure and print."""
    options = _parser(__doc__).parse_args()
    _need_wrk()
    rows = {}
    with RedisServer() as server:
        stores = {"no cache": "", "memory://": "memory://", "Redis": server.url}
        for milliseconds in (5, 1):
            for name, url in stores.items():
                for traffic in _TRAFFIC:
                    if url or traffic == "misses":
                        row = f"{milliseconds} ms, {name}, {traffic}"
                        _progress(row)
                        rows[row] = _rate(milliseconds, url, traffic, options)
    rows["MemoryStore: added to one hit, µs"] = _memory_hit_us()
    print(json.dumps(rows, indent=2) if options.json else _table(rows))


def _rate(milliseconds: int, url: str, traffic: str, options: argparse.Namespace) -> float:
    environ = clean_environ(BENCH_BUSY_MS=str(milliseconds))
    if url:
        environ["CACHE_URL"] = url
    rates = []
    for _ in range(options.rounds):
        port = free_port()
        command = [
            sys.executable, "-m", "scoring_runtime", "serve", "--port", str(port),
            "--host", "127.0.0.1", "--entry-script", str(SCRIPTS / "busy.py"),
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            with log.open("wb") as out:
                process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=out, stderr=out)
            try:
                _wait(port, process, log)
                rates.append(_wrk(port, traffic, options.seconds, Path(folder)))
            finally:
                process.terminate()
                process.wait(20)
    return statistics.median(rates)


def _wrk(port: int, traffic: str, seconds: int, folder: Path) -> float:
    script = folder / "post.lua"
    head = 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
    script.write_text(head + _TRAFFIC[traffic])
    url = f"http://127.0.0.1:{port}/score"
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", "-s", str(script), url]
    subprocess.run([*command, "-d1"], check=True, capture_output=True)
    out = subprocess.run(
        [*command, f"-d{seconds}"], check=True, capture_output=True, text=True
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"errors under load:\n{out}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    assert rate is not None, out
    return float(rate[1])


def _memory_hit_us() -> float:
    """What a hit in memory takes inside the process: key, look-up, response."""

    async def measure() -> float:
        settings = Settings.from_environ(
            {"CACHE_URL": "memory://", "BENCH_BUSY_MS": "1"},
            command_line={"AZUREML_ENTRY_SCRIPT": str(SCRIPTS / "one.py")},
        )
        runtime = build(settings)
        runtime.start()
        await runtime.started()
        cache = Cache(runtime, MemoryStore(settings.cache_memory_bytes))
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        request = ScoringRequest(b'{"data": [[1,2,3,4,5,6,7,8,9,10]]}', headers)
        await cache(request)
        await asyncio.sleep(0.05)
        began, count = time.perf_counter(), 20_000
        for _ in range(count):
            await cache(request)
        taken = (time.perf_counter() - began) / count * 1e6
        assert cache.hits.value == count
        await runtime.stop()
        return taken

    return asyncio.run(measure())


def _table(rows: dict[str, float]) -> str:
    lines = ["| run(), cache, traffic | requests/s at 16 connections |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value:,.1f} |" for name, value in rows.items())])


if __name__ == "__main__":
    main()
