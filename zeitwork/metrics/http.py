"""Requests of the control endpoint, counted as they end."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from zeitwork.metrics.catalogue import HTTP_REQUESTS, HTTP_SECONDS

#: From a cached read to a followed log; a histogram's sum needs no more.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: A client may send any word as a method; each would be a series of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Counts requests by route template, method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(HTTP_REQUESTS.name, HTTP_REQUESTS.help, HTTP_REQUESTS.labels, registry=registry)
        self._seconds = Histogram(
            HTTP_SECONDS.name, HTTP_SECONDS.help, HTTP_SECONDS.labels, buckets=_BUCKETS, registry=registry
        )

    def record(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)
