"""Builds metric families from plain values, by the catalogue's descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from zeitwork.metrics.catalogue import Kind, Metric

Labels = tuple[str, ...]


def family(metric: Metric, values: Mapping[Labels, float] | float) -> Family:
    """Return a counter or gauge family; a bare number is the value without labels."""
    if metric.kind is Kind.HISTOGRAM:
        raise ValueError(f"{metric.name} is a histogram")
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    result = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        result.add_metric(labels, value)
    return result


def histogram(metric: Metric, bounds: Iterable[float], values: Mapping[Labels, tuple[list[int], float]]) -> Family:
    """Return a histogram family. ``values`` hold a count for each bound, one for the rest, and the sum."""
    result = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    edges = [f"{bound:g}" for bound in bounds] + ["+Inf"]
    for labels, (counts, total) in values.items():
        buckets: list[tuple[str, float]] = []
        running = 0
        for edge, count in zip(edges, counts, strict=True):
            running += count
            buckets.append((edge, float(running)))
        result.add_metric(labels, buckets, total)
    return result
