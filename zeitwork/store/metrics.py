"""Counts of what the store did: plain numbers, for `/metrics` to read whenever it likes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

#: Upper bounds in seconds; longer ones are counted in one more bucket.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Histogram:
    """How long something took. ``buckets`` holds a count for each of `BOUNDS` (not cumulative) and one for the rest."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    count: int = 0
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.count += 1
        self.total += seconds


@dataclass(slots=True)
class StoreMetrics:
    """Numbers of one store. ``units``, ``failures`` and ``seconds`` are by name of the unit; all grow only, but the
    gauges ``in_flight`` (units being run), ``waiting`` (for a thread), ``connections``, and those that are 0 or 1:
    ``listening``, and ``silent`` while the database is known not to answer (``refused`` are units that failed so)."""

    units: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, Histogram] = field(default_factory=dict)
    retries: int = 0
    cancelled: int = 0
    unknown_outcomes: int = 0
    refused: int = 0
    connects: int = 0
    connect_failures: int = 0
    notifications: int = 0
    listener_reconnects: int = 0
    in_flight: int = 0
    waiting: int = 0
    connections: int = 0
    listening: int = 0
    silent: int = 0

    def finished(self, name: str, seconds: float, *, failed: bool) -> None:
        """Count a unit that ended."""
        self.units[name] += 1
        if failed:
            self.failures[name] += 1
        histogram = self.seconds.get(name)
        if histogram is None:
            histogram = self.seconds[name] = Histogram()
        histogram.observe(seconds)
