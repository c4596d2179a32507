"""The table of metrics."""

from scoring_runtime.telemetry.metrics import METRICS, MODEL_INFO, Metric

_WITH = {
    "cache": "with a cache",
    "batches": "with batches",
    "blob": "blobs",
    "service_bus": "messages",
    "connections": "standalone host",
    "keys": "with keys",
    "records": "with `SCORING_RECORD`",
    "changes": "standalone host, on Linux",
}


def markdown() -> str:
    """Name, kind, labels and meaning of each."""
    rows = [_row(each) for each in (*METRICS, MODEL_INFO)]
    return "\n".join(("| metric | kind | labels | |", "| --- | --- | --- | --- |", *rows))


def _row(metric: Metric) -> str:
    kind = "info" if metric is MODEL_INFO else metric.kind
    labels = ", ".join(f"`{each}`" for each in metric.labels)
    with_what = f" ({_WITH[metric.only_with]})" if metric.only_with else ""
    return f"| `{metric.name}` | {kind} | {labels} | {metric.help[:-1]}{with_what} |"
