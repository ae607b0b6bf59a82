"""What the store counts of its own work."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric as Family

from zeitwork.metrics import catalogue
from zeitwork.metrics.families import family, histogram
from zeitwork.store.metrics import BOUNDS, StoreMetrics


def families(metrics: StoreMetrics) -> Iterator[Family]:
    """Yield the families of the store's numbers as they are now."""
    yield family(catalogue.STORE_UNITS, {(name,): count for name, count in metrics.units.items()})
    yield family(catalogue.STORE_FAILURES, {(name,): metrics.failures[name] for name in metrics.units})
    yield histogram(
        catalogue.STORE_SECONDS,
        BOUNDS,
        {(name,): (list(seen.buckets), seen.total) for name, seen in metrics.seconds.items()},
    )
    yield family(catalogue.STORE_RETRIES, metrics.retries)
    yield family(catalogue.STORE_CANCELLED, metrics.cancelled)
    yield family(catalogue.STORE_UNKNOWN, metrics.unknown_outcomes)
    yield family(catalogue.STORE_REFUSED, metrics.refused)
    yield family(catalogue.STORE_CONNECTS, metrics.connects)
    yield family(catalogue.STORE_CONNECT_FAILURES, metrics.connect_failures)
    yield family(catalogue.STORE_NOTIFICATIONS, metrics.notifications)
    yield family(catalogue.STORE_RECONNECTS, metrics.listener_reconnects)
    yield family(catalogue.STORE_IN_FLIGHT, metrics.in_flight)
    yield family(catalogue.STORE_WAITING, metrics.waiting)
    yield family(catalogue.STORE_CONNECTIONS, metrics.connections)
    yield family(catalogue.STORE_LISTENING, metrics.listening)
    yield family(catalogue.STORE_SILENT, metrics.silent)
