"""The metrics as Prometheus reads them, written by prometheus-client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .metrics import MODEL_INFO, UNKNOWN, Metric, Metrics

Digests = Mapping[tuple[str, str], str]


def written(metrics: Metrics, digests: Digests, accept: str) -> tuple[bytes, str]:
    """The text for a value of ``Accept``, and its content type: Prometheus' format or OpenMetrics.

    Args:
        metrics: published.
        digests: SHA-256 by name and version of the models whose files have been read.
        accept: as the client sent it, or nothing.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(metrics, digests)), content_type


class _Collected(Collector):
    """What prometheus-client writes: all families, each once."""

    def __init__(self, metrics: Metrics, digests: Digests) -> None:
        self._metrics, self._digests = metrics, digests

    def collect(self) -> Iterable[Family]:
        families: dict[Metric, Any] = {}
        for metric, labels, cells in self._metrics.read():
            family = families.get(metric) or _family(metric)
            families[metric] = family
            if UNKNOWN[0] not in labels[:1] or any(cells):
                _add(family, metric, labels, cells)
        info = _family(MODEL_INFO)
        for (name, version), digest in [*self._digests.items()]:
            info.add_metric((name, version, digest), 1)
        yield from [*families.values(), info]
        yield from self._of_processes()

    def _of_processes(self) -> Iterator[Family]:
        """``process_*`` of each worker that lives, by its number."""
        families: dict[str, Family] = {}
        for number, (process, _) in enumerate(self._metrics.pages.read()):
            collector = ProcessCollector(pid=partial(int, process), registry=None)
            for each in collector.collect() if process else ():
                family = families.setdefault(
                    each.name, Family(each.name, each.documentation, each.type)
                )
                for sample in each.samples:
                    family.add_sample(sample.name, {"worker": str(number)}, sample.value)
        yield from families.values()


def _family(metric: Metric) -> Any:
    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return kinds[metric.kind](metric.name, metric.help, labels=metric.labels)


def _add(family: Any, metric: Metric, labels: tuple[str, ...], cells: list[float]) -> None:
    if not metric.buckets:
        family.add_metric(labels, cells[0])
        return
    total, buckets = 0.0, []
    for bound, count in zip((*metric.buckets, float("inf")), cells[1:], strict=True):
        total += count
        buckets.append((str(floatToGoString(bound)), total))  # type: ignore[no-untyped-call]
    family.add_metric(labels, buckets, cells[0])
