"""The tables of the page on speed, from benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import benchmarks.growth
import benchmarks.must
from benchmarks.http import figure

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
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


# Of the loads whose tables show every number of connections.
WHOLE = ("linear-1", "onnx-1")
OURS = ("no script, batches", "script, `@batched`", "no script", "script")
ALONE = "run() alone"
MODELS = {
    "echo": "always 1",
    "linear": "scikit-learn pipeline",
    "forest": "random forest",
    "onnx": "ONNX",
    "image": "picture",
}
# Why a server is ahead of this one, for each that was by more than 5 %.
AHEAD = {
    "bare uvicorn app": "it calls `run()` in its event loop: no hand-over to a scoring thread, "
    "no ids, deadlines, limits, access log, and no health while it computes",
}


def server(name: str) -> str:
    """As in tables: ours in bold."""
    return f"**scoring-runtime**, {name}" if name in OURS else name


def load(said: str) -> str:
    """A load as it is called on the page: ``linear, 1 row``."""
    model, _, rows = said.partition(", ")
    return ", ".join(filter(None, (MODELS[model], rows)))


def _counts(found: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(c for e in found["servers"].values() for c in e["connections"]))


def _whole(name: str) -> str:
    found = results("http")["loads"][name]
    counts = _counts(found)
    rows = [
        [
            server(name),
            *(figure(each["connections"].get(count)) for count in counts),
            f"{each['pss_mb']:.0f} MB",
            f"{each['first_answer_s']:.1f} s",
        ]
        for name, each in found["servers"].items()
    ]
    rows.append([ALONE, f"{found['alone']:,.0f}/s", *[""] * (len(counts) + 1)])
    many = [f"{count} connection{'s' * (count != '1')}" for count in counts]
    return _table([load(found["load"]), *many, "memory", "first answer"], rows, "http")


def _versions() -> str:
    lines = []
    for name, packages in results("http")["versions"].items():
        said = ", ".join(f"{package} {number}" for package, number in packages.items())
        lines.append(f"- {name}: {said}")
    return "\n".join(lines)


def others() -> str:
    """The other loads, each with one number of connections."""
    loads = {n: e for n, e in results("http")["loads"].items() if n not in WHOLE}
    counts = {name: _counts(each)[-1] for name, each in loads.items()}
    names = results("http")["loads"]["linear-1"]["servers"]
    rows = [
        [server(name), *(figure(e["servers"][name]["connections"].get(counts[n]))
                         if name in e["servers"] else "" for n, e in loads.items())]
        for name in names
    ]  # fmt: skip
    rows.append([ALONE, *(f"{each['alone']:,.0f}/s" for each in loads.values())])
    head = [f"{load(each['load'])}, {counts[n]} connections" for n, each in loads.items()]
    return _table(["", *head], rows, "http")


def ahead() -> str:
    """Where another server is ahead of the best of ours by more than 5 %, and what is missing."""
    found = results("http")
    lines = [
        f"- {name} could not be installed: `{said}`." for name, said in found["missing"].items()
    ]
    for each in found["loads"].values():
        lines += [f"- {load(each['load'])}: {n} failed: `{e}`." for n, e in each["failed"].items()]
        for count in _counts(each):
            lines += _ahead(each, count)
    return "\n".join(lines or ["No server is ahead by more than 5 %."])


def _ahead(each: dict[str, Any], count: str) -> Iterator[str]:
    rates = {
        name: found["connections"][count]["rate"]
        for name, found in each["servers"].items()
        if count in found["connections"]
    }
    best = max((name for name in rates if name in OURS), key=rates.__getitem__)
    for name, rate in rates.items():
        if name not in OURS and rate > 1.05 * rates[best]:
            yield (
                f"- {load(each['load'])}, {count} connection{'s' * (count != '1')}: {name} "
                f"{rate:,.0f}/s, the best of ours {rates[best]:,.0f}/s ({best}): "
                f"{AHEAD.get(name, 'why has not been found yet')}."
            )


def must() -> str:
    """What must hold, and whether it does."""
    return f"{benchmarks.must.tables(results('must'))}\n\n{measured('must')}"


def growth() -> str:
    """Throughput and memory against connections, workers, bytes and rows."""
    return f"{benchmarks.growth.tables(results('growth'))}\n\n{measured('growth')}"


def waiting() -> str:
    """What one input costs when so many wait."""
    rows = []
    for place, each in costs():
        storage = each.get("storage_cpu_ms", each.get("broker_cpu_ms"))
        rows.append([
            place, f"{each['size']:,}", f"{each['per_second']:,.0f}/s",
            f"{each['host_cpu_ms']:.2f} ms", f"{storage:.1f} ms" if storage else "",
            f"{each['peak_mb']:.0f} MB" if "peak_mb" in each else "",
        ])  # fmt: skip
    head = ["", "waiting", "scored", "CPU time of ours, each", "of Azurite or the broker, each"]
    return _table([*head, "peak memory"], rows, "blobs")


def costs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and figures of each number of waiting inputs."""
    names = {"Azurite": "blobs in Azurite", "folder": "files in a folder"}
    for each in results("blobs")["throughput"]:
        yield names[each["place"]], each
    for each in results("messages")["throughput"]:
        yield "messages", each


def functions() -> str:
    """What scoring takes, to an empty function."""
    found = results("functions")
    names = {
        "empty": "empty async function",
        "script": "score, run() returns 1",
        "no script": "score, ONNX model without a script, ten numbers",
    }
    empty = found["empty"]
    rows = [
        [
            name,
            f"{found[kind]['p50_us']:.0f} µs ({found[kind]['p50_us'] / empty['p50_us']:.1f}x)",
            f"{found[kind]['per_second']:,.0f}/s",
        ]
        for kind, name in names.items()
    ]
    head = ["function in the Functions worker library", "one in flight, p50", "16 in flight"]
    return _table(head, rows, "functions")


def lone() -> str:
    """Blobs and messages one at a time."""
    blobs, message = results("blobs"), results("messages")["latency"]
    latency = ", ".join(f"{e['p50_ms']:.0f} ms at {e['poll']}" for e in blobs["latency"])
    idle = blobs["idle"]
    return (
        f"One at a time, p50: a blob from upload to output {latency}; a message to its reply "
        f"{message['p50_ms']:.1f} ms. Looking once a second over {idle['size']:,} scored blobs "
        f"takes {idle['cpu_percent']:.0f} % of a core."
    )


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
    "speed_linear": lambda: _whole("linear-1"),
    "speed_onnx": lambda: _whole("onnx-1"),
    "speed_others": others,
    "speed_ahead": ahead,
    "speed_versions": _versions,
    "speed_must": must,
    "speed_growth": growth,
    "speed_waiting": waiting,
    "speed_lone": lone,
    "speed_functions": functions,
    "speed_cache": cache,
    "speed_formats": formats,
    "speed_startup": startup,
}
