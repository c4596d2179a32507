"""The tables of the page on speed, from benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SCRIPTS = {
    "one": "returns 1",
    "sklearn_row": "scikit-learn, one row",
    "onnx_row": "ONNX, one row",
}
PEER = "azureml-inference-server-http, JSON"
# kB of a body of 100 rows of 64 numbers.
BODIES = {PEER: 130, "JSON": 130, "V2 JSON": 130, "npy": 26, "V2 binary": 26}
BODIES |= {"JSON Lines": 106, "CSV": 68}


def results(name: str) -> Any:
    """The figures of a benchmark."""
    return document(name)["figures"]


def document(name: str) -> dict[str, Any]:
    """Its figures with the machine and the date."""
    read: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return read


def measured(name: str) -> str:
    """Where and when."""
    said = document(name)
    return f"Measured on {said['date']}: {said['machine']}; Python {said['python']}."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], name: str) -> str:
    heads = list(head)
    lines = [heads, ["---"] * len(heads), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{measured(name)}"


def http() -> str:
    """Requests per second and p99 of three servers."""
    rows = []
    for each in results("http"):
        script = SCRIPTS[each["script"]]
        if each["alone"]:
            rows.append([script, "run() alone", f"{each['alone']:,.0f}/s", "", ""])
        for server, figures in each["servers"].items():
            cells = (f"{f['rate']:,.0f}/s, p99 {f['p99_ms']:.2f} ms" for f in figures.values())
            rows.append([script, server, *cells])
    return _table(["run()", "server", *(f"{n} connections" for n in (1, 16, 64))], rows, "http")


def functions() -> str:
    """What scoring adds to a function."""
    f = results("functions")
    added = f"{f['score_us']:.0f} µs (+{f['added_us']:.0f})"
    rows = [
        ["empty async function", f"{f['empty_us']:.0f} µs", f"{f['empty_per_second_16']:,.0f}/s"],
        ["score, run() returns 1", added, f"{f['score_per_second_16']:,.0f}/s"],
    ]
    head = ["function in the Functions worker library", "one in flight", "16 in flight"]
    return _table(head, rows, "functions")


def inputs() -> str:
    """Blobs, files and messages with an empty run()."""
    blobs, messages = results("blobs"), results("messages")
    latency = ", ".join(f"p50 {e['p50_ms']:.0f} ms at {e['poll']}" for e in blobs["latency"])
    names = {
        "Azurite": ("blobs, Azurite in memory", latency),
        "folder": ("files in a local folder", ""),
    }
    rows = []
    for place, (text, more) in names.items():
        rates = [e["per_second"] for e in blobs["throughput"] if e["place"] == place]
        rows.append([text, *(f"{rate:,.0f}/s" for rate in rates), more])
    rates = [f"{each['per_second']:,.0f}/s" for each in messages["throughput"]]
    p50 = f"p50 {messages['latency']['p50_ms']:.1f} ms"
    rows.append(["messages and their replies, a double of the broker", *rates, p50])
    head = ["trigger", "100 waiting", "1,000", "10,000", "one at a time"]
    return _table(head, rows, "blobs")


def cache() -> str:
    """Requests per second with and without a cache."""
    found = results("cache")
    rows = []
    for run, traffic in (("5 ms", "hits"), ("5 ms", "misses"), ("1 ms", "misses")):
        without = found[f"{run}, no cache, misses"]
        kept = [found[f"{run}, {store}, {traffic}"] for store in ("memory://", "Redis")]
        rows.append([f"run() of {run}, all {traffic}", *(f"{n:,.0f}/s" for n in (without, *kept))])
    head = ["16 connections", "no cache", "`memory://`", "Redis"]
    return _table(head, rows, "cache")


def formats() -> str:
    """Requests per second of each format."""
    found = results("formats")
    rows = [
        [name, f"{BODIES[name]} kB", f"{rate:,.0f}/s", f"{rate / found[PEER]:.1f}x"]
        for name, rate in found.items()
    ]
    head = ["100 rows of 64 numbers, ONNX, 8 connections", "body", "requests", "of the old server"]
    return _table(head, rows, "formats")


def startup() -> str:
    """Import, start and memory."""
    f = results("startup")
    return (
        f"Importing takes {f['import_ms']:.0f} ms; `serve` is ready {f['ready_s']:.1f} s after its "
        f"start with an empty script, and an idle worker holds {f['idle_memory_mb']:.0f} MB.\n\n"
        f"{measured('startup')}"
    )


PARTS: dict[str, Callable[[], str]] = {
    "speed_http": http,
    "speed_functions": functions,
    "speed_inputs": inputs,
    "speed_cache": cache,
    "speed_formats": formats,
    "speed_startup": startup,
}
