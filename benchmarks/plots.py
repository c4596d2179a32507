"""The plots of the documentation, from benchmarks/results: ``python -m benchmarks.plots``.

SVG for pages, PNG for elsewhere. The grey of the letters can be read on light and dark ground.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs_parts.speed import OURS, PEER, costs, results

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
GREY, COLOURS = "#7d8590", ("#8c959f", "#bf8700", "#2f81f7")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scoring-runtime",
    "font.family": "sans-serif",
    "font.size": 13,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.bottom": False,
}
Bars = list[tuple[str, str, float]]


def http() -> Bars:
    """Each server at 64 connections with one row of scikit-learn, after the slowest."""
    servers = results("http")["loads"]["linear-1"]["servers"]
    rates = {name: each["connections"]["64"]["rate"] for name, each in servers.items()}
    ours = {name: f"scoring-runtime, {name.replace('`', '')}" for name in OURS}
    return [
        (ours.get(name, name), "this server" if name in OURS else "others", rate)
        for name, rate in sorted(rates.items(), key=lambda item: item[1])
    ]


def growth() -> Bars:
    """Processor time of the host for each input."""
    return [
        (f"{place}, {each['size']:,} waiting", place, each["host_cpu_ms"])
        for place, each in costs()
    ]


def formats() -> Bars:
    """Each format, after the old server."""
    ours = {name: rate for name, rate in results("formats").items() if name != PEER}
    rates = sorted(ours.items(), key=lambda item: item[1])
    return [
        ("azureml-inference-server-http", "JSON to the old server", results("formats")[PEER]),
        *((name, "this server", rate) for name, rate in rates),
    ]


def cache() -> Bars:
    """A run() of 5 ms, without a cache and on hits."""
    found = results("cache")
    return [
        ("no cache", "no cache", found["5 ms, no cache, misses"]),
        ("memory://", "hits", found["5 ms, memory://, hits"]),
        ("Redis", "hits", found["5 ms, Redis, hits"]),
    ]


def instances() -> Bars:
    """What so many instances do in a second, undisturbed."""
    return [
        (f"{each['instances']} instance{'s' * (each['instances'] > 1)}, {kind}", kind,
         each[kind] / each[f"{kind}_seconds"])
        for kind in ("messages", "blobs")
        for each in results("instances")["undisturbed"]
    ]  # fmt: skip


def chaos() -> Bars:
    """The slowest recovery from each fault."""
    found: dict[str, list[float]] = results("chaos")["recoveries"]
    slowest = {fault: max(each) for fault, each in found.items()}
    return [
        (fault, "recovery", slowest[fault]) for fault in sorted(slowest, key=slowest.__getitem__)
    ]


def memory() -> Bars:
    """Of one worker, on its way."""
    looks = results("endurance")["looks"]
    return [(f"{each['requests']:,} requests", "memory", each["pss_mb"]) for each in looks]


PLOTS = {
    "speed-http": (http, "requests per second, scikit-learn, one row, 64 connections"),
    "speed-growth": (growth, "processor time of the host for each input, ms"),
    "speed-formats": (formats, "requests per second, 100 rows of 64 numbers to an ONNX model"),
    "scale-instances": (instances, "inputs per second on two cores, run() waits 20 ms"),
    "scale-chaos": (chaos, "seconds until all answer again after each fault, the slowest"),
    "scale-memory": (memory, "memory of one worker, MB"),
    "speed-cache": (cache, "requests per second, run() of 5 ms, 16 connections"),
}


def label(value: float) -> str:
    """What is written at the end of a bar."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def draw(name: str, folder: Path = PICTURES) -> Iterator[Path]:
    """Write the SVG and the PNG of a plot."""
    import matplotlib

    matplotlib.use("agg")
    with matplotlib.rc_context(STYLE):
        figure = _figure(*PLOTS[name])
        for ending in ("svg", "png"):
            path = folder / f"{name}.{ending}"
            dated = {"Date": None} if ending == "svg" else {}
            figure.savefig(path, transparent=True, dpi=160, metadata=dated, bbox_inches="tight")
            yield path


def _figure(bars: Any, title: str) -> Any:
    from matplotlib.figure import Figure

    found: Bars = bars()
    series = list(dict.fromkeys(each for _, each, _ in found))
    colours = dict(zip(series, COLOURS[-len(series) :], strict=True))
    figure = Figure(figsize=(8, 0.9 + 0.3 * len(found)))
    axes = figure.add_subplot()
    places = range(len(found))
    axes.barh(places, [v for _, _, v in found], color=[colours[s] for _, s, _ in found], height=0.8)
    for place, (_, _, value) in zip(places, found, strict=True):
        axes.annotate(label(value), (value, place), (5, 0), textcoords="offset points", va="center")
    names = [name for name, _, _ in found]
    axes.set_yticks(places, names)
    axes.tick_params(axis="both", length=0)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=13)
    return figure


if __name__ == "__main__":
    for each in PLOTS:
        for written in draw(each):
            print(written)
