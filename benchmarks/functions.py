"""The Functions worker library: what the score function adds to an empty HTTP function.

``python -m benchmarks.functions`` invokes both in Microsoft's worker library, in turn and each in
a process of its own, with one in flight and with sixteen; medians of three rounds. The invocation
messages are made beforehand: in the worker they come from its gRPC thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hosts.functions import Message, Worker
from tests.hosts.standalone import clean_environ

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "scripts" / "one.py"
EMPTY = """
import azure.functions as func

app = func.FunctionApp()


@app.route(route="score", auth_level="ANONYMOUS")
async def score(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b"1")
"""
# What the Functions host sends for a small POST from curl.
HEADERS = {
    "accept": "*/*",
    "host": "127.0.0.1",
    "user-agent": "curl/8.5.0",
    "content-type": "application/json",
    "content-length": "2",
}
CALLS = 5000
IN_FLIGHT = 16
MOST_ADDED_US, LEAST_PER_SECOND = 150, 10_000
Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asyncio.run(_measure(Path(options.child)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "function_app.py").write_text(EMPTY)
        rounds = []
        for number in range(options.rounds):
            _progress(f"round {number + 1} of {options.rounds}")
            rounds.append((_run(folder), _run(str(ROOT))))
    _progress("")
    figures = _figures(rounds)
    print(json.dumps(figures) if options.json else _table(figures))


def _run(app_dir: str) -> Figures:
    command = [sys.executable, "-m", "benchmarks.functions", "--child", app_dir]
    environ = clean_environ(AZUREML_ENTRY_SCRIPT=str(SCRIPT))
    done = subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


async def _measure(app_dir: Path) -> Figures:
    # As the worker does: every line at INFO to one handler. It sends them to the host; here they
    # are formatted and thrown away, as the host's reading of them is not what is measured. The
    # worker writes a line for each invocation; our endpoint adds none on Functions.
    logging.basicConfig(level=logging.INFO, stream=open(os.devnull, "w"))  # noqa: SIM115
    worker = Worker()
    await worker.start(app_dir)

    def event() -> Message:
        return worker.http_event("score", "POST", "http://127.0.0.1/score", HEADERS, b"{}")

    async def many(events: list[Message]) -> None:
        for each in events:
            reply = await worker.invoke(each)
            assert reply.return_value.http.body.bytes == b"1", reply.failure()

    await many([event() for _ in range(500)])
    events = [event() for _ in range(CALLS)]
    begin = time.perf_counter()
    await many(events)
    one_us = (time.perf_counter() - begin) / CALLS * 1e6
    begin = time.perf_counter()
    await asyncio.gather(*(many(events[n::IN_FLIGHT]) for n in range(IN_FLIGHT)))
    return {"one_us": one_us, "per_second": CALLS / (time.perf_counter() - begin)}


def _figures(rounds: list[tuple[Figures, Figures]]) -> Figures:
    empty, score = ([each[n] for each in rounds] for n in (0, 1))
    return {
        "empty_us": statistics.median(each["one_us"] for each in empty),
        "score_us": statistics.median(each["one_us"] for each in score),
        "added_us": statistics.median(s["one_us"] - e["one_us"] for e, s in rounds),
        "empty_per_second_16": statistics.median(each["per_second"] for each in empty),
        "score_per_second_16": statistics.median(each["per_second"] for each in score),
    }


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _table(figures: Figures) -> str:
    return (
        "| function in the worker library | one in flight | 16 in flight |\n"
        "| --- | --- | --- |\n"
        f"| empty async function | {figures['empty_us']:.0f} µs | "
        f"{figures['empty_per_second_16']:,.0f}/s |\n"
        f"| score, run() returns 1 | {figures['score_us']:.0f} µs, adds "
        f"{figures['added_us']:.0f} µs (at most {MOST_ADDED_US}) | "
        f"{figures['score_per_second_16']:,.0f}/s (at least {LEAST_PER_SECOND:,}) |"
    )


if __name__ == "__main__":
    main()
