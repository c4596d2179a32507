"""The Functions worker library: what the score function adds to an empty HTTP function.

``python -m benchmarks.functions`` invokes both in Microsoft's worker library, each in a process of
its own, with one in flight and with sixteen; medians of three rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.functions_host import Worker
from tests.standalone_host import clean_environ

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "scripts" / "one.py"
EMPTY = """
import azure.functions as func

app = func.FunctionApp()


@app.route(route="score", auth_level="ANONYMOUS")
async def score(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"1")
"""
HEADERS = {"host": "127.0.0.1", "content-type": "application/json", "content-length": "2"}
CALLS = 5000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asyncio.run(_measure(Path(options.child)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "function_app.py").write_text(EMPTY)
        empty = _rounds(folder)
    ours = _rounds(str(ROOT))
    figures = {
        "empty_us": empty["one_us"],
        "score_us": ours["one_us"],
        "added_us": ours["one_us"] - empty["one_us"],
        "empty_per_second_16": empty["per_second"],
        "score_per_second_16": ours["per_second"],
    }
    print(json.dumps(figures) if options.json else _table(figures))


def _rounds(app_dir: str) -> dict[str, float]:
    environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(SCRIPT))
    command = [sys.executable, "-m", "benchmarks.functions", "--child", app_dir]
    rounds = []
    for _ in range(3):
        done = subprocess.run(
            command, env=environ, cwd=ROOT, check=True, capture_output=True, text=True
        )
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


async def _measure(app_dir: Path) -> dict[str, float]:
    # As the worker does: every line at INFO to one handler. It sends them to the host; here they
    # are formatted and thrown away.
    logging.basicConfig(level=logging.INFO, stream=open("/dev/null", "w"))  # noqa: SIM115
    worker = Worker()
    await worker.start(app_dir)

    async def one() -> None:
        reply = await worker.invoke_http("score", "POST", "http://127.0.0.1/score", HEADERS, b"{}")
        assert reply.return_value.http.body.bytes == b"1", reply.failure()

    async def many(calls: int) -> None:
        for _ in range(calls):
            await one()

    await many(500)
    begin = time.perf_counter()
    await many(CALLS)
    one_us = (time.perf_counter() - begin) / CALLS * 1e6
    begin = time.perf_counter()
    await asyncio.gather(*(many(CALLS // 4) for _ in range(16)))
    per_second = CALLS // 4 * 16 / (time.perf_counter() - begin)
    return {"one_us": one_us, "per_second": per_second}


def _table(figures: dict[str, float]) -> str:
    return (
        "| function in the worker library | one in flight | 16 in flight |\n"
        "| --- | --- | --- |\n"
        f"| empty async function | {figures['empty_us']:.0f} µs | "
        f"{figures['empty_per_second_16']:,.0f}/s |\n"
        f"| score, run() returns 1 | {figures['score_us']:.0f} µs "
        f"(+{figures['added_us']:.0f}) | {figures['score_per_second_16']:,.0f}/s |"
    )


if __name__ == "__main__":
    main()
