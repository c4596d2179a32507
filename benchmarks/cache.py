"""The cache: hits against misses, and what it costs traffic that never hits.

``python -m benchmarks.cache`` serves a script whose run() computes for 5 ms and for 1 ms without a
cache, with memory:// and with a Redis-compatible server, and loads it with wrk at 16 connections:
with one body (hits) and with a new body each time (misses). Medians of three rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

from scoring_runtime.cache.memory import MemoryStore
from scoring_runtime.cache.results import Cache
from scoring_runtime.messages import ScoringRequest
from scoring_runtime.scoring.runtime import build
from scoring_runtime.settings.settings import Settings
from tests.hosts.redis import RedisServer
from tests.hosts.standalone import StandaloneHost, clean_environ

from . import machine, wrk
from .machine import Quiet, progress
from .servers import SCRIPTS
from .wrk import Request

_JSON = b'{"data": [[1,2,3,4,5,6,7,8,9,10]]}'
_NEW = (
    "n = os.time() % 100000 * 1000000\n"
    "request = function() n = n + 1\n"
    "return wrk.format(nil, nil, nil, '{\"data\": [[1,2,3,4,5,6,7,8,9,' .. n .. ']]}') end\n"
)
_TRAFFIC = {"hits": Request("/score", _JSON), "misses": Request("/score", _JSON, lua=_NEW)}
_CONNECTIONS = 16


def main() -> None:
    """Measure and print."""
    options = machine.options(__doc__, seconds=1).parse_args()
    wrk.needed()
    rows = {}
    with RedisServer() as server, Quiet() as quiet:
        stores = {"no cache": "", "memory://": "memory://", "Redis": server.url}
        for milliseconds in (5, 1):
            for name, url in stores.items():
                for traffic in _TRAFFIC:
                    if url or traffic == "misses":
                        row = f"{milliseconds} ms, {name}, {traffic}"
                        progress(row)
                        quiet.turn()
                        rows[row] = _rate(milliseconds, url, traffic, options)
    rows["MemoryStore: added to one hit, µs"] = _memory_hit_us()
    print(json.dumps(rows, indent=2) if options.json else tables(rows))


def _rate(milliseconds: int, url: str, traffic: str, options: argparse.Namespace) -> float:
    environ = clean_environ(BENCH_BUSY_MS=str(milliseconds))
    if url:
        environ["CACHE_URL"] = url
    with StandaloneHost(SCRIPTS / "busy.py", environ=environ) as host:
        request = _TRAFFIC[traffic]
        rounds = [
            wrk.load(host.url, request, _CONNECTIONS, options.seconds)["rate"]
            for _ in range(options.rounds + 1)
        ]
    return statistics.median(rounds[1:])


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


def tables(rows: dict[str, float]) -> str:
    """In Markdown."""
    lines = ["| run(), cache, traffic | requests/s at 16 connections |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value:,.1f} |" for name, value in rows.items())])


if __name__ == "__main__":
    main()
