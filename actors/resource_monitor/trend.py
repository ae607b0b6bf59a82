"""How fast something grows, and when it will have grown too far: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

#: Seconds that the points must span: less says nothing about a trend.
LEAST_SPAN = 600.0
#: Seconds beyond which a forecast is none.
FARTHEST = 365 * 24 * 3600.0


def growth(points: Sequence[tuple[float, float]]) -> float | None:
    """Return how much the value grows each second, by least squares; ``points`` are (unix seconds, value) in order.

    None when they span less than `LEAST_SPAN`.
    """
    if len(points) < 2 or points[-1][0] - points[0][0] < LEAST_SPAN:
        return None
    # Relative to the first one: squares of unix seconds would eat the precision.
    begin = points[0][0]
    times, values = [at - begin for at, _ in points], [value for _, value in points]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    return sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / spread


def exhausted_in(free: float, slope: float | None) -> float | None:
    """Return the seconds until ``free`` is used up at ``slope`` a second, 0 when it is.

    None when it never will be as things go, when nobody knows, or when it takes longer than `FARTHEST`.
    """
    if free <= 0:
        return 0.0
    if slope is None or slope <= 0 or free / FARTHEST > slope:
        return None
    return free / slope
